"""Scale the samples of a picture of more than 8 bits to 8 bits.

Black and white are the ends of the samples' range. The range of greyscale is, in this order:

1. the one that a TIFF declares: SMinSampleValue to SMaxSampleValue, or MinSampleValue to
   MaxSampleValue, unless an integer sample lies outside;
2. for a TIFF whose BitsPerSample is not 8, 16 or 32: 0 to 2^BitsPerSample - 1;
3. for integers without a negative sample: 0 to 2^n - 1, with the smallest n of `DEPTHS` that holds
   the largest sample, because cameras and scanners store 10, 12 or 14 bits in 16;
4. for integers with a negative sample: the smallest to the largest sample.

Floating-point samples without a declared range have none. RGB and CMYK with 16 bits per sample
follow rules 1 and 3: all colours share one range, alpha has its own.

Source of the tags: TIFF 6.0, https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
"""

import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

DEPTHS = (8, 10, 12, 14, *range(16, 33))
"""Bits per sample: up to 16, those of cameras and scanners."""

RULE = (
    "Samples of more than 8 bits are scaled by the range that a TIFF declares, else by the "
    "smallest number of bits (8, 10, 12, 14, 16 or more) that holds the picture's largest sample; "
    "if there are negative samples, by the smallest and the largest one."
)
"""The rule as text, for the report."""

_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_PLANAR_CONFIGURATION = 284
_SEPARATE_PLANES = 2
_RANGE_TAGS = ((340, 341), (280, 281))
_SAMPLE_FORMAT = 339
_SIGNED = 2
_WHITE_IS_ZERO = 0
_BLACK_IS_ZERO = 1

# Pillow's modes and raw modes of greyscale TIFFs by byte order, SampleFormat and BitsPerSample.
_TIFF_MODES = {
    (b"II", 1, 16): ("I;16", "I;16"),
    (b"II", 2, 8): ("L", "L"),
    (b"II", 2, 16): ("I", "I;16S"),
    (b"II", 1, 32): ("I", "I;32"),
    (b"II", 2, 32): ("I", "I;32S"),
    (b"II", 3, 32): ("F", "F;32F"),
    (b"II", 3, 64): ("F", "F;64F"),
    (b"MM", 1, 16): ("I;16B", "I;16B"),
    (b"MM", 2, 8): ("L", "L"),
    (b"MM", 2, 16): ("I", "I;16BS"),
    (b"MM", 1, 32): ("I", "I;32B"),
    (b"MM", 2, 32): ("I", "I;32BS"),
    (b"MM", 3, 32): ("F", "F;32BF"),
    (b"MM", 3, 64): ("F", "F;64BF"),
}
# Raw modes of samples that libtiff has already brought into the byte order of this machine.
_NATIVE_RAW_MODES = {
    "I;16BS": "I;16NS",
    "I;32B": "I;32N",
    "I;32BS": "I;32NS",
    "F;32BF": "F;32NF",
    "F;64BF": "F;64NF",
}

# Raw modes of colours with 16 bits per sample, except for the last letter, which is the byte order.
# Pillow returns the high byte of each sample, and the low byte if the byte order is swapped.
_DEEP_COLOUR_MODES = {
    f"{channels};16" for channels in ("RGB", "RGBX", "RGBA", "R", "G", "B", "A", "CMYK")
}
_SWAPPED_ORDERS = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}

# Beginning of a PNG's header chunk, behind the signature; bit depth and colour type in it.
_PNG_HEADER_START = b"\0\0\0\x0dIHDR"
_GREY_ALPHA_16 = bytes([16, 4])
_RGBA_8 = bytes([8, 6])

_Samples = NDArray[Any]


def complete_tiff_modes() -> None:
    """Make Pillow read every byte order and photometric interpretation of greyscale TIFFs.

    Its table lacks about half of them; the picture would be rejected as damaged.
    """
    for (order, sample_format, bits), modes in _TIFF_MODES.items():
        for photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
            key = (order, photometric, (sample_format,), 1, (bits,), ())
            TiffImagePlugin.OPEN_INFO.setdefault(key, modes)


def correct_tiff_modes(image: ImageFile.ImageFile) -> None:
    """Correct the raw modes of an opened TIFF.

    Pillow assumes another byte order for compressed samples of 32 or 64 bits, and 8 bits for
    uncompressed planes of 16 bits.
    """
    tags = _tags(image)
    is_separate = tags.get(_PLANAR_CONFIGURATION) == _SEPARATE_PLANES
    if is_separate and _tag(tags, _BITS_PER_SAMPLE, 8) == 16:
        order = "B" if getattr(tags, "prefix", b"II") == b"MM" else "L"
        planes = {channel: f"{channel};16{order}" for channel in "RGBA"}
    else:
        planes = {}

    def correct(codec: str, raw_mode: str) -> str:
        return (_NATIVE_RAW_MODES if codec == "libtiff" else planes).get(raw_mode, raw_mode)

    _replace_raw_modes(image, correct)


def has_unreadable_planes(image: Image.Image) -> bool:
    """Return whether an opened TIFF has a plane of 16 bits per ink, which Pillow takes for 8."""
    tags = _tags(image)
    is_separate = tags.get(_PLANAR_CONFIGURATION) == _SEPARATE_PLANES
    return image.mode == "CMYK" and is_separate and _tag(tags, _BITS_PER_SAMPLE, 8) == 16


def is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Return whether an opened, not yet loaded picture is RGB or CMYK of 16 bits per sample."""
    return bool(image.tile) and all(
        _raw_mode(tile)[:-1] in _DEEP_COLOUR_MODES for tile in image.tile
    )


def has_low_range(image: Image.Image) -> bool:
    """Return whether a loaded picture of `is_deep_colour` is more than its high bytes.

    That is so if the samples do not use all 16 bits, or if a colour of 16 bits is transparent.
    """
    # 14 bits leave 6 for the high byte.
    is_low = [band.max() < 2**6 for band in _colour_and_alpha(np.asarray(image), image.mode)]
    return any(is_low) or "transparency" in image.info or _declared_range(_tags(image)) is not None


def swap_byte_order(image: ImageFile.ImageFile) -> bool:
    """Make an opened picture of `is_deep_colour` return the low byte of each sample.

    Returns:
        Whether that is possible. For compressed planes, Pillow uses raw modes of its own.
    """
    is_separate = _tags(image).get(_PLANAR_CONFIGURATION) == _SEPARATE_PLANES
    if is_separate and image.tile[0].codec_name == "libtiff":
        return False
    _replace_raw_modes(image, lambda _, raw_mode: raw_mode[:-1] + _SWAPPED_ORDERS[raw_mode[-1]])
    return True


def colour_to_8_bits(high: Image.Image, low: Image.Image) -> Image.Image:
    """Return a picture of `has_low_range` as mode RGB, RGBA or CMYK.

    Args:
        high: Loaded as it is.
        low: The same, loaded after `swap_byte_order`.
    """
    # samples: uint16 [height, width, 3 or 4]
    samples = np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
    declared = _declared_range(_tags(high))
    colour, *alpha = _colour_and_alpha(samples, high.mode)
    if declared and declared[0] <= colour.min() and colour.max() <= declared[1]:
        scaled = _scale(colour, *declared)
    else:
        scaled = _scale_by_depth(colour)
    scaled = np.concatenate([scaled, *map(_scale_by_depth, alpha)], axis=2)
    transparent = high.info.get("transparency")
    if isinstance(transparent, tuple):
        scaled[(samples == transparent).all(axis=2)] = 255
    bands = [Image.fromarray(scaled[..., channel]) for channel in range(scaled.shape[2])]
    return Image.merge(high.mode, bands)


def _colour_and_alpha(samples: _Samples, mode: str) -> list[_Samples]:
    """Split samples [height, width, channels] into those of the colours and, if any, of alpha."""
    if mode == "CMYK":
        return [samples]
    return [band for band in (samples[..., :3], samples[..., 3:]) if band.size]


def _scale_by_depth(samples: _Samples) -> NDArray[np.uint8]:
    """Return uint16 samples as uint8; if they use all 16 bits, their high bytes, as Pillow does."""
    largest = _largest_of_depth(int(samples.max()))
    if largest == 2**16 - 1:
        return (samples >> 8).astype(np.uint8)
    return _scale(samples, 0, largest)


def _raw_mode(tile: Any) -> str:
    """Return the raw mode of a tile, the only argument of its decoder or the first one."""
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def _replace_raw_modes(image: ImageFile.ImageFile, replace: Callable[[str, str], str]) -> None:
    """Replace raw modes; `replace` gets the name of the codec and the raw mode."""
    image.tile = [
        tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode)
        for tile in image.tile
        for mode in [replace(tile.codec_name, _raw_mode(tile))]
    ]


def needs_scaling(image: Image.Image) -> bool:
    """Return whether a picture's samples are not the 8-bit numbers that Pillow takes them for."""
    return image.mode.startswith(("I", "F")) or (
        image.mode == "L" and _tag(_tags(image), _SAMPLE_FORMAT, 1) == _SIGNED
    )


def to_8_bits(image: Image.Image) -> Image.Image | None:
    """Return a loaded picture for which `needs_scaling` holds as mode L; None without a range.

    The transparent grey of a PNG becomes white.
    """
    tags = _tags(image)
    samples = _samples(image, tags)
    limits = _range(samples, tags)
    if limits is None:
        return None
    low, high = limits
    grey = _scale(samples, low, high)
    if _tag(tags, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO:
        np.subtract(255, grey, out=grey)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    return Image.fromarray(grey)


def is_deep_grey_alpha(data: bytes) -> bool:
    """Return whether a file is a PNG with 16-bit greyscale and alpha, which Pillow cuts to 8."""
    return data.startswith(_PNG_HEADER_START, 8) and data[24:26] == _GREY_ALPHA_16


def as_four_channels(png: bytes) -> bytes:
    """Return a PNG with 16-bit greyscale and alpha as one with four channels of 8 bits.

    Both have four bytes per pixel and the same filters, so that only the header differs. The
    channels are the high and the low byte of grey, then those of alpha.
    """
    header = png[12:24] + _RGBA_8 + png[26:29]
    return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]


def grey_alpha_to_8_bits(image: Image.Image) -> Image.Image:
    """Return a loaded picture of `as_four_channels` as mode LA, both channels scaled alike."""
    # channels: uint16 [height, width, 2], big-endian as in the file
    channels = np.ascontiguousarray(np.asarray(image)).view(">u2")
    bands = [channels[..., 0], channels[..., 1]]
    scaled = [_scale(band, 0, _largest_of_depth(int(band.max()))) for band in bands]
    return Image.merge("LA", [Image.fromarray(band) for band in scaled])


def _scale(samples: _Samples, low: float, high: float) -> NDArray[np.uint8]:
    """Return samples as uint8 of the same shape, `low` as 0 and `high` as 255."""
    # grey: float [height, width]; float32 is exact for integers of up to 24 bits
    is_exact = max(abs(low), abs(high)) < 2**24
    grey: NDArray[Any] = samples.astype(np.float32 if is_exact else np.float64)
    grey -= low
    grey *= 255 / (high - low or 1)
    np.nan_to_num(grey, copy=False)
    np.clip(grey, 0, 255, out=grey)
    np.rint(grey, out=grey)
    return grey.astype(np.uint8)


def _samples(image: Image.Image, tags: Mapping[int, Any]) -> _Samples:
    """Return the samples [height, width] with the type that the file gives them."""
    samples = np.asarray(image)
    sample_format = _tag(tags, _SAMPLE_FORMAT, 1)
    if image.mode == "L":
        return samples.view(np.int8)
    if image.mode == "I" and sample_format == 1 and _tag(tags, _BITS_PER_SAMPLE, 0) == 32:
        return samples.view(np.uint32)
    return samples


def _range(samples: _Samples, tags: Mapping[int, Any]) -> tuple[float, float] | None:
    """Return the samples that become black and white; None if they are unknown."""
    is_float = np.issubdtype(samples.dtype, np.floating)
    declared = _declared_range(tags)
    if is_float:
        return declared
    smallest, largest = int(samples.min()), int(samples.max())
    if declared and declared[0] <= smallest and largest <= declared[1]:
        return declared
    bits = _tag(tags, _BITS_PER_SAMPLE, 16)
    if bits not in (8, 16, 32):
        return 0, 2**bits - 1
    if smallest < 0:
        return smallest, largest
    return 0, _largest_of_depth(largest)


def _largest_of_depth(sample: int) -> int:
    """Return the largest sample of the smallest depth that holds `sample`."""
    return int(next(2**depth - 1 for depth in DEPTHS if sample < 2**depth))


def _declared_range(tags: Mapping[int, Any]) -> tuple[float, float] | None:
    for low_tag, high_tag in _RANGE_TAGS:
        low, high = float(_tag(tags, low_tag, 0)), float(_tag(tags, high_tag, 0))
        if low < high < float("inf"):
            return low, high
    return None


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of a TIFF; empty for other formats."""
    return getattr(image, "tag_v2", {})


def _tag(tags: Mapping[int, Any], tag: int, default: int) -> Any:
    """Return a tag's value for the first sample of a pixel."""
    value = tags.get(tag, default)
    return value[0] if isinstance(value, tuple) and value else value
