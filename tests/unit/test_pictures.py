import base64
import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repot import jpeg_structure, picture_result, pictures
from repot.picture_result import RejectedPicture
from repot.pictures import normalise_picture

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden" / "build_image_data" / "data"
DIRTY = TESTS / "golden" / "build_image_data_dirty" / "data" / "train"


def _gradient(mode: str = "RGB", size: tuple[int, int] = (80, 60)) -> Image.Image:
    bands = [
        Image.linear_gradient("L"),
        Image.radial_gradient("L"),
        Image.linear_gradient("L").rotate(90),
    ]
    return Image.merge("RGB", bands).resize(size).convert(mode)


def _bytes(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _pixels(jpeg: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image).astype(int)


def _rejection(data: bytes) -> RejectedPicture:
    with pytest.raises(RejectedPicture) as caught:
        normalise_picture(data)
    return caught.value


def _reason(data: bytes) -> str:
    return _rejection(data).reason


def _damaged(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yield copies of a file: cut near the end, cut anywhere, and with changed bytes."""
    draw = random.Random(seed)
    yield from (data[: len(data) - cut] for cut in range(1, 20))
    for _ in range(count):
        yield data[: draw.randrange(len(data))]
        copy = bytearray(data)
        for _ in range(draw.choice((1, 1, 3, 10))):
            copy[draw.randrange(len(copy))] = draw.randrange(256)
        yield bytes(copy)
        # A marker inside the entropy-coded data, where a decoder may stop.
        copy = bytearray(data)
        copy[draw.randrange(len(copy))] = 0xFF
        yield bytes(copy)


@pytest.mark.parametrize("progressive", [False, True])
def test_upright_rgb_jpeg_keeps_its_bytes(progressive: bool) -> None:
    data = _bytes(_gradient(), "JPEG", progressive=progressive, exif=_exif(1))
    result = normalise_picture(data)
    assert (result.jpeg, result.height, result.width) == (data, 60, 80)


def test_multi_picture_jpeg_keeps_its_bytes() -> None:
    data = _bytes(_gradient(), "MPO", save_all=True, append_images=[_gradient(size=(40, 30))])
    result = normalise_picture(data)
    assert (result.jpeg, result.height, result.width) == (data, 60, 80)
    assert result.source_format == "MPO"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"])
def test_miniature_is_the_upright_picture_of_any_format(file_format: str) -> None:
    # Left half dark, right half bright red; stored lying on its side where EXIF data can say so.
    picture = Image.new("RGB", (400, 300), (20, 20, 20))
    picture.paste((230, 60, 60), (200, 0, 400, 300))
    result = normalise_picture(_bytes(picture, file_format))
    assert result.source_format == file_format
    # miniature: uint8 [48, 48, 3], YCbCr
    miniature = np.frombuffer(result.miniature, np.uint8).reshape(48, 48, 3).astype(int)
    expected = np.asarray(picture.resize((48, 48), Image.Resampling.BILINEAR).convert("YCbCr"))
    assert np.abs(miniature - expected)[:, [*range(21), *range(27, 48)]].max() <= 8


@pytest.mark.parametrize("size", [(512, 512), (500, 375), (259, 130), (97, 1000)])
def test_narrow_line_at_the_edge_is_narrow_in_the_miniature(size: tuple[int, int]) -> None:
    # Less than one pixel of the miniature: it must not become a whole black row.
    picture = Image.new("RGB", size, (200, 200, 200))
    picture.paste((0, 0, 0), (0, size[1] - 1, size[0], size[1]))
    miniature = normalise_picture(_bytes(picture, "PNG")).miniature
    rows = np.frombuffer(miniature, np.uint8).reshape(48, 48, 3)[..., 0].mean(axis=1)
    share = 48 / size[1]
    assert rows[:-3] == pytest.approx(200, abs=4)
    # The filter spreads some of the line over the rows before.
    assert (200 - rows).sum() == pytest.approx(200 * share, abs=200 * share / 3)


def test_miniature_of_a_turned_picture_is_upright() -> None:
    upright = normalise_picture(_bytes(_gradient(size=(300, 200)), "JPEG", quality=95))
    turned = _bytes(
        _gradient(size=(300, 200)).transpose(Image.Transpose.ROTATE_90),
        "JPEG",
        quality=95,
        exif=_exif(6),
    )
    first, second = (
        np.frombuffer(data, np.uint8).astype(int)
        for data in (upright.miniature, normalise_picture(turned).miniature)
    )
    assert np.abs(first - second).max() <= 8


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (47, 48), (49, 3000)])
def test_every_size_has_a_miniature(size: tuple[int, int]) -> None:
    assert len(normalise_picture(_bytes(_gradient(size=size), "PNG")).miniature) == 48 * 48 * 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("AVIF", {"quality": 100}),
    ],
)
def test_rotated_picture_becomes_upright(
    file_format: str, options: dict[str, Any], orientation: int
) -> None:
    upright = _gradient()
    turns = {
        1: None,
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # The operation that turns the upright picture into the stored one.
    turn = turns[orientation]
    stored = upright if turn is None else upright.transpose(Image.Transpose(turn))
    picture = normalise_picture(_bytes(stored, file_format, exif=_exif(orientation), **options))
    assert (picture.height, picture.width) == (60, 80)
    assert np.abs(_pixels(picture.jpeg) - np.asarray(upright)).mean() <= 2
    assert normalise_picture(picture.jpeg).jpeg == picture.jpeg


def test_unknown_orientation_is_ignored() -> None:
    data = _bytes(_gradient(), "JPEG", exif=_exif(9))
    assert normalise_picture(data).jpeg == data


def test_damaged_exif_is_ignored() -> None:
    data = _bytes(_gradient(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert normalise_picture(data).jpeg == data


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("1", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("RGB", "BMP"),
        ("RGB", "TIFF"),
        ("CMYK", "TIFF"),
    ],
)
def test_other_formats_become_similar_rgb_jpegs(mode: str, file_format: str) -> None:
    image = _gradient(mode)
    options = {"quality": 100} if file_format == "JPEG" else {}
    picture = normalise_picture(_bytes(image, file_format, **options))
    assert jpeg_structure.is_plain_rgb(picture.jpeg)
    assert (picture.height, picture.width) == (60, 80)
    difference = np.abs(_pixels(picture.jpeg) - np.asarray(image.convert("RGB")))
    assert difference.mean() < 1.5


@pytest.mark.parametrize(
    ("file_format", "options"), [("WEBP", {"lossless": True}), ("GIF", {}), ("PNG", {})]
)
def test_animation_becomes_its_first_frame(file_format: str, options: dict[str, Any]) -> None:
    first, second = (
        Image.new("RGB", (20, 10), (200, 30, 30)),
        Image.new("RGB", (20, 10), (30, 30, 200)),
    )
    picture = normalise_picture(
        _bytes(first, file_format, save_all=True, append_images=[second], **options)
    )
    assert np.abs(_pixels(picture.jpeg) - (200, 30, 30)).max() <= 3


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_become_white(file_format: str) -> None:
    image = Image.new("RGBA", (32, 16), (10, 10, 10, 0))
    image.paste((10, 200, 10, 255), (0, 0, 16, 16))
    pixels = _pixels(normalise_picture(_bytes(image, file_format)).jpeg)
    assert np.abs(pixels[:, 20:] - 255).max() <= 2
    assert np.abs(pixels[:, :12] - (10, 200, 10)).max() <= 6


def test_transparent_palette_colour_becomes_white() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([1, 2, 3, 200, 100, 50])
    pixels = _pixels(normalise_picture(_bytes(image, "PNG", transparency=0)).jpeg)
    assert pixels.min() >= 253


def test_16_bit_samples_are_reduced_to_8() -> None:
    samples = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(16, axis=0)
    pixels = _pixels(normalise_picture(_bytes(Image.fromarray(samples), "PNG")).jpeg)
    assert np.abs(pixels[..., 0] - samples / 257).max() <= 2


def test_floating_point_tiff_is_rejected() -> None:
    rejection = _rejection(_bytes(Image.new("F", (8, 8), 0.5), "TIFF"))
    assert rejection.reason == "unsupported_format"
    assert "Declare SMinSampleValue and SMaxSampleValue" in rejection.detail


def test_encoding_does_not_depend_on_metadata() -> None:
    plain = _bytes(_gradient(), "PNG")
    with_comment = _bytes(_gradient(), "PNG", dpi=(300, 300), icc_profile=b"x" * 200)
    assert normalise_picture(plain) == normalise_picture(plain) == normalise_picture(with_comment)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"not a picture", "not_an_image", id="text"),
        pytest.param(b"\xff\xd8\xff\xe0" + b"\0" * 100, "corrupt", id="JPEG without a header"),
        pytest.param(_bytes(_gradient(), "JPEG")[:-100], "truncated", id="truncated JPEG"),
        pytest.param(_bytes(_gradient(), "PNG")[:-100], "truncated", id="truncated PNG"),
        pytest.param(_bytes(_gradient(), "BMP")[:-100], "truncated", id="truncated BMP"),
        pytest.param(_bytes(_gradient("P"), "GIF")[:-100], "truncated", id="truncated GIF"),
    ],
)
def test_unusable_file_is_rejected_with_a_reason(data: bytes, reason: str) -> None:
    assert _reason(data) == reason


def test_damaged_png_is_corrupt() -> None:
    data = bytearray(_bytes(_gradient(), "PNG"))
    data[200] ^= 0xFF
    assert _reason(bytes(data)) == "corrupt"


def test_decompression_bomb_is_too_large_and_not_decoded() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png = _bytes(_gradient(), "PNG")
    assert _reason(png[:12] + header + png[29:]) in ("too_large", "corrupt")
    bomb = _bytes(Image.new("1", (30_000, 30_000)), "PNG")
    assert len(bomb) < 200_000
    assert _reason(bomb) == "too_large"


@pytest.mark.parametrize(("size", "accepted"), [((65_500, 1), True), ((65_501, 1), False)])
def test_side_is_limited_to_the_maximum_of_jpeg(size: tuple[int, int], accepted: bool) -> None:
    data = _bytes(Image.new("L", size), "PNG")
    if accepted:
        assert normalise_picture(data).width == 65_500
    else:
        assert _reason(data) == "too_large"


def test_108_megapixel_jpeg_is_decoded_at_half_size() -> None:
    data = _bytes(Image.new("L", (12_000, 9_000), 77), "JPEG")
    picture = normalise_picture(data)
    assert (picture.width, picture.height) == (6_000, 4_500)
    assert np.abs(_pixels(picture.jpeg) - 77).max() <= 1


@pytest.mark.parametrize(
    ("limit", "size"),
    [
        pytest.param(90 * 61, (90, 61), id="at the limit"),
        pytest.param(90 * 61 - 1, (45, 31), id="above it"),
        pytest.param(45 * 31, (45, 31), id="at half size"),
        pytest.param(45 * 31 - 1, (23, 16), id="above half size"),
        pytest.param(23 * 16 - 1, (12, 8), id="above a quarter"),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_large_jpeg_is_reduced_to_the_limit(
    monkeypatch: pytest.MonkeyPatch, mode: str, limit: int, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", limit)
    upright = _gradient(mode, (90, 61))
    exif = _exif(6)
    picture = normalise_picture(_bytes(upright, "JPEG", quality=100))
    assert (picture.width, picture.height) == size
    expected = np.asarray(upright.convert("RGB").resize(size, Image.Resampling.BOX)).astype(int)
    # Blocks at the border are not complete, which matters in a picture as small as this one.
    assert np.abs(_pixels(picture.jpeg) - expected).mean() < 10
    turned = normalise_picture(_bytes(upright, "JPEG", quality=100, exif=exif))
    assert (turned.height, turned.width) == size


def test_pixels_are_limited_by_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1600)
    monkeypatch.setattr(pictures, "MAX_JPEG_PIXELS", 4800)
    assert normalise_picture(_bytes(_gradient(size=(80, 60)), "JPEG")).width == 40
    rejection = _rejection(_bytes(_gradient(size=(81, 60)), "JPEG"))
    assert rejection.reason == "too_large"
    assert rejection.detail.startswith("81 x 60 pixels; a JPEG may have 4,800, another picture")
    assert _reason(_bytes(_gradient(size=(41, 40)), "PNG")) == "too_large"
    assert normalise_picture(_bytes(_gradient(size=(40, 40)), "PNG")).width == 40
    assert "smaller" in picture_result.ADVICE["too_large"]


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


_TWO_MEBIBYTES = zlib.compress(b"<x:xmpmeta>history " * 110_000)


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(_png_chunk(b"zTXt", b"Raw profile\0\0" + _TWO_MEBIBYTES), id="zTXt"),
        pytest.param(
            _png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _TWO_MEBIBYTES), id="iTXt"
        ),
        pytest.param(_png_chunk(b"tEXt", b"workflow\0" + b"{node} " * 300_000), id="tEXt"),
        pytest.param(_png_chunk(b"iCCP", b"icc\0\0" + _TWO_MEBIBYTES), id="iCCP"),
        pytest.param(_png_chunk(b"tEXt", b"k\0" + b"v" * 1_000_000) * 70, id="70 MB of text"),
    ],
)
@pytest.mark.parametrize("is_behind_pixels", [False, True])
def test_png_with_much_metadata_is_a_picture(chunks: bytes, is_behind_pixels: bool) -> None:
    png = _bytes(_gradient(), "PNG", exif=_exif(6))
    position = len(png) - 12 if is_behind_pixels else 33
    picture = normalise_picture(png[:position] + chunks + png[position:])
    assert picture == normalise_picture(png)
    assert (picture.width, picture.height) == (60, 80)


def test_damage_of_a_png_with_much_metadata_is_found() -> None:
    png = bytearray(_bytes(_gradient(), "PNG"))
    png[200] ^= 0xFF
    chunk = _png_chunk(b"zTXt", b"Raw profile\0\0" + _TWO_MEBIBYTES)
    assert _reason(bytes(png[:33]) + chunk + bytes(png[33:])) == "corrupt"


# 16 x 8 pixels, the left half red and the right half blue.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAA"
    "AAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoAABAAAAAAAAAH8AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAAB"
    "AABodmMxAAAAAA5waXRtAAAAAAABAAAA/GlwcnAAAADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADw"
    "NgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAA"
    "AAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAA"
    "AAEAAAAAEAAAAIAAAAAf///9AAAAAC////yAAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYEC"
    "AwWEAAAAh21kYXQAAAB7KAGvBjIa0t2AXUCj2+Jo//+eB9D5S5/m/BO998cf//uxUuvN99YNTl5L5Kr9SyZ8QH+//S"
    "lD9HL/0GPm363OivsCIKTR/AiKAl0trdERERZXNGfORNJYZsRHKL1TXE4IIMqwaBwuUMtQnxM3xphBWEQ7G/ISM74o"
    "fMCo"
)


def test_heic_is_read_with_the_optional_dependency() -> None:
    pytest.importorskip("pi_heif", reason="make venv EXTRAS=heif")
    picture = normalise_picture(HEIC)
    pixels = _pixels(picture.jpeg)
    assert pixels.shape == (8, 16, 3)
    assert np.abs(pixels[4, 2] - (200, 30, 30)).max() < 10
    assert np.abs(pixels[4, 13] - (30, 30, 200)).max() < 10


def test_heic_is_named_without_the_optional_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    normalise_picture(_bytes(_gradient(), "PNG"))  # loads the plug-ins
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    rejection = _rejection(HEIC)
    assert rejection.reason == "unsupported_format"
    assert rejection.detail == (
        "a HEIC picture. Convert it to JPEG, or install the optional decoder: "
        "`make venv EXTRAS=heif`, or without a checkout `python -m pip install 'pi-heif>=1.0'`"
    )


def test_avif_is_named_if_pillow_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    avif = _bytes(_gradient(), "AVIF")
    # What the plug-in's check returns without the library.
    monkeypatch.setitem(Image.OPEN, "AVIF", (Image.OPEN["AVIF"][0], lambda _prefix: "no AVIF"))
    assert _rejection(avif).detail.startswith("an AVIF picture. Convert")


def test_damaged_avif_and_heic_are_damaged_not_unsupported() -> None:
    avif = _bytes(_gradient(), "AVIF")
    assert _reason(avif[:-50]) in ("corrupt", "truncated")
    assert _reason(avif[:100]) in ("corrupt", "truncated")
    normalise_picture(avif)
    if "HEIF" in Image.OPEN:
        assert _reason(HEIC[:-50]) in ("corrupt", "truncated")


def test_heic_with_a_general_brand_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    normalise_picture(_bytes(_gradient(), "PNG"))  # loads the plug-ins
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    data = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + HEIC[28:]
    assert _rejection(data).detail.startswith("a HEIC picture. Convert")


def _compressed_tiff(code: int) -> bytes:
    """Return a TIFF that claims a compression."""
    tiff = _bytes(_gradient(), "TIFF")
    return tiff.replace(struct.pack("<HHIH", 259, 3, 1, 1), struct.pack("<HHIH", 259, 3, 1, code))


def _with_frame(marker: int, bits: int) -> bytes:
    jpeg = _bytes(_gradient(), "JPEG")
    return jpeg.replace(b"\xff\xc0\x00\x11\x08", bytes([0xFF, marker, 0, 0x11, bits]))


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (_with_frame(0xC1, 12), "a JPEG with 12-bit samples. Convert"),
        (_with_frame(0xC3, 16), "a JPEG with lossless coding. Convert"),
        (_with_frame(0xF7, 8), "a JPEG with JPEG-LS. Convert"),
        (_compressed_tiff(34887), "a TIFF with LERC compression. Convert"),
        (_compressed_tiff(50001), "a TIFF with WebP compression. Convert"),
        (_compressed_tiff(50002), "a TIFF with JPEG XL compression. Convert"),
        (b"MM\0+\0\x08" + bytes(100), "a TIFF with the big-endian BigTIFF format. Convert"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(100), "a camera's raw file. Export"),
        (b"%PDF-1.4\n" + b"x" * 100, "a PDF document. Export"),
    ],
)
def test_unsupported_format_is_named(data: bytes, detail: str) -> None:
    rejection = _rejection(data)
    assert rejection.reason == "unsupported_format"
    assert rejection.detail.startswith(detail)


@pytest.mark.parametrize("tag", [50706, 330])
def test_raw_file_in_a_tiff_is_not_taken_for_its_thumbnail(tag: int) -> None:
    values = {50706: {50706: b"\1\4\0\0"}, 330: {254: 1, 330: 8}}
    buffer = io.BytesIO()
    _gradient("L").save(buffer, "TIFF", tiffinfo=values[tag])
    assert _rejection(buffer.getvalue()).detail.startswith("a camera's raw file")


def test_results_for_dirty_golden_files() -> None:
    results = {}
    for path in sorted(DIRTY.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            try:
                results[path.name] = "kept" if normalise_picture(data).jpeg == data else "encoded"
            except RejectedPicture as rejection:
                results[path.name] = rejection.reason
    kept = (
        ".hidden.jpg",
        "i0.jpg",
        "i1.jpg",
        "i2.jpg",
        "i3.jpg",
        "inner.jpg",
        "really_jpeg.png",
        "x.jpg",
    )
    encoded = ("UPPER.PNG", "anim.gif", "bitmap.bmp", "really_png.jpg", "w.webp")
    assert results == {
        **dict.fromkeys(kept, "kept"),
        **dict.fromkeys(encoded, "encoded"),
        "Thumbs.db": "not_an_image",
        "empty.jpg": "empty",
        "trunc.jpg": "truncated",
    }


def test_tensorflow_decodes_every_accepted_picture() -> None:
    import tensorflow as tf

    files = [
        path
        for folder in (GOLDEN, DIRTY)
        for path in sorted(folder.rglob("*.*"))
        if path.is_file() and path.stat().st_size
    ]
    num_accepted = num_rejected = 0
    for seed, path in enumerate(files):
        data = path.read_bytes()
        for copy in [data, *_damaged(data, seed, count=25)]:
            try:
                picture = normalise_picture(copy)
            except RejectedPicture:
                num_rejected += 1
                continue
            num_accepted += 1
            decoded = tf.io.decode_jpeg(picture.jpeg, channels=3)
            assert decoded.shape == (picture.height, picture.width, 3)
    assert num_accepted > 1000
    assert num_rejected > 1000


def _jpegs() -> Iterator[bytes]:
    """Yield JPEGs with three components of many kinds, most of them reduced when decoded."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"subsampling": 0},
        {"keep_rgb": True},
        {"quality": 30, "optimize": True, "exif": _exif(1)},
    )
    for size in ((500, 375), (353, 120), (88, 91), (16, 16), (1, 1)):
        picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        yield from (_bytes(picture, "JPEG", **options) for options in kinds)
    yield _bytes(_gradient(), "MPO", save_all=True, append_images=[_gradient(size=(40, 30))])


def _result(data: bytes) -> Any:
    try:
        return normalise_picture(data)
    except RejectedPicture as rejection:
        return rejection.reason, rejection.detail


def test_both_jpeg_decoders_accept_the_same_files_and_give_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode_jpeg = pytest.importorskip("simplejpeg").decode_jpeg
    num_fast = 0

    def count(*arguments: Any, **options: Any) -> Any:
        nonlocal num_fast
        pixels = decode_jpeg(*arguments, **options)
        num_fast += 1
        return pixels

    results: dict[bool, list[Any]] = {}
    for is_fast in (True, False):
        monkeypatch.setattr(pictures, "_fast_decoder", lambda is_fast=is_fast: is_fast and count)
        results[is_fast] = [
            _result(copy)
            for seed, data in enumerate(_jpegs())
            for copy in (data, data + b"\0" * 9, data + data, *_damaged(data, seed, count=6))
        ]

    assert results[True] == results[False]
    num_accepted = len([each for each in results[True] if not isinstance(each, tuple)])
    assert 90 < num_fast < num_accepted
    assert len(results[True]) - num_accepted > 300


@pytest.mark.parametrize("change", [1, 0x10, 0xFF])
def test_damaged_headers_have_the_same_result_with_both_jpeg_decoders(
    monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    pytest.importorskip("simplejpeg")
    image = Image.radial_gradient("L").resize((90, 60)).convert("RGB")
    data = _bytes(image, "JPEG", comment=b"a comment", restart_marker_rows=1)
    damaged = [
        data[:i] + bytes([data[i] ^ change]) + data[i + 1 :] for i in range(data.index(b"\xff\xda"))
    ]
    fast = list(map(_result, damaged))
    monkeypatch.setattr(pictures, "_fast_decoder", lambda: None)
    assert fast == list(map(_result, damaged))
    assert 100 < sum(isinstance(each, tuple) for each in fast) < len(fast) - 50


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("is_fast", [True, False])
def test_bytes_that_are_missing_at_the_end_are_noticed(
    monkeypatch: pytest.MonkeyPatch, is_fast: bool, options: dict[str, Any]
) -> None:
    if is_fast:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(pictures, "_fast_decoder", lambda: None)
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    data = _bytes(Image.fromarray(noise), "JPEG", **options)
    assert normalise_picture(data).jpeg == data
    for missing in (100, 1000, len(data) // 2):
        assert _reason(data[:-missing]) == "truncated"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_reduced_picture_is_decoded_to_its_last_byte(options: dict[str, Any]) -> None:
    decode_jpeg = pytest.importorskip("simplejpeg").decode_jpeg
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    data = _bytes(Image.fromarray(noise), "JPEG", **options)
    assert decode_jpeg(data, "RGB", min_height=44, min_width=44).shape == (47, 63, 3)
    # The end marker is there, but not all of the data before it.
    for missing in (20, 1000, len(data) // 2):
        with pytest.raises(ValueError, match=r"(?i)corrupt|premature"):
            decode_jpeg(data[: -2 - missing] + data[-2:], "RGB", min_height=44, min_width=44)


def test_rejection_needs_a_known_reason() -> None:
    for reason in picture_result.REASONS:
        assert str(RejectedPicture(reason, "why")) == f"{picture_result.REASONS[reason]} (why)"
    assert set(picture_result.EXEMPT_REASONS) < set(picture_result.REASONS)
    with pytest.raises(KeyError):
        RejectedPicture("no_such_reason")


def test_import_does_not_load_tensorflow() -> None:
    code = "import sys, repot.pictures, repot.records; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("orientation", [1, 6])
def test_crop_is_a_part_of_the_upright_picture(orientation: int) -> None:
    data = _bytes(_gradient(), "PNG", exif=_exif(orientation))
    whole = Image.open(io.BytesIO(normalise_picture(data).jpeg))
    cropped = normalise_picture(data, (0.25, 0.5, 0.75, 1.0))
    width, height = whole.size
    expected = whole.crop((width // 4, height // 2, width * 3 // 4, height))
    assert (cropped.width, cropped.height) == expected.size
    assert np.abs(_pixels(cropped.jpeg) - np.asarray(expected).astype(int)).max() <= 4


@pytest.mark.parametrize(
    ("edges", "size"),
    [
        ((0.0, 0.0, 0.001, 0.001), (1, 1)),
        ((0.999, 0.999, 1.0, 1.0), (1, 1)),
        ((0.5, 0.5, 0.501, 1.0), (1, 30)),
        ((0.0, 0.0, 1.0, 1.0), (80, 60)),
    ],
)
def test_crop_has_at_least_one_pixel(
    edges: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    picture = normalise_picture(_bytes(_gradient(), "JPEG"), edges)
    assert (picture.width, picture.height) == size
    assert jpeg_structure.is_plain_rgb(picture.jpeg)


@pytest.mark.parametrize(("format_name", "size"), [("JPEG", (500, 300)), ("PNG", (300, 500))])
def test_picture_to_show_is_reduced_and_keeps_its_shape(
    format_name: str, size: tuple[int, int]
) -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(buffer, format_name)

    picture = normalise_picture(buffer.getvalue(), max_side=100)

    assert sorted([picture.width, picture.height]) == [60, 100]
    assert (picture.width > picture.height) == (size[0] > size[1])
    with Image.open(io.BytesIO(picture.jpeg)) as image:
        assert image.size == (picture.width, picture.height)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((460, 230), (115, 58)),
        ((456, 230), (128, 65)),
        ((120, 60), (120, 60)),
        ((9000, 1), (128, 1)),
    ],
)
def test_jpeg_to_show_is_decoded_at_a_reduced_size_that_is_nearly_large_enough(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    picture = normalise_picture(_bytes(Image.new("RGB", size), "JPEG"), max_side=128)
    assert (picture.width, picture.height) == shown
