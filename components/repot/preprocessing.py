"""Decode, crop and resize pictures: float32 [height, width, 3], RGB, in [0, 1].

Every function computes the values that the 2016 programs computed. The classifier's first layer
rescales pictures to the backbone's value range. `repot.augmentation` changes training pictures.

Source: tensorflow/models, research/inception/inception/image_processing.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from repot.model_spec import View

# Share of height and width that evaluation keeps.
_CENTRAL_FRACTION = 0.875
# Mid-grey, which is zero in the value range of most backbones.
_PADDING_VALUE = 0.5

LEGACY_RESIZERS = ("bilinear", "nearest", "bicubic", "area")
"""Resizing methods of TensorFlow 1, in the order of the 2016 program's preprocessing threads."""

_RESIZE_OPERATIONS = {
    "bilinear": tf.raw_ops.ResizeBilinear,
    "bicubic": tf.raw_ops.ResizeBicubic,
    "area": tf.raw_ops.ResizeArea,
}
# Both sides of a JPEG can be decoded at a fraction of their size, which costs less.
_JPEG_SCALES = (2, 4, 8)
_JPEG_MARGIN = 8  # pixels


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
    return resize_legacy(centre, (image_size, image_size))


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
        return resize_legacy(picture, (image_size, image_size))
    if view == "padded":
        return _pad_to_square(picture, image_size)
    raise ValueError(f"view must be central, whole or padded; got view={view!r}.")


def mirror(pictures: Any) -> Any:
    """Return pictures with left and right exchanged; [..., height, width, 3] of any dtype."""
    return tf.reverse(pictures, axis=[-2])


def resize_legacy(picture: Any, size: Any, method: str = "bilinear") -> Any:
    """Resize with the sampling of TensorFlow 1; the aspect ratio is not kept.

    Args:
        picture: uint8 or float32 [height, width, 3].
        size: Height and width of the result in pixels, a tuple or int32 [2].
        method: One of LEGACY_RESIZERS.

    Returns:
        [*size, 3], float32; of the picture's own type with "nearest".
    """
    if method == "nearest":
        return _resize_nearest(picture, size)
    operation = _RESIZE_OPERATIONS[method]
    if method == "bilinear":
        picture = tf.cast(picture, tf.float32)  # the same values in less time
    return operation(images=picture[tf.newaxis], size=size, align_corners=False)[0]


def central_window(shape: Any) -> Any:
    """Return the window that `central_crop` keeps, int32 [4]: top, left, height, width in pixels.

    Args:
        shape: int32 [3], height, width and channels of the picture.
    """
    sides = tf.cast(shape[:2], tf.float64)
    # As in tf.image.central_crop, which truncates.
    begin = tf.cast((sides - sides * _CENTRAL_FRACTION) / 2, tf.int32)
    return tf.concat([begin, shape[:2] - 2 * begin], axis=0)


def decode_central_crop(data: Any, image_size: int) -> Any:
    """Return `central_crop` of one JPEG, string []; pixels outside it are not computed."""
    return resize_legacy(
        to_unit_range(decode_window(data, central_window)), (image_size, image_size)
    )


def decode_window(
    data: Any, choose_window: Callable[[Any], Any], *, min_side: int | None = None
) -> Any:
    """Decode a part of one JPEG; pixels outside it are not computed.

    Args:
        data: string [], a JPEG file; PNG files and single-frame GIF files work too.
        choose_window: (int32 [3]: height, width, channels) -> int32 [4]: top, left, height, width.
        min_side: None decodes exactly. Otherwise a JPEG is decoded as fast as possible: its coarser
            grid of colours is repeated instead of interpolated, and if both sides of the window are
            at least 2, 4 or 8 times as long as this, in pixels, it is decoded at 1/2, 1/4 or 1/8 of
            its size.

    Returns:
        uint8 [height, width, 3], RGB: the pixels that `tf.io.decode_jpeg` gives in the window. With
        `min_side`, those that it gives with `fancy_upscaling=False`, or at a smaller size the means
        of its blocks of pixels, as libjpeg computes them.
    """
    is_exact = min_side is None

    def decode_jpeg_window() -> Any:
        shape = tf.io.extract_jpeg_shape(data)
        window = choose_window(shape)

        def decode_at(scale: int) -> Any:
            top, left, height, width = tf.unstack(window // scale)
            # Where colours are interpolated, the last column depends on its right neighbour.
            margin = _JPEG_MARGIN if is_exact else 0
            wider = tf.minimum(width + margin, shape[1] // scale - left)
            pixels = tf.io.decode_and_crop_jpeg(
                data,
                tf.stack([top, left, height, wider]),
                channels=3,
                ratio=scale,
                fancy_upscaling=is_exact,
            )
            return pixels[:, :width] if is_exact else pixels

        if min_side is None:
            return decode_at(1)
        shorter = tf.reduce_min(window[2:])
        index = tf.add_n([tf.cast(shorter >= scale * min_side, tf.int32) for scale in _JPEG_SCALES])
        return tf.switch_case(index, [partial(decode_at, scale) for scale in (1, *_JPEG_SCALES)])

    def decode_whole() -> Any:
        pixels = tf.io.decode_jpeg(data, channels=3)
        top, left, height, width = tf.unstack(choose_window(tf.shape(pixels)))
        return pixels[top : top + height, left : left + width]

    pixels = tf.cond(tf.io.is_jpeg(data), decode_jpeg_window, decode_whole)
    return tf.ensure_shape(pixels, [None, None, 3])


def _resize_nearest(picture: Any, size: Any) -> Any:
    """Return what tf.raw_ops.ResizeNearestNeighbor does, in 2/3 of its time on a CPU."""
    old, new = tf.shape(picture)[:2], tf.convert_to_tensor(size)
    scale = tf.cast(old, tf.float32) / tf.cast(new, tf.float32)
    for axis in (0, 1):
        places = tf.floor(tf.range(new[axis], dtype=tf.float32) * scale[axis])
        numbers = tf.minimum(tf.cast(places, tf.int32), old[axis] - 1)
        picture = tf.gather(picture, numbers, axis=axis)
    return picture


def _pad_to_square(picture: Any, image_size: int) -> Any:
    sides = tf.shape(picture)[:2]  # height, width
    longest = tf.reduce_max(sides)
    # Rounded division in integers, because float results may differ between devices.
    size = tf.maximum((2 * sides * image_size + longest) // (2 * longest), 1)
    resized = resize_legacy(picture, size)
    before = (image_size - size) // 2
    after = image_size - size - before
    padding = tf.stack([before, after], axis=1)
    padding = tf.pad(padding, [[0, 1], [0, 0]])  # none for the colours
    square = tf.pad(resized, padding, constant_values=_PADDING_VALUE)
    return tf.ensure_shape(square, (image_size, image_size, 3))
