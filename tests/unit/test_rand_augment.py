"""Pillow is the reference: the authors' implementation follows it too."""

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from repot.rand_augment import (
    MAGNITUDE,
    NUM_RAND_AUGMENT_DRAWS,
    TRANSFORMATIONS,
    rand_augment,
    transform,
)

SIZE = 33
FACTOR = MAGNITUDE / 10 * 1.8 + 0.1


def pictures() -> Any:
    """Return uint8 [3, SIZE, SIZE, 3]: noise, a dark gradient, and one color."""
    rng = np.random.default_rng(0)
    gradient = np.linspace(20, 120, SIZE)[:, None, None] * np.array([1.0, 0.7, 0.4])
    return np.stack(
        [
            rng.integers(0, 256, (SIZE, SIZE, 3)),
            np.broadcast_to(gradient, (SIZE, SIZE, 3)),
            np.broadcast_to([200, 30, 90], (SIZE, SIZE, 3)),
        ]
    ).astype(np.uint8)


def transformed(name: str, direction: float = 1.0) -> Any:
    batch = pictures()
    kinds = tf.fill([len(batch)], TRANSFORMATIONS.index(name))
    return transform(tf.constant(batch), kinds, tf.fill([len(batch)], direction)).numpy()


REFERENCES: dict[str, Any] = {
    "identity": lambda picture: picture,
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
    "solarize": lambda picture: ImageOps.solarize(picture, int(MAGNITUDE / 10 * 256)),
    "posterize": lambda picture: ImageOps.posterize(picture, int(MAGNITUDE / 10 * 4)),
    "contrast": lambda picture: ImageEnhance.Contrast(picture).enhance(FACTOR),
    "brightness": lambda picture: ImageEnhance.Brightness(picture).enhance(FACTOR),
    "color": lambda picture: ImageEnhance.Color(picture).enhance(FACTOR),
    "sharpness": lambda picture: ImageEnhance.Sharpness(picture).enhance(FACTOR),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_color_transformation_equals_pillows(name: str) -> None:
    for picture, result in zip(pictures(), transformed(name), strict=True):
        expected = np.asarray(REFERENCES[name](Image.fromarray(picture)))
        # Rounding of means and blends differs by one or two.
        np.testing.assert_allclose(result.astype(int), expected.astype(int), atol=2)


@pytest.mark.parametrize("direction", [-1.0, 1.0])
@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("shear_x", (1, 0.27, 0, 1)),
        ("shear_y", (1, 0, 0.27, 1)),
        ("rotate", None),
    ],
)
def test_geometric_transformation_equals_pillows(
    name: str, matrix: tuple[float, ...] | None, direction: float
) -> None:
    if matrix is None:
        angle = math.radians(27) * direction
        a, b, d, e = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    else:
        a, b, d, e = matrix
        b, d = b * direction, d * direction
    centre = SIZE / 2
    c, f = centre - a * centre - b * centre, centre - d * centre - e * centre

    for picture, result in zip(pictures(), transformed(name, direction), strict=True):
        expected = Image.fromarray(picture).transform(
            (SIZE, SIZE),
            Image.Transform.AFFINE,
            (a, b, c, d, e, f),
            Image.Resampling.NEAREST,
            fillcolor=(128, 128, 128),
        )
        # Ties between two neighbours may be broken the other way.
        is_equal = (result == np.asarray(expected)).all(axis=2)
        assert is_equal.mean() > 0.97


@pytest.mark.parametrize(("name", "axis"), [("translate_x", 1), ("translate_y", 0)])
def test_translation_moves_by_a_share_of_the_side_and_fills_with_grey(name: str, axis: int) -> None:
    shift = round(MAGNITUDE / 10 * 150 / 331 * SIZE)

    picture, result = pictures()[0], transformed(name)[0]

    moved = np.moveaxis(result, axis, 0)
    np.testing.assert_array_equal(moved[: SIZE - shift], np.moveaxis(picture, axis, 0)[shift:])
    assert (moved[SIZE - shift :] == 128).all()


def test_every_picture_gets_two_transformations_of_its_own() -> None:
    num = 200
    rng = np.random.default_rng(1)
    draws = rng.random((num, NUM_RAND_AUGMENT_DRAWS), np.float32)
    batch = np.broadcast_to(pictures()[0], (num, SIZE, SIZE, 3))

    results = rand_augment(tf.constant(batch), tf.constant(draws)).numpy()

    for row in (0, 1, num - 1):
        expected = tf.constant(batch[row : row + 1])
        for step in range(2):
            kind, direction = draws[row, 2 * step], draws[row, 2 * step + 1]
            expected = transform(
                expected,
                tf.constant([int(kind * len(TRANSFORMATIONS))]),
                tf.constant([-1.0 if direction < 0.5 else 1.0]),
            )
        np.testing.assert_array_equal(results[row], expected[0])
    assert len(np.unique(results.reshape(num, -1), axis=0)) > num / 2
    # Two identities in a row are rare.
    assert (results == batch).all(axis=(1, 2, 3)).mean() < 0.1
