"""RandAugment for a batch: every picture goes through two random transformations of its own.

Source: Cubuk et al. 2019, RandAugment: Practical automated data augmentation with a reduced search
space, with the 14 transformations of its section 3, N = 2 and M = 9, its values for ResNet-50 on
ImageNet. The strength of each transformation is that of the authors' implementation
(tensorflow/tpu, efficientnet/autoaugment.py), except that contrast is relative to the picture's
mean brightness, as in Pillow, and that pictures are rotated and sheared around their centre.

`keras.layers.RandAugment` is not used: it draws the transformations once per batch, not per
picture, from a generator with a state of its own, and computes all of its layers for each of the
two; the pictures of a resumed training would differ.

Transformations that map each channel by itself are tables of 256 values, and the others are a blend
with another picture or a change of coordinates. So a batch is transformed without branches.
"""

import math
from typing import Any

import tensorflow as tf

NUM_TRANSFORMATIONS = 2
MAGNITUDE = 9

TRANSFORMATIONS = (
    "identity",
    "autocontrast",
    "equalize",
    "solarize",
    "posterize",
    "contrast",
    "brightness",
    "color",
    "sharpness",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
NUM_RAND_AUGMENT_DRAWS = 2 * NUM_TRANSFORMATIONS
"""Per transformation: which one it is, and in which direction it goes."""

_FACTOR = MAGNITUDE / 10 * 1.8 + 0.1  # of contrast, brightness, colour and sharpness
_POSTERIZE_BITS = int(MAGNITUDE / 10 * 4)
_SOLARIZE_THRESHOLD = int(MAGNITUDE / 10 * 256)
_ANGLE = math.radians(MAGNITUDE / 10 * 30)
_SHEAR = MAGNITUDE / 10 * 0.3
# 150 of 331 pixels. Source: Cubuk et al. 2018, AutoAugment, table 6.
_TRANSLATION = MAGNITUDE / 10 * 150 / 331
_FILL = 128  # value of pixels that come from outside the picture

# Source: ITU-R BT.601, as Pillow's convert("L").
_LUMA = (0.299, 0.587, 0.114)
# Source: Pillow, ImageFilter.SMOOTH.
_SMOOTHING = ((1, 1, 1), (1, 5, 1), (1, 1, 1))


def rand_augment(pixels: Any, draws: Any) -> Any:
    """Return the transformed pictures.

    Args:
        pixels: uint8 [batch, size, size, 3], RGB.
        draws: float32 [batch, NUM_RAND_AUGMENT_DRAWS], random numbers in [0, 1).

    Returns:
        uint8 [batch, size, size, 3].
    """
    for index in range(NUM_TRANSFORMATIONS):
        # int32 [batch] and float32 [batch], -1 or 1
        kinds = tf.cast(draws[:, 2 * index] * len(TRANSFORMATIONS), tf.int32)
        directions = tf.where(draws[:, 2 * index + 1] < 0.5, -1.0, 1.0)
        pixels = transform(pixels, kinds, directions)
    return pixels


def transform(pixels: Any, kinds: Any, directions: Any) -> Any:
    """Apply one transformation to each picture.

    Args:
        pixels: uint8 [batch, size, size, 3], RGB.
        kinds: int32 [batch], indices into TRANSFORMATIONS.
        directions: float32 [batch], -1 or 1: of rotation, shear and translation.

    Returns:
        uint8 [batch, size, size, 3].
    """
    values = tf.cast(pixels, tf.int32)
    is_kind = {name: kinds == index for index, name in enumerate(TRANSFORMATIONS)}
    values = _map_channels(values, is_kind)
    values = _blend(values, is_kind)
    return tf.cast(_warp(values, is_kind, directions), tf.uint8)


def _select(is_kind: dict[str, Any], values: dict[str, Any], default: Any) -> Any:
    """Return, for each picture, the value of its transformation, or the default."""
    for name, value in values.items():
        chosen = tf.reshape(is_kind[name], [-1] + [1] * (default.shape.rank - 1))
        default = tf.where(chosen, value, default)
    return default


def _map_channels(values: Any, is_kind: dict[str, Any]) -> Any:
    """Apply the transformations that look up each value in a table.

    Args:
        values: int32 [batch, size, size, 3] in 0..255.
        is_kind: Transformation -> bool [batch], which pictures have it.
    """
    # Index of each value in the batch's tables, int32 [batch, size, size, 3]
    num_tables = 3 * tf.shape(values)[0]
    tables_of_pixels = tf.reshape(tf.range(num_tables), [-1, 1, 1, 3])
    indices = tables_of_pixels * 256 + values
    # int32 [batch, 3, 256]: number of pixels of each value
    histograms = tf.reshape(
        tf.math.unsorted_segment_sum(tf.ones_like(indices), indices, num_segments=256 * num_tables),
        [-1, 3, 256],
    )
    identity = tf.broadcast_to(tf.range(256), tf.shape(histograms))
    grey = tf.round(_luma(tf.cast(values, tf.float32)))
    mean_grey = tf.round(tf.reduce_mean(grey, axis=[1, 2]))[:, tf.newaxis]  # [batch, 1, 1]
    tables = _select(
        is_kind,
        {
            "autocontrast": _autocontrast_tables(histograms),
            "equalize": _equalize_tables(histograms),
            "solarize": tf.where(identity < _SOLARIZE_THRESHOLD, identity, 255 - identity),
            "posterize": identity // 2 ** (8 - _POSTERIZE_BITS) * 2 ** (8 - _POSTERIZE_BITS),
            "contrast": _blend_values(mean_grey, tf.cast(identity, tf.float32)),
            "brightness": _blend_values(0.0, tf.cast(identity, tf.float32)),
        },
        identity,
    )
    return tf.gather(tf.reshape(tables, [-1]), indices)


def _autocontrast_tables(histograms: Any) -> Any:
    """Return the tables that stretch each channel to 0..255; one of a single value stays."""
    levels = tf.range(256)
    low = tf.reduce_min(tf.where(histograms > 0, levels, 255), axis=-1, keepdims=True)
    high = tf.reduce_max(tf.where(histograms > 0, levels, 0), axis=-1, keepdims=True)
    stretched = (levels - low) * 255 // tf.maximum(high - low, 1)
    return tf.where(high > low, tf.clip_by_value(stretched, 0, 255), levels)


def _equalize_tables(histograms: Any) -> Any:
    """Return the tables of histogram equalisation. Source: Pillow, ImageOps.equalize."""
    levels = tf.range(256)
    last = tf.reduce_max(tf.where(histograms > 0, levels, 0), axis=-1, keepdims=True)
    num_last = tf.reduce_sum(tf.where(levels == last, histograms, 0), axis=-1, keepdims=True)
    step = (tf.reduce_sum(histograms, axis=-1, keepdims=True) - num_last) // 255
    before = tf.cumsum(histograms, axis=-1, exclusive=True)
    equalized = (before + step // 2) // tf.maximum(step, 1)
    return tf.where(step > 0, tf.clip_by_value(equalized, 0, 255), levels)


def _blend(values: Any, is_kind: dict[str, Any]) -> Any:
    """Apply the transformations that move pixels away from a grey or a smoothed picture."""
    pixels = tf.cast(values, tf.float32)
    changed = {
        "color": _blend_values(tf.round(_luma(pixels)), pixels),
        "sharpness": _blend_values(_smooth(pixels), pixels),
    }
    return _select(is_kind, changed, values)


def _blend_values(start: Any, values: Any) -> Any:
    """Return the int32 values that are _FACTOR times as far from `start`, clipped to 0..255."""
    return tf.cast(tf.clip_by_value(start + _FACTOR * (values - start), 0.0, 255.0), tf.int32)


def _luma(pixels: Any) -> Any:
    return tf.reduce_sum(pixels * tf.constant(_LUMA), axis=-1, keepdims=True)


def _smooth(pixels: Any) -> Any:
    """Return float32 pictures smoothed except at their border, as Pillow does."""
    kernel = tf.constant(_SMOOTHING, tf.float32)
    size = pixels.shape[1]
    smoothed = tf.nn.depthwise_conv2d(
        pixels,
        tf.tile((kernel / tf.reduce_sum(kernel))[:, :, tf.newaxis, tf.newaxis], [1, 1, 3, 1]),
        strides=[1, 1, 1, 1],
        padding="SAME",
    )
    is_inner = tf.pad(tf.ones([size - 2, size - 2], tf.bool), [[1, 1], [1, 1]])
    return tf.where(is_inner[:, :, tf.newaxis], tf.round(smoothed), pixels)


def _warp(values: Any, is_kind: dict[str, Any], directions: Any) -> Any:
    """Rotate, shear or move pictures, int32 [batch, size, size, 3]; takes the nearest pixels."""
    size = values.shape[1]
    zeros, ones = tf.zeros_like(directions), tf.ones_like(directions)
    cos, sin = math.cos(_ANGLE) * ones, math.sin(_ANGLE) * directions
    shear, shift = _SHEAR * directions, _TRANSLATION * size * directions
    # float32 [batch, 6]: the source is (a x + b y + c, d x + e y + f), from the centre.
    matrices = _select(
        is_kind,
        {
            "rotate": tf.stack([cos, -sin, zeros, sin, cos, zeros], axis=1),
            "shear_x": tf.stack([ones, shear, zeros, zeros, ones, zeros], axis=1),
            "shear_y": tf.stack([ones, zeros, zeros, shear, ones, zeros], axis=1),
            "translate_x": tf.stack([ones, zeros, shift, zeros, ones, zeros], axis=1),
            "translate_y": tf.stack([ones, zeros, zeros, zeros, ones, shift], axis=1),
        },
        tf.stack([ones, zeros, zeros, zeros, ones, zeros], axis=1),
    )
    a, b, c, d, e, f = (matrices[:, i, tf.newaxis, tf.newaxis] for i in range(6))
    centre = (size - 1) / 2
    y = tf.range(size, dtype=tf.float32)[:, tf.newaxis] - centre
    x = tf.range(size, dtype=tf.float32)[tf.newaxis, :] - centre
    # int32 [batch, size, size]
    source_x = tf.cast(tf.round(a * x + b * y + c + centre), tf.int32)
    source_y = tf.cast(tf.round(d * x + e * y + f + centre), tf.int32)
    is_inside = (source_x >= 0) & (source_x < size) & (source_y >= 0) & (source_y < size)
    first = tf.range(tf.shape(values)[0])[:, tf.newaxis, tf.newaxis] * size * size
    indices = first + tf.where(is_inside, source_y * size + source_x, 0)
    moved = tf.gather(tf.reshape(values, [-1, 3]), indices)
    return tf.where(is_inside[..., tf.newaxis], moved, _FILL)
