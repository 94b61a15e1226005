"""Normalise a picture file of any common format to what a shard contains: an upright RGB JPEG.

Formats are detected from content, not from file names. A picture that is already an upright JPEG
with three components keeps its bytes; all others are decoded and encoded again. TensorFlow can
decode every result.
"""

import io
import warnings
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from repot import jpeg_structure

REASONS = {
    "empty": "the file is empty",
    "not_an_image": "the file is not a JPEG, PNG, GIF, BMP, WebP or TIFF picture",
    "truncated": "the file ends before the picture is complete",
    "corrupt": "the picture is damaged and cannot be decoded",
    "too_large": "the picture has too many pixels or bytes",
    "unreadable": "the file cannot be read",
    "nested_folder": "the file is in a subfolder of a label folder",
    "outside_labels": "the file is not in a label folder and is not a picture",
    "test_folder": "the file is in test/, next to train/ and validation/; test/ is not used",
    "system_file": "the file belongs to the operating system or to a tool",
    "label_not_listed": "the label is not in the labels file",
}
"""Why a file is not in any shard, by the reason key that receipts, manifest and report use."""

EXEMPT_REASONS = ("outside_labels", "test_folder", "system_file", "label_not_listed")
"""Reasons of files that were never meant as training pictures. They are listed in the manifest but
do not count towards max_rejected_fraction."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
"""Accepted formats, by Pillow's names. A multi-picture JPEG (MPO) opens as JPEG."""

MAX_PIXELS = 89_478_485
"""Pillow's own limit (1 GiB / 4 / 3); TensorFlow's decoder accepts twice as many."""
MAX_SIDE = 65_500
"""The limit of libjpeg."""
MAX_FILE_BYTES = 1 << 28

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
_ORIENTATION_TAG = 0x0112
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An upright RGB JPEG and its size in pixels."""

    jpeg: bytes
    height: int
    width: int


class RejectedPicture(Exception):  # noqa: N818 (an expected result for one file, not a failure)
    """A file is not a usable picture.

    Args:
        reason: A key of `REASONS`.
        detail: The decoder's error message, or "".
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{REASONS[reason]} ({detail})" if detail else REASONS[reason])


def normalise_picture(data: bytes) -> Picture:
    """Return the picture in a file, of any of `FORMATS`, as an upright RGB JPEG.

    An upright JPEG or MPO with three components keeps its bytes. Everything else is encoded as a
    JPEG of quality 100 without chroma subsampling: turned upright by its EXIF orientation,
    transparent pixels on white, only the first frame or page.

    Raises:
        RejectedPicture: The file is empty, not a picture, truncated, corrupt or too large.
    """
    if not data:
        raise RejectedPicture("empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about unusual metadata.
        try:
            return _normalise(data)
        except (RejectedPicture, MemoryError):
            raise
        except Exception as err:
            # On damaged data, Pillow raises many types: SyntaxError, struct.error, IndexError.
            raise _rejection(data, err) from err


def _normalise(data: bytes) -> Picture:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS or max(image.size) > MAX_SIDE:
            raise RejectedPicture("too_large", f"{width} x {height} pixels")
        operation = _UPRIGHT_OPERATIONS.get(_orientation(image))
        if operation is None and jpeg_structure.is_plain_rgb(data):
            # Draft mode reads all entropy-coded data but computes only one pixel in 64.
            image.draft("RGB", (1, 1))
            image.load()
            return Picture(jpeg=data, height=height, width=width)
        upright = _to_rgb(image) if operation is None else _to_rgb(image).transpose(operation)
        if image.format == "PNG":
            _check_png(data)
        return Picture(jpeg=_encode(upright), height=upright.height, width=upright.width)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (upright) if it is missing or unreadable."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 (a picture with damaged metadata is still usable)
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to mode RGB: 16-bit samples reduced to 8 bits, transparent pixels on white."""
    image.load()
    if image.mode == "F":
        raise RejectedPicture("not_an_image", "floating-point samples have no known range")
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda sample: sample / 256).convert("L").convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _check_png(data: bytes) -> None:
    """Verify the checksums of all chunks; decoding does not verify those of the pixel data."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _encode(image: Image.Image) -> bytes:
    image.info = {}
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


def _rejection(data: bytes, err: Exception) -> RejectedPicture:
    """Return the rejection for a decoder error."""
    message = f"{err}" or type(err).__name__
    if isinstance(err, Image.DecompressionBombError):
        return RejectedPicture("too_large", message)
    if isinstance(err, UnidentifiedImageError):
        # Pillow's message contains the address of an object, which differs from run to run.
        return (
            RejectedPicture("corrupt", "the header cannot be read")
            if data.startswith(_MAGIC)
            else RejectedPicture("not_an_image")
        )
    if isinstance(err, EOFError) or "truncated" in message.lower():
        return RejectedPicture("truncated", message)
    return RejectedPicture("corrupt", message)
