"""Small pictures for a page."""

import base64
import io

import pytest
from PIL import Image

from repot.evaluator.report.data import thumbnail


@pytest.mark.parametrize(
    ("size", "small"),
    [
        ((1600, 800), (160, 80)),
        ((161, 100), (160, 99)),
        ((160, 160), (160, 160)),
        ((20, 10), (20, 10)),
    ],
)
def test_thumbnail_keeps_the_aspect_and_never_grows(
    size: tuple[int, int], small: tuple[int, int]
) -> None:
    encoded = io.BytesIO()
    Image.new("RGB", size, "red").save(encoded, "JPEG")

    uri = thumbnail(encoded.getvalue())

    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.format, image.size) == ("JPEG", small)
        red, green, blue = image.getpixel((0, 0))  # type: ignore[misc]
        assert red > 240
        assert max(green, blue) < 15


def test_thumbnail_of_a_grey_picture_is_in_colour() -> None:
    encoded = io.BytesIO()
    Image.new("L", (300, 300), 128).save(encoded, "JPEG")

    data = base64.b64decode(thumbnail(encoded.getvalue()).partition(",")[2])

    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
