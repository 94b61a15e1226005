"""Decode, crop and distort pictures: float32 [height, width, 3], RGB, in [0, 1].

Except for randomness, every function computes the values that the 2016 programs computed. Random
numbers come from a seed argument, so a picture is distorted in the same way in every run. The
classifier's first layer rescales pictures to the backbone's value range.

Source: tensorflow/models, research/inception/inception/image_processing.py.
"""

from typing import Any, Literal

import tensorflow as tf

View = Literal["central", "whole", "padded"]
"""Which part of a picture a model sees outside training, see `view_picture`."""

# Share of height and width that evaluation keeps.
_CENTRAL_FRACTION = 0.875
_MAX_BRIGHTNESS_DELTA = 32 / 255
_MAX_HUE_DELTA = 0.2
_FACTOR_RANGE = (0.5, 1.5)
_WHOLE_PICTURE = ((0.0, 0.0, 1.0, 1.0),)
# Mid-grey, which is zero in the value range of most backbones.
_PADDING_VALUE = 0.5


def decode_jpeg(data: Any) -> Any:
    """Decode one JPEG.

    Args:
        data: string [], a JPEG file; PNG files and single-frame GIF files work too.

    Returns:
        float32 [height, width, 3], RGB, in [0, 1].
    """
    return to_unit_range(tf.io.decode_jpeg(data, channels=3))


def to_unit_range(pixels: Any) -> Any:
    """Return uint8 pixels as float32 in [0, 1]."""
    return tf.image.convert_image_dtype(pixels, tf.float32)


def central_crop(picture: Any, image_size: int) -> Any:
    """Return the resized centre of a picture: the model's input in evaluation and prediction.

    Args:
        picture: float32 [height, width, 3].
        image_size: Height and width of the result in pixels.

    Returns:
        float32 [image_size, image_size, 3]: the central 0.875 of each side, resized with the
        sampling of TensorFlow 1 (no half-pixel centres), as the 2016 weights were evaluated.
    """
    centre = tf.image.central_crop(picture, _CENTRAL_FRACTION)
    return _resize(tf.raw_ops.ResizeBilinear, centre, (image_size, image_size))


def view_picture(picture: Any, image_size: int, view: View) -> Any:
    """Return one view of a picture, as a square.

    Args:
        picture: float32 [height, width, 3], in [0, 1].
        image_size: Height and width of the result in pixels.
        view: "central" is `central_crop`. "whole" resizes the whole picture to the square, without
            keeping its aspect ratio. "padded" keeps the aspect ratio: the longer side fills the
            square, and grey borders of equal width, to within a pixel, fill the rest.

    Returns:
        float32 [image_size, image_size, 3], in [0, 1].

    Raises:
        ValueError: The view is unknown.
    """
    if view == "central":
        return central_crop(picture, image_size)
    if view == "whole":
        return _resize(tf.raw_ops.ResizeBilinear, picture, (image_size, image_size))
    if view == "padded":
        return _pad_to_square(picture, image_size)
    raise ValueError(f"view must be central, whole or padded; got view={view!r}.")


def mirror(pictures: Any) -> Any:
    """Return pictures with left and right exchanged; [..., height, width, 3] of any dtype."""
    return tf.reverse(pictures, axis=[-2])


def distort_picture(picture: Any, image_size: int, seed: Any) -> Any:
    """Return a random crop of a picture, randomly flipped and recoloured: the input in training.

    The 2016 program had four preprocessing threads with different resizing methods and orders of
    colour operations; here each of the four variants is chosen with equal probability.

    Args:
        picture: float32 [height, width, 3].
        image_size: Height and width of the result in pixels.
        seed: int32 or int64 [2]; equal seeds give equal results.

    Returns:
        float32 [image_size, image_size, 3], in [0, 1].
    """
    crop_seed, flip_seed, variant_seed, colour_seed = tf.unstack(tf.random.split(seed, 4))
    crop, square = _random_crop(picture, crop_seed), (image_size, image_size)
    variant = tf.random.stateless_uniform((), variant_seed, maxval=4, dtype=tf.int32)
    branches = (
        lambda: _distort_colours(
            _resize(tf.raw_ops.ResizeBilinear, crop, square), colour_seed, contrast_last=True
        ),
        lambda: _distort_colours(
            _resize(tf.raw_ops.ResizeNearestNeighbor, crop, square),
            colour_seed,
            contrast_last=False,
        ),
        lambda: _distort_colours(
            _resize(tf.raw_ops.ResizeBicubic, crop, square), colour_seed, contrast_last=True
        ),
        lambda: _distort_colours(
            _resize(tf.raw_ops.ResizeArea, crop, square), colour_seed, contrast_last=False
        ),
    )
    recoloured = tf.switch_case(variant, branches)
    return tf.clip_by_value(
        tf.image.stateless_random_flip_left_right(recoloured, flip_seed), 0.0, 1.0
    )


def _random_crop(picture: Any, seed: Any) -> Any:
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(picture),
        bounding_boxes=tf.constant([_WHOLE_PICTURE]),
        seed=seed,
        min_object_covered=0.1,
        aspect_ratio_range=(0.75, 1.33),
        area_range=(0.05, 1.0),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.ensure_shape(tf.slice(picture, begin, size), (None, None, 3))


def _pad_to_square(picture: Any, image_size: int) -> Any:
    sides = tf.shape(picture)[:2]  # height, width
    longest = tf.reduce_max(sides)
    # Rounded division in integers, because float results may differ between devices.
    size = tf.maximum((2 * sides * image_size + longest) // (2 * longest), 1)
    resized = _resize(tf.raw_ops.ResizeBilinear, picture, size)
    before = (image_size - size) // 2
    after = image_size - size - before
    padding = tf.stack([before, after], axis=1)
    padding = tf.pad(padding, [[0, 1], [0, 0]])  # none for the colours
    square = tf.pad(resized, padding, constant_values=_PADDING_VALUE)
    return tf.ensure_shape(square, (image_size, image_size, 3))


def _resize(operation: Any, picture: Any, size: Any) -> Any:
    """Resize to (height, width) with the sampling of TensorFlow 1."""
    return operation(images=picture[tf.newaxis], size=size, align_corners=False)[0]


def _distort_colours(picture: Any, seed: Any, *, contrast_last: bool) -> Any:
    """Change brightness, saturation, hue and contrast; contrast comes last, or after brightness."""
    brightness_seed, saturation_seed, hue_seed, contrast_seed = tf.unstack(tf.random.split(seed, 4))
    picture = tf.image.stateless_random_brightness(picture, _MAX_BRIGHTNESS_DELTA, brightness_seed)
    if not contrast_last:
        picture = tf.image.stateless_random_contrast(picture, *_FACTOR_RANGE, contrast_seed)
    picture = tf.image.stateless_random_saturation(picture, *_FACTOR_RANGE, saturation_seed)
    picture = tf.image.stateless_random_hue(picture, _MAX_HUE_DELTA, hue_seed)
    if contrast_last:
        picture = tf.image.stateless_random_contrast(picture, *_FACTOR_RANGE, contrast_seed)
    return picture
