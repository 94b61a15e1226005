"""Augmentation: random crops on the host, random flips and colours on the device.

`crop_for_training` decodes one file in tf.data and returns a cropped and resized uint8 picture with
a row of random numbers. `augment` turns a batch of them into the model's input inside the compiled
training step. All random numbers of a picture come from its own seed and are drawn on the host, so
they depend neither on the device nor on the batch that the picture is in.

The augmentations are listed in `repot.recipes.AUGMENTATIONS`:

    none         the pixels of evaluation
    flip         the same, mirrored with probability 1/2
    light        a crop of at least half of the picture, mirrored
    inception    the 2016 program's crops and colours, mirrored
    randaugment  a random crop, mirrored, then RandAugment (`repot.rand_augment`)
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from repot.preprocessing import (
    LEGACY_RESIZERS,
    central_window,
    decode_window,
    mirror,
    resize_legacy,
    to_unit_range,
)
from repot.rand_augment import NUM_RAND_AUGMENT_DRAWS, rand_augment

_VARIANT, _FLIP, _BRIGHTNESS, _SATURATION, _HUE, _CONTRAST, _MIXUP = range(7)
_FIRST_RAND_AUGMENT = 7
NUM_DRAWS = _FIRST_RAND_AUGMENT + NUM_RAND_AUGMENT_DRAWS
"""Random numbers per picture. Every augmentation draws all of them, and each has its own column."""

# Source: research/inception, image_processing.py:distort_color.
_MAX_BRIGHTNESS_DELTA = 32 / 255
_MAX_HUE_DELTA = 0.2
_FACTOR_RANGE = (0.5, 1.5)

# Named, because the default depends on the device.
_PHILOX = tf.random.Algorithm.PHILOX
_QUANTILE_POINTS = 1025


class TrainingPictures(NamedTuple):
    """The inputs of a training batch, or those of one example.

    Attributes:
        pixels: uint8 [batch, image_size, image_size, 3], RGB, cropped and resized.
        draws: float32 [batch, NUM_DRAWS], random numbers in [0, 1); zeros for padding.
    """

    pixels: Any
    draws: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class _Crop:
    """Random crops of one augmentation.

    Attributes:
        area: Range of the crop's share of the picture's area.
        aspect_ratio: Range of its width divided by its height.
        varies_resize: Whether the resizing method is drawn too, as in 2016; otherwise bilinear.
    """

    area: tuple[float, float]
    aspect_ratio: tuple[float, float]
    varies_resize: bool = False


_CROPS = {
    "light": _Crop(area=(0.5, 1.0), aspect_ratio=(0.8, 1.25)),
    # Source: research/inception, image_processing.py:distort_image.
    "inception": _Crop(area=(0.05, 1.0), aspect_ratio=(0.75, 1.33), varies_resize=True),
    # Source: Szegedy et al. 2015, Going deeper with convolutions, section 6.
    "randaugment": _Crop(area=(0.08, 1.0), aspect_ratio=(3 / 4, 4 / 3)),
}


def crop_for_training(
    encoded: Any, image_size: int, seed: Any, *, augmentation: str, boxes: Any = None
) -> TrainingPictures:
    """Decode, crop and resize one picture.

    A JPEG is decoded together with the crop, so that pixels outside it cost less. If both sides of
    a random crop are at least twice `image_size`, libjpeg decodes at 1/2, 1/4 or 1/8 of the size.

    Args:
        encoded: string [], a JPEG file; PNG files and single-frame GIF files work too.
        image_size: Height and width of the result in pixels.
        seed: int32 or int64 [2], not negative; equal seeds give equal results.
        augmentation: A key of `repot.recipes.AUGMENTATIONS`.
        boxes: float32 [boxes, 4], objects as (ymin, xmin, ymax, xmax) in [0, 1]; a random crop
            contains at least a tenth of one of them. None or no boxes stand for the whole picture.

    Returns:
        uint8 [image_size, image_size, 3] pixels and float32 [NUM_DRAWS] random numbers.
    """
    crop_seed = tf.cast(seed, tf.int64)
    draw_seed = tf.bitwise.invert(crop_seed)  # no seed of another picture
    draws = tf.random.stateless_uniform([NUM_DRAWS], draw_seed, alg=_PHILOX)
    style, square = _CROPS.get(augmentation), (image_size, image_size)
    if style is None:
        # Evaluation decodes at full size, and these augmentations see its pixels.
        window = decode_window(encoded, central_window)
        return TrainingPictures(_to_uint8(resize_legacy(window, square)), draws)
    window = decode_window(
        encoded,
        lambda shape: _random_window(shape, boxes, crop_seed, style),
        min_side=image_size,
    )
    if not style.varies_resize:
        return TrainingPictures(_to_uint8(resize_legacy(window, square)), draws)
    methods = [
        lambda method=method: _to_uint8(
            resize_legacy(window, square, method), overshoots=method == "bicubic"
        )
        for method in LEGACY_RESIZERS
    ]
    return TrainingPictures(tf.switch_case(_variant(draws), methods), draws)


def augment(pictures: TrainingPictures, *, augmentation: str, flip: bool) -> Any:
    """Return the model's input for the pictures of a training batch.

    It works on whole batches with elementwise operations, so that XLA fuses it into few kernels.

    Args:
        pictures: A batch from `crop_for_training`.
        augmentation: The augmentation that they were cropped for.
        flip: Whether pictures may be mirrored; switch it off for text, or for labels that mean left
            or right.

    Returns:
        float32 [batch, image_size, image_size, 3], RGB, in [0, 1].
    """
    pixels, draws = pictures
    if flip and augmentation != "none":
        pixels = tf.where(_column(draws, _FLIP) < 0.5, mirror(pixels), pixels)
    if augmentation == "randaugment":
        pixels = rand_augment(pixels, draws[:, _FIRST_RAND_AUGMENT:])
    inputs = to_unit_range(pixels)
    return _recolour(inputs, draws) if augmentation == "inception" else inputs


def mixup(inputs: Any, targets: Any, mask: Any, draws: Any, *, alpha: float = 0.2) -> Any:
    """Blend the two examples of every pair of neighbouring rows, each with weights of its own.

    Rows 0 and 1 are a pair, 2 and 3, and so on: whoever divides a batch at even rows, such as
    between devices, changes nothing. Padding, its neighbour, and a row without one stay as they
    are.
    Source: Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization; alpha = 0.2 is theirs for
    ImageNet, where they draw one weight per batch.

    Args:
        inputs: float32 [batch, height, width, 3], augmented pictures.
        targets: float32 [batch, classes], probabilities of the classes.
        mask: float32 [batch], 1 for an example, 0 for padding.
        draws: float32 [batch, NUM_DRAWS], of the same pictures.
        alpha: The weights come from the distribution Beta(alpha, alpha).

    Returns:
        The blended inputs and targets.
    """
    rows = tf.range(tf.shape(draws)[0])
    others = tf.minimum(tf.bitwise.bitwise_xor(rows, 1), rows[-1])
    own = _beta_quantile(draws[:, _MIXUP], alpha)
    own = tf.where(mask * tf.gather(mask, others) > 0, own, 1.0)
    weight = own[:, tf.newaxis, tf.newaxis, tf.newaxis]
    mixed = weight * inputs + (1 - weight) * tf.gather(inputs, others)
    weight = own[:, tf.newaxis]
    return mixed, weight * targets + (1 - weight) * tf.gather(targets, others)


def _variant(draws: Any) -> Any:
    """Return which of the four preprocessing threads of 2016 a picture goes through, int32 [...].

    Threads 0 and 2 change the contrast last, threads 1 and 3 after the brightness. Each thread has
    a resizing method of its own, see `repot.preprocessing.LEGACY_RESIZERS`.
    """
    return tf.cast(draws[..., _VARIANT] * 4, tf.int32)


def _random_window(shape: Any, boxes: Any, seed: Any, style: _Crop) -> Any:
    """Return a random window int32 [4] of a picture: top, left, height, width in pixels."""
    if boxes is None:
        boxes = tf.zeros([0, 4])
    # Its random numbers come from the CPU's generator; it has no choice of one.
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([shape[:2], [3]], axis=0),
        bounding_boxes=boxes[tf.newaxis],
        seed=seed,
        min_object_covered=0.1,
        aspect_ratio_range=style.aspect_ratio,
        area_range=style.area,
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)


def _to_uint8(pixels: Any, *, overshoots: bool = False) -> Any:
    """Round float32 pixels in 0..255.

    Args:
        pixels: The pixels; uint8 ones are returned as they are.
        overshoots: Whether they can be outside of the range, as after bicubic resizing. Clipping
            all of them would take a twentieth of the time that the host needs for a picture.
    """
    if pixels.dtype == tf.uint8:
        return pixels
    # One operation that clips takes half of the time of tf.saturate_cast.
    clipped = tf.raw_ops.ClipByValue(t=pixels, clip_value_min=0.0, clip_value_max=255.0)
    return tf.cast(tf.round(clipped if overshoots else pixels), tf.uint8)


def _column(draws: Any, index: int) -> Any:
    """Return one random number per picture, float32 [batch, 1, 1, 1]."""
    return draws[:, index, tf.newaxis, tf.newaxis, tf.newaxis]


def _recolour(inputs: Any, draws: Any) -> Any:
    """Change brightness, saturation, hue and contrast of pictures in [0, 1], each by its own draws.

    Saturation and hue are neighbours in both orders of 2016, so one conversion to HSV serves both.
    Source: research/inception, image_processing.py:distort_color.
    """
    low, high = _FACTOR_RANGE
    contrast, saturation = (
        low + (high - low) * _column(draws, index) for index in (_CONTRAST, _SATURATION)
    )
    brightness, hue = (
        limit * (2 * _column(draws, index) - 1)
        for index, limit in ((_BRIGHTNESS, _MAX_BRIGHTNESS_DELTA), (_HUE, _MAX_HUE_DELTA))
    )
    contrast_is_last = (_variant(draws) % 2 == 0)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    inputs = _change_contrast(inputs + brightness, tf.where(contrast_is_last, 1.0, contrast))
    old_hue, old_saturation, value = tf.split(tf.image.rgb_to_hsv(inputs), 3, axis=-1)
    inputs = tf.image.hsv_to_rgb(
        tf.concat(
            [
                tf.math.floormod(old_hue + hue, 1.0),
                tf.clip_by_value(old_saturation * saturation, 0.0, 1.0),
                value,
            ],
            axis=-1,
        )
    )
    inputs = _change_contrast(inputs, tf.where(contrast_is_last, contrast, 1.0))
    return tf.clip_by_value(inputs, 0.0, 1.0)


def _change_contrast(inputs: Any, factor: Any) -> Any:
    mean = tf.reduce_mean(inputs, axis=[1, 2], keepdims=True)
    return mean + factor * (inputs - mean)


def _beta_quantile(probabilities: Any, alpha: float) -> Any:
    """Return the quantiles of Beta(alpha, alpha), float32 as `probabilities`, from a table."""
    with tf.init_scope():
        # The density is highest at 0 and 1, where these points are close to each other.
        points = np.sin(np.linspace(0, math.pi / 2, _QUANTILE_POINTS)) ** 2
        table = tf.math.betainc(alpha, alpha, points).numpy()
    x, y = tf.constant(table, tf.float32), tf.constant(points, tf.float32)
    right = tf.clip_by_value(tf.searchsorted(x, probabilities, side="right"), 1, len(points) - 1)
    x0, x1 = tf.gather(x, right - 1), tf.gather(x, right)
    y0, y1 = tf.gather(y, right - 1), tf.gather(y, right)
    return y0 + (y1 - y0) * tf.math.divide_no_nan(probabilities - x0, x1 - x0)
