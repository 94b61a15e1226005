"""Small pictures that travel inside a page."""

import base64
import io

from PIL import Image

MAX_SIDE = 160
_QUALITY = 82


def thumbnail(jpeg: bytes) -> str:
    """Return a picture as a data URI: a JPEG of at most 160 x 160 pixels, its aspect kept."""
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))
        small = image.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
