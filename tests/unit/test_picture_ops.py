"""Exported models decode picture files to the pixels of `repot.pictures`, bit for bit."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from benchmarks.serving_skew import PictureFile, draw, make_files, save

from repot.picture_ops.normalise import normalise
from repot.picture_result import RejectedPicture
from repot.pictures import normalise_picture
from repot.serving_client import encode_picture

FILES = list(make_files(large=False))
KINDS = list(dict.fromkeys(picture.kind for picture in FILES))
REJECTED_KINDS = ("TIFF", "TIFF, EXIF", "WebP", "WebP, EXIF", "unusable")

Normalise = Callable[[bytes], Any]


def in_graph() -> Normalise:
    """Return `normalise` in a graph, as an exported model contains it."""
    function = tf.function(
        normalise, autograph=False, input_signature=[tf.TensorSpec([], tf.string)]
    )
    return lambda data: function(tf.constant(data)).numpy()


@pytest.fixture(scope="module")
def graph() -> Normalise:
    return in_graph()


def pixels(jpeg: bytes) -> Any:
    return tf.io.decode_jpeg(jpeg, channels=3).numpy()


def files(kind: str) -> list[PictureFile]:
    return [picture for picture in FILES if picture.kind == kind]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in REJECTED_KINDS])
def test_pixels_equal_those_of_the_normaliser(kind: str, graph: Normalise) -> None:
    for picture in files(kind):
        expected = pixels(normalise_picture(picture.data).jpeg)

        np.testing.assert_array_equal(pixels(graph(picture.data)), expected, picture.name)


@pytest.mark.parametrize("kind", REJECTED_KINDS)
def test_other_files_are_rejected_with_advice(kind: str, graph: Normalise) -> None:
    for picture in files(kind):
        with pytest.raises(tf.errors.InvalidArgumentError):
            graph(picture.data)
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"it is a JPEG, PNG, GIF or BMP file\. Send what repot\.serving_client\.encode_",
    ):
        graph(b"RIFF....WEBP")


@pytest.mark.parametrize("kind", KINDS)
def test_encoded_files_are_accepted_unchanged(kind: str, graph: Normalise) -> None:
    for picture in files(kind):
        try:
            jpeg = encode_picture(picture.data)
        except RejectedPicture:
            continue
        assert graph(jpeg) == jpeg, picture.name


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_message_about_a_damaged_file_does_not_contain_it(
    file_format: str, graph: Normalise
) -> None:
    data = save(draw(20, 12).convert("P"), file_format)

    messages = []
    for position in range(4, 64):
        try:
            graph(data[:position] + b"\xff" + data[position + 1 :])
        except tf.errors.InvalidArgumentError as err:
            messages.append(err.message)

    assert len(messages) > 5
    # The message of tf.strings.substr contains its input.
    assert not [message for message in messages if "out of range for string" in message]


def exif_jpeg(*entries: tuple[int, int, int, int], directory: int = 8) -> bytes:
    """Return a JPEG with EXIF entries (tag, type, count, value)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", directory, len(entries)) + packed + bytes(4)
    return save(draw(20, 12), "JPEG", exif=exif)


ORIENTATION, MAKER = 0x0112, 0x010F


@pytest.mark.parametrize(
    "entries",
    [
        [(ORIENTATION, 3, 1, 0)],
        [(ORIENTATION, 3, 1, 9)],
        [(ORIENTATION, 3, 1, 6)],
        [(ORIENTATION, 4, 1, 6)],
        [(MAKER, 2, 4, 0x41414100), (ORIENTATION, 3, 1, 8)],
        [(MAKER, 2, 4, 0x41414100)],
        [],
    ],
)
def test_exif_values_without_a_meaning_are_upright(
    entries: list[tuple[int, int, int, int]], graph: Normalise
) -> None:
    data = exif_jpeg(*entries)

    np.testing.assert_array_equal(
        pixels(graph(data)), pixels(normalise_picture(data).jpeg), str(entries)
    )


@pytest.mark.parametrize(
    "data",
    [
        exif_jpeg((ORIENTATION, 3, 1, 6), directory=4000),
        exif_jpeg((ORIENTATION, 3, 1, 6), (ORIENTATION, 3, 1, 1)),
        exif_jpeg((ORIENTATION, 2, 1, 6)),
        # Pillow stops at this value and does not see the orientation.
        exif_jpeg((MAKER, 2, 400, 5000), (ORIENTATION, 3, 1, 6)),
    ],
)
def test_exif_data_that_pillow_may_read_differently_is_rejected(
    data: bytes, graph: Normalise
) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="its EXIF data is intact"):
        graph(data)


def test_pixels_of_a_reduced_jpeg_equal_those_of_the_normaliser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = save(draw(640, 480), "JPEG", quality=90)
    monkeypatch.setattr("repot.pictures.MAX_PIXELS", 100_000)
    monkeypatch.setattr("repot.picture_ops.normalise.MAX_PIXELS", 100_000)

    jpeg = in_graph()(data)

    assert pixels(jpeg).shape == (240, 320, 3)
    np.testing.assert_array_equal(pixels(jpeg), pixels(normalise_picture(data).jpeg))
