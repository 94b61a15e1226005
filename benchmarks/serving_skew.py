"""Compare a served model with `repot predict` on many kinds of picture files.

    python benchmarks/serving_skew.py [--model FOLDER]

A file is sent to the SavedModel as it is, and as `repot.serving_client.encode_picture` returns it.
The first must give the probabilities of `repot predict` or be rejected; the second must give them
always. Exit code 1 if any differs by more than 1e-5, or if only `repot predict` rejects a file.
"""

import argparse
import io
import re
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repot.picture_result import RejectedPicture
from repot.serving_client import encode_picture

TOLERANCE = 1e-5
NUM_LABELS = 5
IMAGE_SIZE = 64
SIZES = ((1, 1), (1, 9), (5, 2), (16, 16), (33, 17), (97, 64), (500, 375))
LARGE = (12_000, 9_000)

_ORIENTATION_TAG = 0x0112
_XMP = (
    b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
    b'tiff:Orientation="%d"/></x:xmpmeta>'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFile:
    """A generated file.

    Attributes:
        kind: What it is an example of; a row of the table.
        name: Its name within the kind.
        data: Its content.
    """

    kind: str
    name: str
    data: bytes


def draw(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Return a picture with colour gradients, edges and noise."""
    rng = np.random.default_rng([seed, width, height])
    coarse = rng.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth.astype(int) + rng.integers(-25, 26, smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def make_files(*, large: bool = True) -> Iterator[PictureFile]:
    """Yield the files of all kinds; `large` adds one of 108 megapixels."""
    for width, height in SIZES:
        for kind, data in _formats(draw(width, height)):
            yield PictureFile(kind=kind, name=f"{width}x{height}", data=data)
    yield from _oriented_files(draw(48, 31, seed=1))
    yield from _unusable_files(draw(48, 31, seed=2))
    if large:
        data = save(draw(600, 450).resize(LARGE), "JPEG", quality=80)
        yield PictureFile(kind="JPEG, large", name="108 megapixels", data=data)


def save(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return a picture as the content of a file, by Pillow's name of the format."""
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def _formats(rgb: Image.Image) -> Iterator[tuple[str, bytes]]:
    grey, palette = rgb.convert("L"), rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    alpha = rgb.copy()
    alpha.putalpha(draw(*rgb.size, seed=3).convert("L"))
    # Random inks: all four components vary.
    inks = np.concatenate([np.asarray(rgb), np.asarray(grey)[..., np.newaxis]], axis=2)
    cmyk = Image.fromarray(inks, "CMYK")
    deep = np.asarray(grey).astype(np.uint16)
    for subsampling, name in enumerate(("4:4:4", "4:2:2", "4:2:0")):
        yield f"JPEG {name}", save(rgb, "JPEG", subsampling=subsampling, quality=90)
    yield "JPEG, progressive", save(rgb, "JPEG", progressive=True, quality=60)
    yield "JPEG, RGB components", save(rgb, "JPEG", keep_rgb=True)
    yield "JPEG, restart markers", save(rgb, "JPEG", restart_marker_blocks=2)
    yield "JPEG, grey", save(grey, "JPEG")
    yield "JPEG, CMYK", save(cmyk, "JPEG", quality=90)
    yield "JPEG, CMYK", save(cmyk, "JPEG", progressive=True)
    yield "PNG", save(rgb, "PNG")
    yield "PNG, grey", save(grey, "PNG")
    yield "PNG, 1 bit", save(rgb.convert("1"), "PNG")
    yield "PNG, alpha", save(alpha, "PNG")
    yield "PNG, grey and alpha", save(alpha.convert("LA"), "PNG")
    yield "PNG, palette", save(palette, "PNG")
    for bits in (1, 2, 4):
        small = rgb.quantize(2**bits)
        yield "PNG, palette of 1, 2 or 4 bits", save(small, "PNG", bits=bits)
    corner = palette.getpixel((0, 0))
    yield "PNG, palette and transparent colour", save(palette, "PNG", transparency=corner)
    translucent = bytes((37 * i) % 256 for i in range(256))
    yield "PNG, palette and transparency", save(palette, "PNG", transparency=translucent)
    yield (
        "PNG, transparent colour",
        save(rgb, "PNG", transparency=rgb.getpixel((0, 0))),
    )
    yield "PNG, transparent grey", save(grey, "PNG", transparency=grey.getpixel((0, 0)))
    for bits in (8, 12, 16):
        yield "PNG, 16-bit grey", save(Image.fromarray(deep << (bits - 8)), "PNG")
    for bits in (8, 10, 12, 14, 16):
        # Other low bits than the high ones, and the largest sample of this depth.
        channels = np.asarray(alpha).astype(np.uint32) * 0x101 + 0x81 >> 16 - bits
        channels[0, 0, 0] = 2**bits - 1
        yield "PNG, 16-bit RGB", _deep_png(channels[..., :3], colours=2)
        yield "PNG, 16-bit RGB and alpha", _deep_png(channels, colours=6)
        yield "PNG, 16-bit grey and alpha", _deep_png(channels[..., [0, 3]], colours=4)
    yield "GIF", save(palette, "GIF")
    yield "GIF", save(palette, "GIF", interlace=0)
    yield "GIF, grey", save(grey, "GIF")
    yield "GIF, transparent", save(palette, "GIF", transparency=corner)
    yield "GIF, animated", save(palette, "GIF", save_all=True, append_images=[palette.rotate(180)])
    yield "BMP", save(rgb, "BMP")
    yield "BMP, 1 bit", save(rgb.convert("1"), "BMP")
    yield "BMP, grey", save(grey, "BMP")
    yield "BMP, palette", save(palette, "BMP")
    yield "BMP, 32 bits", save(rgb.convert("RGBA"), "BMP")
    yield "BMP, palette of 1 or 4 bits", _packed_bmp(rgb, 1)
    yield "BMP, palette of 1 or 4 bits", _packed_bmp(rgb, 4)
    yield "BMP, upper row first", _packed_bmp(rgb, 4, is_upright=True)
    yield "WebP", save(alpha, "WEBP")
    yield "TIFF", save(rgb, "TIFF")


def _deep_png(samples: Any, *, colours: int) -> bytes:
    """Return a PNG of 16-bit samples, uint32 [height, width, channels]; Pillow cannot write it."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        png += struct.pack(">I", len(body)) + kind + body + checksum
    return png


def _packed_bmp(rgb: Image.Image, bits: int, *, is_upright: bool = False) -> bytes:
    """Return a BMP with a palette and several pixels per byte; Pillow cannot write it."""
    small = rgb.quantize(2**bits)
    palette = np.zeros((2**bits, 4), np.uint8)
    colours = np.array(small.getpalette(), np.uint8).reshape(-1, 3)[: 2**bits, ::-1]
    palette[: len(colours), :3] = colours
    indices = np.asarray(small)
    planes = (indices[..., np.newaxis] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(planes.reshape(len(indices), -1), axis=1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    width, height = rgb.size
    start = 14 + 40 + palette.nbytes
    header = struct.pack("<2sIII", b"BM", start + rows.nbytes, 0, start)
    header += struct.pack(
        "<IiiHHIIiiII", 40, width, -height if is_upright else height, 1, bits, 0, 0, 0, 0, 0, 0
    )
    return header + palette.tobytes() + (rows if is_upright else rows[::-1]).tobytes()


def _oriented_files(rgb: Image.Image) -> Iterator[PictureFile]:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = orientation
        exif[0x010F] = "A camera"
        options = {"exif": exif}
        files = {
            "JPEG, EXIF": save(rgb, "JPEG", quality=90, **options),
            "JPEG, progressive, EXIF": save(rgb, "JPEG", progressive=True, **options),
            "JPEG, grey, EXIF": save(rgb.convert("L"), "JPEG", **options),
            "JPEG, CMYK, EXIF": save(rgb.convert("CMYK"), "JPEG", **options),
            "JPEG, big-endian EXIF": save(rgb, "JPEG", exif=_big_endian(orientation)),
            "JPEG, XMP": _with_xmp(save(rgb, "JPEG"), orientation),
            "PNG, EXIF": save(rgb, "PNG", **options),
            "WebP, EXIF": save(rgb, "WEBP", **options),
            "TIFF, EXIF": save(rgb, "TIFF", **options),
        }
        for kind, data in files.items():
            yield PictureFile(kind=kind, name=f"orientation {orientation}", data=data)


def _big_endian(orientation: int) -> bytes:
    entry = struct.pack(">HHIHH", _ORIENTATION_TAG, 3, 1, orientation, 0)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)


def _with_xmp(jpeg: bytes, orientation: int) -> bytes:
    body = _XMP % orientation
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def _unusable_files(rgb: Image.Image) -> Iterator[PictureFile]:
    yield PictureFile(kind="unusable", name="empty", data=b"")
    yield PictureFile(kind="unusable", name="text", data=b"no picture\n")
    yield PictureFile(kind="unusable", name="HTML", data=b"<html></html>")
    for file_format in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"):
        data = save(rgb, file_format)
        for size in (4, 20, len(data) // 2):
            name = f"{file_format}, {size} bytes"
            yield PictureFile(kind="unusable", name=name, data=data[:size])
    damaged = re.sub(rb"IDAT.", b"IDAT\xff", save(rgb, "PNG"), flags=re.DOTALL)
    yield PictureFile(kind="unusable", name="damaged PNG", data=damaged)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What became of a file.

    Attributes:
        picture: The file.
        predicted: Probabilities of `repot predict`; None if it rejects the file.
        served: Those of the SavedModel for the file as it is; None if it rejects the file.
        served_encoded: Those of the SavedModel for the encoded file; None if it is rejected.
        message: Why the SavedModel rejects the file, or "".
    """

    picture: PictureFile
    predicted: Any
    served: Any
    served_encoded: Any
    message: str

    @property
    def difference(self) -> float:
        """The largest difference from `repot predict`; infinite if only that rejects the file."""
        answers = [answer for answer in (self.served, self.served_encoded) if answer is not None]
        if self.predicted is None:
            return float("inf") if answers else 0.0
        if self.served_encoded is None:
            return float("inf")
        return max(float(np.abs(answer - self.predicted).max()) for answer in answers)


def compare(picture: PictureFile, model: Any, serve: Any) -> Comparison:
    """Compare the answers for one file.

    Args:
        picture: The file.
        model: The `repot.predictor.Model`.
        serve: The default signature of the SavedModel.
    """
    import tensorflow as tf

    def answer(data: bytes) -> Any:
        return serve(tf.constant([data]))["probabilities"].numpy()[0]

    message, served, served_encoded, predicted = "", None, None, None
    try:
        served = answer(picture.data)
    except tf.errors.InvalidArgumentError as err:
        message = err.message
    try:
        jpeg = encode_picture(picture.data)
    except RejectedPicture:
        pass
    else:
        predicted = model.predict([jpeg]).probabilities[0]
        served_encoded = answer(jpeg)
    return Comparison(
        picture=picture,
        predicted=predicted,
        served=served,
        served_encoded=served_encoded,
        message=message,
    )


def make_model(folder: Path) -> None:
    """Write a model folder: EfficientNet-Lite0 with a random head."""
    from repot.checkpoint_fetcher.fetch import convert_to_folder
    from repot.classifier import build_classifier, published_model
    from repot.layout import KERAS_NAME, LABELS_NAME, SAVED_MODEL_FOLDER, WEIGHTS_NAME
    from repot.saved_model import export_saved_model

    backbone = "efficientnet_lite0"
    convert_to_folder("default", backbone=backbone, values="auto", folder_uri=str(folder))
    classifier = build_classifier(
        backbone,
        num_classes=NUM_LABELS + 1,
        image_size=IMAGE_SIZE,
        seed=0,
        weights_path=folder / WEIGHTS_NAME,
    )
    kernel = classifier.get_layer("logits").kernel
    kernel.assign(np.random.default_rng(1).normal(size=kernel.shape, scale=0.1))
    model, labels = published_model(classifier), [f"label {i}" for i in range(NUM_LABELS)]
    model.save(folder / KERAS_NAME)
    export_saved_model(model, labels, folder / SAVED_MODEL_FOLDER)
    (folder / LABELS_NAME).write_text("".join(f"{label}\n" for label in labels))


def _print_table(comparisons: list[Comparison]) -> None:
    print(f"{'kind':38} {'files':>5} {'equal':>5} {'both':>6} {'served':>7} {'largest':>10}")
    print(f"{'':38} {'':>5} {'':>5} {'reject':>6} {'rejects':>7} {'difference':>10}")
    for kind in dict.fromkeys(comparison.picture.kind for comparison in comparisons):
        row = [comparison for comparison in comparisons if comparison.picture.kind == kind]
        equal = sum(item.served is not None and item.difference <= TOLERANCE for item in row)
        both = sum(item.served is None and item.predicted is None for item in row)
        only = sum(item.served is None and item.predicted is not None for item in row)
        worst = max(item.difference for item in row)
        print(f"{kind:38} {len(row):5} {equal:5} {both:6} {only:7} {worst:10.1e}")


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model folder; default: one with random head")
    arguments = parser.parse_args()
    from repot import quiet_tensorflow

    quiet_tensorflow.import_tensorflow()
    import tensorflow as tf

    from repot.predictor import load_model

    with tempfile.TemporaryDirectory(prefix="repot-skew-") as scratch:
        folder = arguments.model or Path(scratch)
        if not arguments.model:
            make_model(folder)
        model = load_model(str(folder))
        serve = tf.saved_model.load(str(folder / "saved_model")).signatures["serving_default"]
        comparisons = [compare(picture, model, serve) for picture in make_files()]
    _print_table(comparisons)
    wrong = [comparison for comparison in comparisons if comparison.difference > TOLERANCE]
    for comparison in wrong:
        picture = comparison.picture
        print(f"{picture.kind}, {picture.name}: differs by {comparison.difference:.2g}")
    print(f"{len(comparisons)} files, {len(wrong)} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
