import io
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from repot.augmentation import (
    NUM_DRAWS,
    TrainingPictures,
    augment,
    crop_for_training,
    mixup,
)
from repot.preprocessing import central_crop, decode_jpeg
from repot.recipes import AUGMENTATIONS

NUM_PICTURES = 48
SIZE = 40


def encode(picture: Any, file_format: str = "PNG") -> bytes:
    """Return uint8 pixels as a file; PNG keeps them exactly."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(picture, np.uint8)).save(buffer, file_format)
    return buffer.getvalue()


def smooth_picture(height: int = 90, width: int = 120) -> Any:
    """Return uint8 pixels without strong edges; red grows to the right, green downwards."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return (40 + 150 * np.stack([x, y, (x + y) / 2], axis=2)).astype(np.uint8)


def crops(encoded: bytes, augmentation: str, **options: Any) -> TrainingPictures:
    """Return a batch of crops of one file with different seeds, as tf.data makes them."""
    dataset = tf.data.Dataset.range(NUM_PICTURES).map(
        lambda index: crop_for_training(
            tf.constant(encoded),
            SIZE,
            tf.stack([tf.constant(11, tf.int64), index]),
            augmentation=augmentation,
            **options,
        )
    )
    (batch,) = dataset.batch(NUM_PICTURES)
    return batch  # type: ignore[no-any-return]


def inputs(pictures: TrainingPictures, augmentation: str, *, flip: bool = True) -> Any:
    return augment(pictures, augmentation=augmentation, flip=flip).numpy()


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_crop_depends_only_on_its_seed(augmentation: str) -> None:
    encoded = encode(smooth_picture(), "JPEG")
    batch = crops(encoded, augmentation)

    for index in (0, 7):
        alone = crop_for_training(encoded, SIZE, [11, index], augmentation=augmentation)
        np.testing.assert_array_equal(alone.pixels, batch.pixels[index])
        np.testing.assert_array_equal(alone.draws, batch.draws[index])
    assert len(np.unique(batch.draws, axis=0)) == NUM_PICTURES


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_input_of_a_picture_does_not_depend_on_its_batch(augmentation: str) -> None:
    batch = crops(encode(smooth_picture()), augmentation)
    some = TrainingPictures(batch.pixels[3:5], batch.draws[3:5])

    np.testing.assert_allclose(
        inputs(some, augmentation), inputs(batch, augmentation)[3:5], atol=1e-6
    )


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_inputs_are_pictures_in_the_unit_range(augmentation: str) -> None:
    rng = np.random.default_rng(0)
    batch = crops(encode(rng.integers(0, 256, (50, 70, 3))), augmentation)

    found = inputs(batch, augmentation)

    assert found.shape == (NUM_PICTURES, SIZE, SIZE, 3)
    assert found.dtype == np.float32
    assert 0 <= found.min() < 0.3
    assert 0.7 < found.max() <= 1


@pytest.mark.parametrize("augmentation", ["light", "inception", "randaugment"])
def test_picture_of_one_pixel_is_accepted(augmentation: str) -> None:
    batch = crops(encode(np.full((1, 1, 3), 100)), augmentation)

    assert np.isfinite(inputs(batch, augmentation)).all()


def test_none_is_what_evaluation_sees_rounded_to_8_bits() -> None:
    encoded = encode(np.random.default_rng(0).integers(0, 256, (300, 411, 3)), "JPEG")

    found = inputs(crops(encoded, "none"), "none")

    expected = central_crop(decode_jpeg(encoded), SIZE).numpy()
    np.testing.assert_allclose(found, np.tile(expected, (NUM_PICTURES, 1, 1, 1)), atol=0.501 / 255)


@pytest.mark.parametrize("augmentation", ["flip", "light", "inception"])
def test_about_half_of_the_pictures_are_mirrored_unless_flips_are_off(augmentation: str) -> None:
    batch = crops(encode(smooth_picture()), augmentation)

    for flip, low, high in ((True, 0.25, 0.75), (False, 0, 0)):
        found = inputs(batch, augmentation, flip=flip)
        # Red grows to the right; means of many pixels, because of nearest-neighbour resizing.
        is_mirrored = found[:, :, :8, 0].mean(axis=(1, 2)) > found[:, :, -8:, 0].mean(axis=(1, 2))
        assert low <= is_mirrored.mean() <= high


def test_flip_mirrors_the_pictures_of_none_exactly() -> None:
    batch = crops(encode(smooth_picture()), "flip")

    original = inputs(batch, "none")
    is_mirrored = batch.draws.numpy()[:, 1] < 0.5
    expected = np.where(is_mirrored[:, None, None, None], original[:, :, ::-1], original)
    np.testing.assert_array_equal(inputs(batch, "flip"), expected)


@pytest.mark.parametrize(
    ("augmentation", "smallest_area"), [("light", 0.5), ("inception", 0.05), ("randaugment", 0.08)]
)
def test_crops_have_the_areas_of_the_augmentation(augmentation: str, smallest_area: float) -> None:
    pixels = crops(encode(smooth_picture(400, 400)), augmentation).pixels.numpy().astype(float)

    # Red and green tell how wide and how high a crop is.
    width = (pixels[:, :, -1, 0] - pixels[:, :, 0, 0]).mean(axis=1) / 150
    height = (pixels[:, -1, :, 1] - pixels[:, 0, :, 1]).mean(axis=1) / 150
    areas = width * height * (SIZE / (SIZE - 1)) ** 2
    assert smallest_area * 0.8 < areas.min() < smallest_area + 0.2
    assert 0.75 < areas.max() < 1.1


def test_crops_contain_a_part_of_a_box() -> None:
    picture = np.zeros((200, 200, 3))
    picture[150:, 150:] = 255
    boxes = tf.constant([[0.75, 0.75, 1.0, 1.0]])

    with_box = crops(encode(picture), "inception", boxes=boxes).pixels.numpy()
    without = crops(encode(picture), "inception").pixels.numpy()

    assert (with_box.max(axis=(1, 2, 3)) == 255).all()
    assert (without.max(axis=(1, 2, 3)) < 255).sum() > 5
    no_boxes = crops(encode(picture), "inception", boxes=tf.zeros([0, 4])).pixels.numpy()
    np.testing.assert_array_equal(no_boxes, without)


def test_no_resizing_method_exceeds_white() -> None:
    white = np.full((61, 83, 3), 255.0)

    found = crops(encode(white), "inception")

    assert set((found.draws.numpy()[:, 0] * 4).astype(int)) == {0, 1, 2, 3}
    assert np.all(found.pixels.numpy() == 255)


def test_inception_resizes_a_quarter_of_the_pictures_by_each_method() -> None:
    rng = np.random.default_rng(1)
    black_and_white = np.where(rng.random((30, 30, 1)) < 0.5, 60, 160) * np.ones((1, 1, 3))
    pixels = crops(encode(black_and_white), "inception").pixels.numpy()

    # Nearest neighbours keep two values, bicubic overshoots, the others stay between.
    num_nearest = sum(len(np.unique(picture)) <= 2 for picture in pixels)
    num_bicubic = sum(picture.min() < 60 or picture.max() > 160 for picture in pixels)
    assert 0.1 < num_nearest / NUM_PICTURES < 0.4
    assert 0.1 < num_bicubic / NUM_PICTURES < 0.4


def test_inception_colors_are_those_of_the_original_operations() -> None:
    """The reference applies TensorFlow's operations to one picture after the other."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (NUM_PICTURES, 12, 12, 3), dtype=np.uint8)
    draws = rng.random((NUM_PICTURES, NUM_DRAWS), np.float32)

    found = inputs(TrainingPictures(tf.constant(pixels), tf.constant(draws)), "inception")

    for picture, (variant, flip, brightness, saturation, hue, contrast), result in zip(
        pixels, draws[:, :6], found, strict=True
    ):
        expected = tf.constant(picture, tf.float32) / 255
        expected = expected[:, ::-1] if flip < 0.5 else expected
        expected = tf.image.adjust_brightness(expected, 32 / 255 * (2 * brightness - 1))
        if int(4 * variant) in (1, 3):
            expected = tf.image.adjust_contrast(expected, 0.5 + contrast)
        expected = tf.image.adjust_saturation(expected, 0.5 + saturation)
        expected = tf.image.adjust_hue(expected, 0.2 * (2 * hue - 1))
        if int(4 * variant) in (0, 2):
            expected = tf.image.adjust_contrast(expected, 0.5 + contrast)
        np.testing.assert_allclose(result, tf.clip_by_value(expected, 0, 1), atol=1e-5)


@pytest.mark.parametrize("augmentation", ["inception", "light"])
def test_compiled_augmentation_has_equal_results(augmentation: str) -> None:
    batch = crops(encode(smooth_picture()), augmentation)

    compiled = tf.function(
        lambda pictures: augment(pictures, augmentation=augmentation, flip=True), jit_compile=True
    )

    np.testing.assert_allclose(compiled(batch), inputs(batch, augmentation), atol=2e-5)


def test_light_and_large_jpegs_are_decoded_at_a_fraction() -> None:
    """A pattern of single pixels is grey after libjpeg has averaged blocks of pixels."""
    checks = np.indices((16 * SIZE, 16 * SIZE)).sum(axis=0) % 2 * 255
    encoded = encode(np.repeat(checks[:, :, None], 3, axis=2), "JPEG")

    pixels = crops(encoded, "light").pixels.numpy()

    assert np.abs(pixels.astype(int) - 127).max() < 40


def test_mixup_blends_pairs_and_leaves_padding_alone() -> None:
    rng = np.random.default_rng(3)
    pictures = rng.random((7, 4, 4, 3)).astype(np.float32)
    targets = np.eye(7, dtype=np.float32)
    mask = np.array([1, 1, 1, 1, 1, 0, 1], np.float32)
    draws = rng.uniform(0.2, 0.8, (7, NUM_DRAWS)).astype(np.float32)

    mixed, mixed_targets = (value.numpy() for value in mixup(pictures, targets, mask, draws))

    for row in (4, 5, 6):  # the neighbour of padding, padding, and one without a neighbour
        np.testing.assert_allclose(mixed[row], pictures[row], atol=1e-6)
        np.testing.assert_allclose(mixed_targets[row], targets[row], atol=1e-6)
    for row, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        own = mixed_targets[row, row]
        assert 0.01 < own < 0.99
        assert mixed_targets[row, other] == pytest.approx(1 - own, abs=1e-6)
        expected = own * pictures[row] + (1 - own) * pictures[other]
        np.testing.assert_allclose(mixed[row], expected, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_weights_have_a_beta_distribution(alpha: float) -> None:
    num = 4096
    draws = np.zeros((num, NUM_DRAWS), np.float32)
    draws[:, 6] = (np.arange(num) + 0.5) / num
    targets = np.tile(np.eye(2, dtype=np.float32), (num // 2, 1))

    _, mixed = mixup(
        np.zeros((num, 1, 1, 3), np.float32), targets, np.ones(num), draws, alpha=alpha
    )

    own = np.where(np.arange(num) % 2 == 0, mixed[:, 0], mixed[:, 1])
    assert own.mean() == pytest.approx(0.5, abs=2e-3)
    # Variance of Beta(a, a)
    assert own.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=2e-3)
