"""Encode picture files for a published model that a server runs, such as TensorFlow Serving.

The model then sees the pixels that `repot predict` sees, whatever the format of the file. This
module does not import TensorFlow.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path

from repot.pictures import normalise_picture

ACCEPTED_FILES = (
    "JPEG, PNG, GIF and BMP files, except PNG that is animated, or has a transparent colour but "
    "neither 8 bits nor a palette; GIF whose first frame is smaller than the picture; BMP that is "
    "compressed or has 16 bits; and files with damaged metadata"
)
"""Files that a published model accepts as they are, for documentation."""


def encode_picture(picture: bytes | str | Path) -> bytes:
    """Return a picture as the JPEG to send as `image_bytes`.

    Args:
        picture: A local path, or the content of a file, in any format that training reads.

    Raises:
        RejectedPicture: The file is not a usable picture, see `repot.pictures`.
        OSError: The file cannot be read.
    """
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    return normalise_picture(data).jpeg


def encode_request(pictures: Iterable[bytes | str | Path]) -> str:
    """Return the JSON body of a TensorFlow Serving `:predict` request.

    Args:
        pictures: See `encode_picture`.

    Raises:
        RejectedPicture: A file is not a usable picture.
        OSError: A file cannot be read.
    """
    encoded = [base64.b64encode(encode_picture(picture)).decode() for picture in pictures]
    return json.dumps({"instances": [{"b64": text} for text in encoded]})
