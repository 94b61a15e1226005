"""What normalising a picture file results in: a picture, or the reason why the file is rejected.

This module imports no decoder, so that processes with credentials can use it, see
`repot.picture_decoder`.
"""

from dataclasses import dataclass

REASONS = {
    "empty": "the file is empty",
    "not_an_image": "the file is not a picture",
    "unsupported_format": "the file has a format that repot does not read",
    "truncated": "the file ends before the picture is complete",
    "corrupt": "the picture is damaged and cannot be decoded",
    "too_large": "the picture has too many pixels or bytes",
    "decoder_stopped": "the file makes the decoder crash or exceed a limit",
    "unreadable": "the file cannot be read",
    "nested_folder": "the file is in a subfolder of a label folder",
    "outside_labels": "the file is not in a label folder and is not a picture",
    "test_folder": "the picture is directly in test/, so it has no label to be scored by",
    "system_file": "the file belongs to the operating system or to a tool",
    "not_a_file": "it is a pipe, a socket, a device or a link to a folder that contains it",
    "label_not_listed": "the label is not in the labels file",
    "not_in_manifest": "the file is not in the metadata file beside it",
    "other_extension": "with a metadata file of ImageNet, pictures are the files named .JPEG",
    "no_box": "the picture has no bounding box to crop it to",
    "removed": "the corrections file leaves the picture out",
}
"""Why a file is not in any shard, by the reason key that receipts, manifest and report use."""

ADVICE = {
    "empty": "Copy the files again, or remove them.",
    "not_an_image": "Remove the files.",
    "unsupported_format": "Convert the files to JPEG or PNG, or remove them.",
    "truncated": "Copy the files again, or remove them.",
    "corrupt": "Copy or export the files again, or remove them.",
    "too_large": "Make the pictures smaller.",
    "decoder_stopped": "Export the files again, or remove them.",
    "unreadable": "Give the user of this program the right to read the files.",
    "nested_folder": "Move the files up.",
}
"""What to do about rejected files, by reason; exempt reasons need no action."""

EXEMPT_REASONS = (
    "outside_labels",
    "test_folder",
    "system_file",
    "not_a_file",
    "label_not_listed",
    "not_in_manifest",
    "other_extension",
    "no_box",
    "removed",
)
"""Reasons of files that were never meant as training pictures. They are listed in the manifest but
do not count towards max_rejected_fraction."""

MAX_FILE_BYTES = 1 << 28
"""Larger files are not read."""


Edges = tuple[float, float, float, float]
"""xmin, ymin, xmax and ymax of a part of a picture, as fractions of its width and height."""

MINIATURE_SIDE = 48
"""Height and width of a miniature, in pixels."""

MINIATURE_BYTES = MINIATURE_SIDE**2 * 3

SOURCE_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "HEIF", "MPO")
"""Formats of files before they are normalised, by Pillow's names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An upright RGB JPEG, and what it looks like.

    Attributes:
        jpeg: The JPEG.
        height, width: Its size in pixels.
        source_format: Format of the file before it was normalised, of SOURCE_FORMATS.
        miniature: uint8 [48, 48, 3], YCbCr: the whole picture, whatever its aspect ratio.
    """

    jpeg: bytes
    height: int
    width: int
    source_format: str
    miniature: bytes


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
