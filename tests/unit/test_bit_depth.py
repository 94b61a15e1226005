"""Samples of more than 8 bits: files made by hand, because Pillow writes few kinds."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repot.picture_result import RejectedPicture
from repot.pictures import normalise_picture

II, MM = "<", ">"
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
_KINDS = {"u": UNSIGNED, "i": SIGNED, "f": FLOAT}
RAMP = np.arange(256)


def _ramp(low: float, high: float, kind: str) -> np.ndarray[Any, Any]:
    """Return samples [16, 256] of a NumPy type that rise evenly from left to right."""
    return np.linspace(low, high, 256).astype(kind)[None].repeat(16, axis=0)


def _tiff(
    samples: np.ndarray[Any, Any],
    order: str,
    tags: Mapping[int, float] | None = None,
    *,
    compressed: bool = False,
    photometric: int = 1,
) -> bytes:
    """Return a TIFF of one strip, with whole numbers or floats as values of further tags."""
    height, width = samples.shape
    content = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    if compressed:
        content = zlib.compress(content)
    values = {256: width, 257: height, 258: samples.itemsize * 8, 262: photometric}
    values |= {259: 8 if compressed else 1, 273: 0, 277: 1, 278: height, 279: len(content)}
    values |= {339: _KINDS[samples.dtype.kind], **(tags or {})}
    values[273] = 8 + 2 + 12 * len(values) + 4
    entries = b"".join(
        struct.pack(f"{order}HHIf", tag, 11, 1, value)
        if isinstance(value, float)
        else struct.pack(f"{order}HHII", tag, 4, 1, value)
        for tag, value in sorted(values.items())
    )
    header = (b"II*\0" if order == II else b"MM\0*") + struct.pack(f"{order}IH", 8, len(values))
    return header + entries + bytes(4) + content


def _row(data: bytes) -> np.ndarray[Any, Any]:
    """Return the middle row of the normalised picture, int64 [width]."""
    with Image.open(io.BytesIO(normalise_picture(data).jpeg)) as image:
        pixels = np.asarray(image).astype(int)
    assert (pixels.max(axis=2) == pixels.min(axis=2)).all()
    return pixels[8, :, 0]


@pytest.mark.parametrize("order", [II, MM])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        pytest.param("u2", 0, 4095, id="12 bits in 16"),
        pytest.param("u2", 0, 65535, id="full 16"),
        pytest.param("u4", 0, 255, id="8 bits in 32"),
        pytest.param("u4", 0, 2**17 - 1, id="17 bits in 32"),
        pytest.param("u4", 0, 2**32 - 1, id="full 32"),
        pytest.param("i1", -128, 127, id="signed 8"),
        pytest.param("i2", -1000, 3000, id="signed 16"),
        pytest.param("i2", 0, 4095, id="signed 16 without negative samples"),
        pytest.param("i4", -(2**31), 2**31 - 1, id="signed 32"),
        pytest.param("i4", -(2**31), -(2**31) + 255, id="narrow range far from 0"),
    ],
)
def test_tiff_uses_all_greys(
    *, order: str, compressed: bool, photometric: int, kind: str, low: float, high: float
) -> None:
    data = _tiff(_ramp(low, high, kind), order, compressed=compressed, photometric=photometric)
    expected = RAMP if photometric else RAMP[::-1]
    assert np.abs(_row(data) - expected).max() <= 2


@pytest.mark.parametrize("high", [255, 1023, 4095, 16383, 65535])
def test_16_bit_png_is_scaled_by_the_bits_that_it_uses(high: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(_ramp(0, high, "u2")).save(buffer, "PNG")
    assert np.abs(_row(buffer.getvalue()) - RAMP).max() <= 2


@pytest.mark.parametrize(
    ("high", "white"), [(1023, 1023), (1024, 4095), (4096, 16383), (16384, 65535), (200, 255)]
)
def test_brightest_grey_depends_on_the_number_of_bits(high: int, white: int) -> None:
    row = _row(_tiff(_ramp(0, high, "u2"), II))
    assert abs(int(row[-1]) - round(255 * high / white)) <= 1


@pytest.mark.parametrize("tags", [{340: 1000, 341: 2000}, {280: 1000, 281: 2000}])
def test_declared_range_wins(tags: Mapping[int, float]) -> None:
    row = _row(_tiff(_ramp(1250, 1750, "u2"), II, tags))
    assert abs(int(row[0]) - 64) <= 2
    assert abs(int(row[-1]) - 191) <= 2


def test_declared_range_that_a_sample_exceeds_is_ignored() -> None:
    row = _row(_tiff(_ramp(0, 4095, "u2"), II, {280: 0, 281: 255}))
    assert np.abs(row - RAMP).max() <= 2


def test_12_bits_per_sample_are_a_declared_range() -> None:
    # Two samples in three bytes: 0x200, 0x400.
    packed = np.tile(np.array([0x20, 0x04, 0x00], np.uint8), (16, 8))
    data = _tiff(packed, II, {256: 16, 258: 12})
    assert np.abs(_row(data) - np.tile([32, 64], 8)).max() <= 2


@pytest.mark.parametrize("order", [II, MM])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_floats_need_a_declared_range(order: str, kind: str) -> None:
    samples = _ramp(-0.5, 1.5, kind)
    with pytest.raises(RejectedPicture, match="floating-point samples without a range"):
        normalise_picture(_tiff(samples, order))
    row = _row(_tiff(samples, order, {340: -0.5, 341: 1.5}))
    assert np.abs(row - RAMP).max() <= 2


def test_samples_that_are_not_numbers_are_black() -> None:
    samples = _ramp(0, 1, "f4")
    samples[:, :64] = np.nan
    assert _row(_tiff(samples, II, {340: 0.0, 341: 1.0}))[:56].max() <= 2


@pytest.mark.parametrize(("sample", "grey"), [(0, 0), (7, 7), (4095, 255), (-5, 0)])
def test_picture_of_one_grey(sample: int, grey: int) -> None:
    row = _row(_tiff(np.full((16, 256), sample, "i2"), II))
    assert np.abs(row - grey).max() <= 1


def test_transparent_grey_of_a_16_bit_png_becomes_white() -> None:
    samples = _ramp(0, 65535, "u2")
    samples[:, :128] = 500
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "PNG", transparency=500)
    assert _row(buffer.getvalue())[:120].min() >= 253


def _deep_png(samples: np.ndarray[Any, Any], colour_type: int, transparent: bytes = b"") -> bytes:
    """Return a PNG with 16 bits per sample, [height, width, channels]; Pillow cannot write it."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2").reshape(height, -1)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)}
    if transparent:
        chunks[b"tRNS"] = transparent
    chunks |= {b"IDAT": zlib.compress(pixels), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks.items()
    )


def _grey_alpha_png(grey: np.ndarray[Any, Any], alpha: np.ndarray[Any, Any]) -> bytes:
    return _deep_png(np.stack([grey, alpha], axis=-1), 4)


@pytest.mark.parametrize("high", [255, 4095, 65535])
def test_16_bit_grey_with_alpha_is_scaled_and_put_on_white(high: int) -> None:
    alpha = np.full((16, 256), high)
    assert np.abs(_row(_grey_alpha_png(_ramp(0, high, "i4"), alpha)) - RAMP).max() <= 2
    alpha[:, :64] = 0
    row = _row(_grey_alpha_png(_ramp(0, high, "i4"), alpha))
    assert row[:56].min() >= 253
    assert np.abs(row[72:] - RAMP[72:]).max() <= 2


def test_damaged_16_bit_grey_with_alpha_is_rejected() -> None:
    png = bytearray(_grey_alpha_png(_ramp(0, 65535, "i4"), _ramp(0, 65535, "i4")))
    png[60] ^= 0xFF
    with pytest.raises(RejectedPicture):
        normalise_picture(bytes(png))
    with pytest.raises(RejectedPicture):
        normalise_picture(bytes(png[:40]))


def _colours(high: int) -> np.ndarray[Any, Any]:
    """Return RGB samples [16, 256, 3]: red rises to `high`, green falls, blue is dark."""
    ramp = _ramp(0, high, "u2")
    return np.stack([ramp, ramp[:, ::-1], ramp // 8], axis=-1)


def _rgb(data: bytes) -> np.ndarray[Any, Any]:
    """Return the middle row of the normalised picture, int64 [width, 3]."""
    with Image.open(io.BytesIO(normalise_picture(data).jpeg)) as image:
        row: np.ndarray[Any, Any] = np.asarray(image).astype(int)[8]
    return row


RGB_RAMP = np.stack([RAMP, RAMP[::-1], RAMP // 8], axis=-1)


def _rgb_tiff(
    samples: np.ndarray[Any, Any],
    order: str,
    *,
    compressed: bool = False,
    planes: bool = False,
    tags: Mapping[int, float] | None = None,
) -> bytes:
    """Return a TIFF of samples [height, width, 3 or 4], one strip or one per colour."""
    height, width, num_channels = samples.shape
    parts = [samples[..., channel] for channel in range(num_channels)] if planes else [samples]
    strips = [part.astype(f"{order}u2").tobytes() for part in parts]
    if compressed:
        strips = [zlib.compress(strip) for strip in strips]
    numbers: dict[int, list[int]] = {256: [width], 257: [height], 258: [16] * num_channels}
    numbers |= {259: [8 if compressed else 1], 262: [2 if num_channels == 3 else 5]}
    numbers |= {273: [0] * len(strips), 277: [num_channels], 278: [height]}
    numbers |= {279: [len(strip) for strip in strips], 284: [2 if planes else 1]}
    numbers |= {tag: [int(value)] for tag, value in (tags or {}).items()}
    position = (
        8
        + 2
        + 12 * len(numbers)
        + 4
        + sum(4 * len(values) for values in numbers.values() if len(values) > 1)
    )
    for number, strip in enumerate(strips):
        numbers[273][number] = position
        position += len(strip)
    entries, extra = b"", b""
    for tag, values in sorted(numbers.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        entries += struct.pack(f"{order}HHI", tag, 4, len(values))
        if len(values) == 1:
            entries += packed
        else:
            entries += struct.pack(f"{order}I", 8 + 2 + 12 * len(numbers) + 4 + len(extra))
            extra += packed
    header = (b"II*\0" if order == II else b"MM\0*") + struct.pack(f"{order}IH", 8, len(numbers))
    return header + entries + bytes(4) + extra + b"".join(strips)


@pytest.mark.parametrize("high", [255, 1023, 4095, 16383, 65535])
def test_16_bit_rgb_png_is_scaled_by_the_bits_that_it_uses(high: int) -> None:
    assert np.abs(_rgb(_deep_png(_colours(high), 2)) - RGB_RAMP).max() <= 3
    opaque = np.full((16, 256, 1), high)
    with_alpha = _deep_png(np.concatenate([_colours(high), opaque], axis=2), 6)
    assert np.abs(_rgb(with_alpha) - RGB_RAMP).max() <= 3


@pytest.mark.parametrize("order", [II, MM])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("high", [4095, 65535])
def test_16_bit_rgb_tiff_is_scaled_by_the_bits_that_it_uses(
    *, order: str, compressed: bool, planes: bool, high: int
) -> None:
    data = _rgb_tiff(_colours(high), order, compressed=compressed, planes=planes)
    if compressed and planes and high < 65535:
        with pytest.raises(RejectedPicture, match="Convert it to an uncompressed TIFF or a PNG"):
            normalise_picture(data)
        return
    assert np.abs(_rgb(data) - RGB_RAMP).max() <= 3


@pytest.mark.parametrize("order", [II, MM])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("high", [255, 4095, 16383, 65535])
def test_16_bit_cmyk_tiff_is_scaled_by_the_bits_that_it_uses(
    *, order: str, compressed: bool, high: int
) -> None:
    black = np.full((16, 256, 1), high // 4)
    data = _rgb_tiff(np.concatenate([_colours(high), black], axis=2), order, compressed=compressed)

    assert np.abs(_rgb(data) - (255 - RGB_RAMP) * 3 // 4).max() <= 3


@pytest.mark.parametrize("compressed", [False, True])
def test_planes_of_16_bit_cmyk_are_rejected(*, compressed: bool) -> None:
    samples = np.concatenate([_colours(65535), np.zeros((16, 256, 1), int)], axis=2)

    with pytest.raises(RejectedPicture, match="Convert it to a TIFF of one plane or a PNG"):
        normalise_picture(_rgb_tiff(samples, II, compressed=compressed, planes=True))


def test_dark_rgb_tiff_with_a_declared_range_stays_dark() -> None:
    data = _rgb_tiff(_colours(4095), II, tags={280: 0, 281: 65535})
    assert np.abs(_rgb(data) - RGB_RAMP // 16).max() <= 3


def test_transparent_colour_of_16_bits_becomes_white() -> None:
    samples = np.full((16, 256, 3), [0x1234, 0x5678, 0xF0F1])
    samples[:, 128:] = [0x1235, 0x5678, 0xF0F1]
    row = _rgb(_deep_png(samples, 2, struct.pack(">HHH", 0x1234, 0x5678, 0xF0F1)))
    assert row[:120].min() >= 253
    assert np.abs(row[136:] - [0x12, 0x56, 0xF0]).max() <= 3


def test_deep_tiffs_are_read_after_other_code_has_loaded_the_plugins(tmp_path: Path) -> None:
    # Pillow alone does not know signed samples of 8 bits.
    (tmp_path / "deep.tif").write_bytes(_tiff(_ramp(-100, 100, "i1"), MM))
    program = (
        "import sys; from pathlib import Path; from PIL import Image; Image.init();"
        "from repot.pictures import normalise_picture;"
        "print(normalise_picture(Path(sys.argv[1]).read_bytes()).width)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "deep.tif")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == len(RAMP)
