"""Normalise a picture file of any common format to what a shard contains: an upright RGB JPEG.

Formats are detected from content, not from file names. A picture that is already an upright JPEG
with three components keeps its bytes; all others are decoded and encoded again. TensorFlow can
decode every result.
"""

import contextlib
import functools
import importlib
import io
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from repot import bit_depth, file_formats, jpeg_structure
from repot.picture_result import MINIATURE_SIDE, Edges, Picture, RejectedPicture

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF")
"""Accepted formats, by Pillow's names. MPO, the multi-picture JPEG, is opened as JPEG."""

OPTIONAL_FORMATS = ("HEIF",)
"""Formats that are accepted if the optional dependencies of the extra `heif` are installed."""

MAX_PIXELS = 89_478_485
"""Pillow's own limit (1 GiB / 4 / 3); TensorFlow's decoder accepts twice as many."""
MAX_JPEG_PIXELS = 500_000_000
"""Limit for a JPEG. One above MAX_PIXELS is decoded at 1/2 or 1/4 of its width and height."""
MAX_SIDE = 65_500
"""The limit of libjpeg."""

# A JPEG is decoded at this length of its shorter side, or up to twice, for its miniature. Most
# pictures are then decoded at 1/8, which is the fastest, and edges remain sharp enough to measure.
_MIN_DRAFT_SIDE = 44
# A picture that is to be shown at a size has this share of it at least, unless it is smaller.
_MIN_SHOWN = 0.9
# Of Pillow's forty plug-ins, those of `FORMATS`.
_PLUGINS = ("Jpeg", "Png", "Gif", "Bmp", "WebP", "Tiff", "Avif", "Mpo")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PREFIX_BYTES = 16
_THUMBNAIL_QUALITY = 72
_SCALES = (1, 2, 4)
# Source: PNG specification, https://www.w3.org/TR/png-3/#11textinfo
_PNG_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_ORIENTATION_TAG = 0x0112
# Source: TIFF 6.0; DNG specification 1.7.
_NEW_SUBFILE_TYPE = 254
_SUB_IFDS = 330
_DNG_VERSION = 50706
# The operation that turns the stored pixels upright, by EXIF orientation.
# Source: CIPA DC-008, tag Orientation.
_UPRIGHT_OPERATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def normalise_picture(data: bytes, crop: Edges | None = None, *, max_side: int = 0) -> Picture:
    """Return the picture in a file, of any of `FORMATS`, as an upright RGB JPEG.

    An upright JPEG or MPO with three components and at most MAX_PIXELS keeps its bytes. Everything
    else is encoded as a JPEG of quality 100 without chroma subsampling: turned upright by its EXIF
    orientation, transparent pixels on white, samples of more than 8 bits scaled as
    `repot.bit_depth` states, only the first frame or page.

    Args:
        data: The file.
        crop: The part of the upright picture to return, rounded to whole pixels, at least one; it
            is always encoded again. None for the whole picture.
        max_side: Return a JPEG of at most this many pixels per side, to show it; 0 for its own
            size.

    Raises:
        RejectedPicture: The file is empty, not a picture, truncated, corrupt, too large, or of a
            format that is not accepted.
    """
    if not data:
        raise RejectedPicture("empty")
    if not crop and not max_side and (picture := _find_plain(data)):
        return picture
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about unusual metadata.
        try:
            return _normalise_any(data, crop, max_side)
        except (RejectedPicture, MemoryError):
            raise
        except Exception as err:
            # On damaged data, Pillow raises many types: SyntaxError, struct.error, IndexError.
            raise _rejection(data, err) from err


def _find_plain(data: bytes) -> Picture | None:
    """Return a JPEG that keeps its bytes; None unless that is certain without Pillow.

    It saves a tenth of the time. Without metadata, a JPEG is upright; with some, Pillow reads it.
    """
    plain = jpeg_structure.find_plain_rgb(data)
    if plain is None or plain.has_metadata:
        return None
    width, height = plain.width, plain.height
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        return None
    # As Pillow's draft mode does.
    ratio = min(width, height) // _MIN_DRAFT_SIDE
    scale = next(scale for scale in (8, 4, 2, 1) if scale <= max(1, ratio))
    reduced = _decode_strictly(data, -(-width // scale), -(-height // scale))
    if reduced is None:
        return None
    return Picture(
        jpeg=data,
        height=height,
        width=width,
        source_format="JPEG",
        miniature=_miniature(reduced, (width, height)),
    )


def _normalise_any(data: bytes, crop: Edges | None, max_side: int) -> Picture:
    try:
        return _normalise(data, crop, max_side)
    except ValueError:
        # Pillow refuses a PNG with more than 1 MiB of text or of a colour profile.
        if not data.startswith(_PNG_SIGNATURE):
            raise
        return _normalise(_without_metadata(data), crop, max_side)


def _normalise(data: bytes, crop: Edges | None, max_side: int) -> Picture:
    is_grey_alpha = bit_depth.is_deep_grey_alpha(data)
    with _open(bit_depth.as_four_channels(data) if is_grey_alpha else data) as image:
        is_deep_colour = bit_depth.is_deep_colour(image)  # reading metadata may load the pixels
        scale = _decoding_scale(image)
        if image.format == "TIFF" and _is_raw(image):
            raise _unsupported(*file_formats.RAW)
        if bit_depth.has_unreadable_planes(image):
            raise _unsupported(
                "planes of 16-bit CMYK samples", "Convert it to a TIFF of one plane or a PNG."
            )
        is_upright = _orientation(image) not in _UPRIGHT_OPERATIONS
        if not crop and scale == 1 and is_upright and jpeg_structure.is_plain_rgb(data):
            width, height = image.size
            if max_side:
                image.draft("RGB", _draft_size(image.size, max_side))
                return _encode(image.convert("RGB"), str(image.format), max_side)
            return Picture(
                jpeg=data,
                height=height,
                width=width,
                source_format=str(image.format),
                miniature=_miniature(_decode_reduced(image, data), (width, height)),
            )
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
        image.load()
        # Only now: some plug-ins, such as TIFF and AVIF, turn the picture themselves.
        operation = _UPRIGHT_OPERATIONS.get(_orientation(image))
        if is_grey_alpha:
            rgb = _to_rgb(bit_depth.grey_alpha_to_8_bits(image))
        elif is_deep_colour and bit_depth.has_low_range(image):
            rgb = _to_rgb(bit_depth.colour_to_8_bits(image, _low_bytes(data)))
        else:
            rgb = _to_rgb(image)
        upright = rgb if operation is None else rgb.transpose(operation)
        if crop:
            upright = upright.crop(_to_pixels(crop, upright.size))
        if image.format == "PNG":
            _check_png(data)
        return _encode(upright, str(image.format), max_side)


def _draft_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return at which size at least to decode a picture that is shown at `max_side` pixels.

    A little smaller is good enough: the next larger size takes twice the time.
    """
    share = _MIN_SHOWN * max_side / max(size)
    return max(1, int(size[0] * share)), max(1, int(size[1] * share))


def _decode_reduced(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """Decode a JPEG to its end, and return it reduced, in RGB.

    At a reduced size, libjpeg reads all entropy-coded data but computes only a few of the pixels.
    Both decoders give the same pixels. simplejpeg takes 10 % less time, and reports the slightest
    damage; what is to be accepted nevertheless, Pillow decides.
    """
    image.draft("RGB", (_MIN_DRAFT_SIDE, _MIN_DRAFT_SIDE))
    reduced = _decode_strictly(data, *image.size)
    if reduced is not None:
        return reduced
    image.load()
    return image


def _decode_strictly(data: bytes, width: int, height: int) -> Image.Image | None:
    """Decode a JPEG to its end with simplejpeg, at a reduced size, in RGB.

    Returns:
        The picture; None without simplejpeg, or if it warns of anything.
    """
    if decode_jpeg := _fast_decoder():
        with contextlib.suppress(ValueError):
            # pixels: uint8 [height, width, 3]
            pixels = decode_jpeg(data, "RGB", min_height=height, min_width=width, strict=True)
            if pixels.shape == (height, width, 3):
                return Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)
    return None


@functools.cache
def _fast_decoder() -> Callable[..., NDArray[np.uint8]] | None:
    """Return simplejpeg's decoder; None if it is not installed."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    return cast("Callable[..., NDArray[np.uint8]]", decode_jpeg)


def _to_pixels(edges: Edges, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the edges in pixels, at least one pixel apart, within a picture of this size."""
    left, top = (
        min(max(round(edge * side), 0), side - 1)
        for edge, side in zip(edges[:2], size, strict=True)
    )
    right, bottom = (
        min(max(round(edge * side), low + 1), side)
        for edge, side, low in zip(edges[2:], size, (left, top), strict=True)
    )
    return left, top, right, bottom


def _low_bytes(data: bytes) -> Image.Image:
    """Return the low byte of each sample of an RGB picture with 16 bits per sample."""
    image = _open(data)
    if not bit_depth.swap_byte_order(image):
        raise _unsupported(
            "compressed planes of 16-bit samples that use fewer bits",
            "Convert it to an uncompressed TIFF or a PNG.",
        )
    image.load()
    return image


def _open(data: bytes) -> ImageFile.ImageFile:
    """Open the picture with the first plug-in that accepts it.

    `Image.open` would hide why a plug-in cannot read the file, and limits the number of pixels
    before a JPEG can be reduced.

    Raises:
        SyntaxError: The header is damaged or of an unknown kind.
        RejectedPicture: No plug-in accepts the file.
    """
    if data[8:10] == b"CR" and (named := file_formats.name_format(data)):
        raise _unsupported(*named)  # Canon's raw file begins like a TIFF
    load_decoders()
    error: Exception | None = None
    prefix = data[:_PREFIX_BYTES]
    for name in (*FORMATS, *OPTIONAL_FORMATS):
        factory, accept = Image.OPEN.get(name, (None, None))
        # A plug-in whose library is missing returns a text.
        if factory is None or accept is None or accept(prefix) is not True:
            continue
        try:
            image = factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error) as err:
            error = error or err
            continue
        if name == "TIFF":
            bit_depth.correct_tiff_modes(image)
        return image
    if error:
        raise error
    named = file_formats.name_format(data)
    raise _unsupported(*named) if named else RejectedPicture("not_an_image")


@functools.cache
def load_decoders() -> None:
    """Register Pillow's plug-ins, and that of the optional dependency for HEIF, once per process.

    Other code may have loaded Pillow's own plug-ins already, without the modes and formats that
    are added here.
    """
    for name in _PLUGINS:
        importlib.import_module(f"PIL.{name}ImagePlugin")
    bit_depth.complete_tiff_modes()
    _fast_decoder()
    for module in ("pi_heif", "pillow_heif"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module).register_heif_opener()
            return


def _decoding_scale(image: Image.Image) -> int:
    """Return by how much a picture's sides are divided while it is decoded, of `_SCALES`.

    Raises:
        RejectedPicture: The picture is too large.
    """
    width, height = image.size
    is_jpeg = image.format in ("JPEG", "MPO")
    limit = MAX_JPEG_PIXELS if is_jpeg else MAX_PIXELS
    if width * height > limit or max(image.size) > MAX_SIDE:
        raise RejectedPicture(
            "too_large",
            f"{width} x {height} pixels; a JPEG may have {MAX_JPEG_PIXELS:,}, another picture "
            f"{MAX_PIXELS:,}, and a side {MAX_SIDE:,}",
        )
    # Rounded up, as libjpeg does.
    return next(
        scale for scale in (*_SCALES, 8) if -(-width // scale) * -(-height // scale) <= MAX_PIXELS
    )


def _is_raw(image: Image.Image) -> bool:
    """Return whether a TIFF is a camera's raw file; its first page is a thumbnail."""
    tags = cast("dict[int, Any]", getattr(image, "tag_v2", {}))
    is_thumbnail = bool(tags.get(_NEW_SUBFILE_TYPE, 0) & 1) and _SUB_IFDS in tags
    return is_thumbnail or _DNG_VERSION in tags


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (upright) if it is missing or unreadable."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 (a picture with damaged metadata is still usable)
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded picture to mode RGB: samples of 8 bits, transparent pixels on white."""
    if bit_depth.needs_scaling(image):
        grey = bit_depth.to_8_bits(image)
        if grey is None:
            raise _unsupported(
                "floating-point samples without a range",
                "Declare SMinSampleValue and SMaxSampleValue, or convert it to 16 bits.",
            )
        return grey.convert("RGB")
    if image.mode == "CMYK":
        # Rounded down, as TensorFlow and the 2016 programs do; Pillow rounds to the nearest.
        # light: uint16 [height, width, 4], 255 where a colour is absent
        light = 255 - np.asarray(image).astype(np.uint16)
        return Image.fromarray((light[..., :3] * light[..., 3:] // 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _miniature(image: Image.Image, size: tuple[int, int]) -> bytes:
    """Return a picture as uint8 [48, 48, 3], YCbCr.

    Args:
        image: The picture; it may be reduced by a whole factor.
        size: Its width and height before it was reduced.
    """
    factor = round(size[0] / image.width)
    if (further := min(image.size) // (2 * MINIATURE_SIDE)) > 1:
        image = image.reduce(further)  # faster than resizing
        factor *= further
    # The last column and row may stand for less than `factor` pixels. Without the box, the picture
    # would be stretched, and a dark line at its edge would become a black row.
    small = image.resize(
        (MINIATURE_SIDE, MINIATURE_SIDE),
        Image.Resampling.BILINEAR,
        box=(0, 0, size[0] / factor, size[1] / factor),
    )
    return (small if small.mode == "YCbCr" else small.convert("YCbCr")).tobytes()


def _check_png(data: bytes) -> None:
    """Verify the checksums of all chunks; decoding does not verify those of the pixel data."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _encode(image: Image.Image, source_format: str, max_side: int) -> Picture:
    """Return an upright RGB picture as a JPEG, reduced to `max_side` if it is not 0."""
    image.info = {}
    buffer = io.BytesIO()
    if max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY)
    else:
        image.save(buffer, "JPEG", quality=100, subsampling=0)
    return Picture(
        jpeg=buffer.getvalue(),
        height=image.height,
        width=image.width,
        source_format=source_format,
        miniature=_miniature(image, image.size),
    )


def _without_metadata(png: bytes) -> bytes:
    """Return a PNG without its texts and colour profile, none of which changes a pixel.

    EXIF data has a chunk of its own and stays. An orientation that only a text states is lost.
    """
    return _PNG_SIGNATURE + b"".join(
        chunk for kind, chunk in _png_chunks(png) if kind not in _PNG_METADATA
    )


def _png_chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type and all bytes of each chunk; the last one may be incomplete."""
    position = len(_PNG_SIGNATURE)
    while position < len(png):
        end = position + 12 + int.from_bytes(png[position : position + 4], "big")
        yield png[position + 4 : position + 8], png[position:end]
        position = end


def _unsupported(name: str, advice: str) -> RejectedPicture:
    return RejectedPicture("unsupported_format", f"{name}. {advice}".removesuffix("."))


def _rejection(data: bytes, err: Exception) -> RejectedPicture:
    """Return the rejection for a decoder error."""
    message = f"{err}" or type(err).__name__
    if coding := jpeg_structure.name_rare_coding(data):
        return _unsupported(f"a JPEG with {coding}", "Convert it to an 8-bit JPEG or a PNG.")
    if coding := file_formats.name_rare_tiff(data):
        return _unsupported(f"a TIFF with {coding}", "Convert it to an uncompressed TIFF or a PNG.")
    if "unknown pixel mode" in message or "not supported" in message:
        kind = f"a kind of pixels that Pillow does not read ({message})"
        return _unsupported(kind, "Convert it to JPEG or PNG.")
    named = file_formats.name_format(data)
    # Pillow's plug-in for AVIF also opens some HEIC files, and fails.
    is_damaged = named == file_formats.AVIF or (named == file_formats.HEIC and "HEIF" in Image.OPEN)
    if named and not is_damaged:
        return _unsupported(*named)
    if isinstance(err, SyntaxError):
        message = "the header cannot be read"
    is_truncated = isinstance(err, EOFError) or "truncated" in message.lower()
    return RejectedPicture("truncated" if is_truncated else "corrupt", message)
