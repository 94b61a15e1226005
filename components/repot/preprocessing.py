"""Pictures as tensors: float32 [height, width, 3], RGB, in [0, 1].

What each function does is what the 2016 programs did, value for value where no chance is involved:
research/inception/inception/image_processing.py of tensorflow/models. Chance comes from a seed that the caller gives,
so that the same picture in the same epoch is distorted alike in every run. The network's own range is the first layer
of the classifier.
"""

from typing import Any

import tensorflow as tf

# Share of height and of width that evaluation keeps.
_CENTRAL_FRACTION = 0.875
_MAX_BRIGHTNESS_DELTA = 32 / 255
_MAX_HUE_DELTA = 0.2
_FACTOR_RANGE = (0.5, 1.5)
_WHOLE_PICTURE = ((0.0, 0.0, 1.0, 1.0),)


def decode_jpeg(data: Any) -> Any:
    """Decode one JPEG.

    Args:
        data: string [], the bytes of a JPEG (PNG and single GIF pictures are decoded too).

    Returns:
        float32 [height, width, 3], RGB, in [0, 1].
    """
    return to_unit_range(tf.io.decode_jpeg(data, channels=3))


def decode_picture(data: Any) -> Any:
    """Decode one JPEG, PNG, GIF (first frame) or BMP; otherwise as `decode_jpeg`."""
    pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
    return to_unit_range(tf.ensure_shape(pixels, (None, None, 3)))


def to_unit_range(pixels: Any) -> Any:
    """Return uint8 pixels as float32 in [0, 1]."""
    return tf.image.convert_image_dtype(pixels, tf.float32)


def eval_image(image: Any, image_size: int) -> Any:
    """Return the centre of a picture at the network's size: what evaluation and prediction see.

    Args:
        image: float32 [height, width, 3].
        image_size: Height and width of the result in pixels.

    Returns:
        float32 [image_size, image_size, 3]: 0.875 of each side, resized with the sampling of TensorFlow 1 (no
        half-pixel centres), as the 2016 weights were evaluated.
    """
    centre = tf.image.central_crop(image, _CENTRAL_FRACTION)
    return _resize(tf.raw_ops.ResizeBilinear, centre, image_size)


def distort_image(image: Any, image_size: int, seed: Any) -> Any:
    """Return a random crop of a picture, flipped and with its colours changed: what training sees.

    A quarter of the pictures each is resized and coloured in one of the four ways that the 2016 program's
    preprocessing threads had.

    Args:
        image: float32 [height, width, 3].
        image_size: Height and width of the result in pixels.
        seed: int32 or int64 [2]; the same seed gives the same result.

    Returns:
        float32 [image_size, image_size, 3], in [0, 1].
    """
    crop_seed, flip_seed, way_seed, colour_seed = tf.unstack(tf.random.split(seed, 4))
    crop = _random_crop(image, crop_seed)
    way = tf.random.stateless_uniform((), way_seed, maxval=4, dtype=tf.int32)
    branches = (
        lambda: _colour(
            _resize(tf.raw_ops.ResizeBilinear, crop, image_size), colour_seed, contrast_last=True
        ),
        lambda: _colour(
            _resize(tf.raw_ops.ResizeNearestNeighbor, crop, image_size),
            colour_seed,
            contrast_last=False,
        ),
        lambda: _colour(
            _resize(tf.raw_ops.ResizeBicubic, crop, image_size), colour_seed, contrast_last=True
        ),
        lambda: _colour(
            _resize(tf.raw_ops.ResizeArea, crop, image_size), colour_seed, contrast_last=False
        ),
    )
    coloured = tf.switch_case(way, branches)
    return tf.clip_by_value(
        tf.image.stateless_random_flip_left_right(coloured, flip_seed), 0.0, 1.0
    )


def _random_crop(image: Any, seed: Any) -> Any:
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.constant([_WHOLE_PICTURE]),
        seed=seed,
        min_object_covered=0.1,
        aspect_ratio_range=(0.75, 1.33),
        area_range=(0.05, 1.0),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.ensure_shape(tf.slice(image, begin, size), (None, None, 3))


def _resize(operation: Any, image: Any, image_size: int) -> Any:
    """Resize to a square with the sampling of TensorFlow 1, whatever the aspect."""
    size = (image_size, image_size)
    return operation(images=image[tf.newaxis], size=size, align_corners=False)[0]


def _colour(image: Any, seed: Any, *, contrast_last: bool) -> Any:
    """Change brightness, saturation, hue and contrast: contrast last, or second."""
    brightness_seed, saturation_seed, hue_seed, contrast_seed = tf.unstack(tf.random.split(seed, 4))
    image = tf.image.stateless_random_brightness(image, _MAX_BRIGHTNESS_DELTA, brightness_seed)
    if not contrast_last:
        image = tf.image.stateless_random_contrast(image, *_FACTOR_RANGE, contrast_seed)
    image = tf.image.stateless_random_saturation(image, *_FACTOR_RANGE, saturation_seed)
    image = tf.image.stateless_random_hue(image, _MAX_HUE_DELTA, hue_seed)
    if contrast_last:
        image = tf.image.stateless_random_contrast(image, *_FACTOR_RANGE, contrast_seed)
    return image
