"""Pictures of any common format, made into the one kind that a shard holds: an upright RGB JPEG.

What a file is, its content says, never its name. A picture that is an upright three-component JPEG already keeps its
bytes; every other one is decoded and encoded anew. Whatever comes out, TensorFlow decodes.
"""

import io
import warnings
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from repot import jpeg_structure

REASONS = {
    "empty": "the file is empty",
    "not_an_image": "it is not a JPEG, PNG, GIF, BMP, WebP or TIFF picture",
    "truncated": "the picture ends too early",
    "corrupt": "the picture is damaged and cannot be decoded",
    "too_large": "the picture has too many pixels or bytes",
    "unreadable": "the file may not be read",
    "nested_folder": "it lies in a folder inside a label's folder",
    "outside_labels": "it lies beside the label folders and is not a picture",
    "test_folder": "it lies in test/ beside the training pictures, which takes no part",
    "system_file": "it belongs to the operating system or to a tool",
    "label_not_listed": "its folder is not in the labels file",
}
# Files that nobody meant as training pictures: they are accounted for, and are no sign of damage.
EXEMPT_REASONS = ("outside_labels", "test_folder", "system_file", "label_not_listed")

# Pillow's names; a multi-picture JPEG (MPO) opens as a JPEG.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
# Pillow's own limit (1 GiB / 4 / 3); TensorFlow's decoder takes twice as many.
MAX_PIXELS = 89_478_485
MAX_SIDE = 65_500  # libjpeg's
MAX_FILE_BYTES = 1 << 28

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
_ORIENTATION_TAG = 0x0112
# EXIF orientation: what makes the stored picture upright. Source: CIPA DC-008, tag Orientation.
_TURNS = {
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


class RejectedPicture(Exception):  # noqa: N818 (a verdict about one file, never a failure of the work)
    """A file that is not a usable picture.

    Args:
        reason: A key of `REASONS`.
        detail: The decoder's words, or "".
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{REASONS[reason]} ({detail})" if detail else REASONS[reason])


def normalise_picture(data: bytes) -> Picture:
    """Return the picture in `data` (of one of `FORMATS`) as an upright RGB JPEG.

    An upright JPEG or MPO of three components keeps its bytes. Anything else becomes a JPEG of quality 100 without
    chroma subsampling: turned upright by its EXIF orientation, transparency on white, the first frame or page only.

    Raises:
        RejectedPicture: The file is empty, not a picture, truncated, corrupt or too large.
    """
    if not data:
        raise RejectedPicture("empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's hints about odd metadata.
        try:
            return _normalise(data)
        except (RejectedPicture, MemoryError):
            raise
        except Exception as err:
            # Pillow's plug-ins raise whatever the damage leads to: SyntaxError, struct.error, IndexError, ...
            raise _rejection(data, err) from err


def _normalise(data: bytes) -> Picture:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS or max(image.size) > MAX_SIDE:
            raise RejectedPicture("too_large", f"{width} x {height} pixels")
        turn = _TURNS.get(_orientation(image))
        if turn is None and jpeg_structure.is_plain_rgb(data):
            # Every bit of entropy-coded data is read, but only one pixel in 64 is computed.
            image.draft("RGB", (1, 1))
            image.load()
            return Picture(jpeg=data, height=height, width=width)
        upright = _rgb(image) if turn is None else _rgb(image).transpose(turn)
        if image.format == "PNG":
            _check_png(data)
        return Picture(jpeg=_encode(upright), height=upright.height, width=upright.width)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 (damaged metadata does not make a picture useless)
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    """Return the picture in mode RGB, 16-bit samples reduced to 8, transparency on white."""
    image.load()
    if image.mode == "F":
        raise RejectedPicture(
            "not_an_image", "its samples are floating-point numbers of no known range"
        )
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda sample: sample / 256).convert("L").convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def _check_png(data: bytes) -> None:
    """Raise if a chunk's checksum is wrong: decoding alone does not look at those of the pixels."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _encode(image: Image.Image) -> bytes:
    image.info = {}
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


def _rejection(data: bytes, err: Exception) -> RejectedPicture:
    """Return the verdict that a failure to decode amounts to."""
    words = f"{err}" or type(err).__name__
    if isinstance(err, Image.DecompressionBombError):
        return RejectedPicture("too_large", words)
    if isinstance(err, UnidentifiedImageError):
        # Its words name an object in memory; they would differ from run to run.
        return (
            RejectedPicture("corrupt", "its header cannot be read")
            if data.startswith(_MAGIC)
            else RejectedPicture("not_an_image")
        )
    if isinstance(err, EOFError) or "truncated" in words.lower():
        return RejectedPicture("truncated", words)
    return RejectedPicture("corrupt", words)
