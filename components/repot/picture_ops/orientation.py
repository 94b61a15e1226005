"""Read the orientation that EXIF or XMP data state, in a TensorFlow graph, and apply it.

What Pillow could read differently is rejected.

Source: CIPA DC-008 (EXIF), with the directories of TIFF 6.0; Adobe XMP specification, part 1.
"""

from typing import Any

import tensorflow as tf

from repot.picture_ops.reading import place_values, read_integer, require

_ORIENTATION_TAG = 0x0112
_SHORT, _LONG = 3, 4
# Bytes per value by TIFF type; 0 for types that do not exist.
_TYPE_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8)
_XMP_PATTERN = r'tiff:Orientation(="|>)([0-9])'


def exif_orientation(exif: Any) -> Any:
    """Return the orientation that EXIF data states, int32 []; 0 if it states none.

    Args:
        exif: uint8 [n], a TIFF header and what follows.

    Raises:
        tf.errors.InvalidArgumentError: The data is damaged or unusual.
    """
    size = tf.size(exif, out_type=tf.int64)
    content = tf.pad(exif, [[0, 8]])
    is_little = tf.reduce_all(content[:4] == tf.constant(list(b"II*\0"), tf.uint8))
    is_big = tf.reduce_all(content[:4] == tf.constant(list(b"MM\0*"), tf.uint8))
    directory = read_integer(content, 4, 4, is_little=is_little)
    is_valid = (is_little | is_big) & (directory >= 8) & (directory + 2 <= size)
    directory = tf.where(is_valid, directory, 0)
    end = directory + 2 + 12 * read_integer(content, directory, 2, is_little=is_little)
    is_valid &= end <= size
    end = tf.where(is_valid, end, directory + 2)
    # entries: int64 [num_entries, 12]
    entries = tf.reshape(tf.cast(content[directory + 2 : end], tf.int64), (-1, 12))

    def field(start: int, width: int) -> Any:
        """Return a field of every entry, int64 [num_entries]."""
        weights = place_values(width, is_little=is_little)
        return tf.reduce_sum(entries[:, start : start + width] * weights, axis=1)

    tags, kinds, counts, offsets = field(0, 2), field(2, 2), field(4, 4), field(8, 4)
    known_kinds = tf.where(kinds < len(_TYPE_SIZES), kinds, 0)
    sizes = tf.gather(tf.constant(_TYPE_SIZES, tf.int64), known_kinds) * counts
    # Pillow stops reading at an entry whose values lie outside.
    is_valid &= tf.reduce_all((sizes <= 4) | (offsets + sizes <= size))
    is_orientation = tags == _ORIENTATION_TAG
    num_orientations = tf.reduce_sum(tf.cast(is_orientation, tf.int32))
    is_number = ((kinds == _SHORT) | (kinds == _LONG)) & (counts == 1)
    is_valid &= (num_orientations <= 1) & tf.reduce_all(is_number | ~is_orientation)
    values = tf.where(kinds == _SHORT, field(8, 2), offsets)
    value = tf.reduce_sum(tf.where(is_orientation, values, 0))
    # Values without a meaning are upright, as 1 is.
    is_upright = (num_orientations == 1) & ((value < 1) | (value > 8))
    value = tf.where(is_upright, tf.constant(1, tf.int64), value)
    return require(tf.cast(value, tf.int32), is_valid, "its EXIF data is intact")


def xmp_orientation(xmp: Any) -> Any:
    """Return the orientation that XMP data states, int32 []; 0 if it states none.

    Args:
        xmp: string [].

    Raises:
        tf.errors.InvalidArgumentError: The data is not UTF-8.
    """
    is_stated = tf.strings.regex_replace(xmp, _XMP_PATTERN, "", replace_global=False) != xmp
    digit = tf.strings.regex_replace(xmp, rf"(?s)^.*?{_XMP_PATTERN}.*$", r"\2")
    is_digit = tf.strings.regex_full_match(digit, "[0-9]")
    number = tf.strings.to_number(tf.where(is_stated & is_digit, digit, "0"), tf.int32)
    return require(number, is_digit | ~is_stated, "its XMP data is UTF-8")


def turn_upright(pixels: Any, orientation: Any) -> Any:
    """Return pixels [height, width, channels] turned upright.

    Args:
        pixels: As stored.
        orientation: int32 [], EXIF orientation; any value but 2 to 8 means upright.
    """

    def transposed() -> Any:
        return tf.transpose(pixels, (1, 0, 2))

    operations = {
        2: lambda: tf.reverse(pixels, [1]),
        3: lambda: tf.reverse(pixels, [0, 1]),
        4: lambda: tf.reverse(pixels, [0]),
        5: transposed,
        6: lambda: tf.reverse(transposed(), [1]),
        7: lambda: tf.reverse(transposed(), [0, 1]),
        8: lambda: tf.reverse(transposed(), [0]),
    }
    # switch_case needs branches without gaps.
    branches = [operations.get(i, lambda: pixels) for i in range(9)]
    return tf.switch_case(orientation, branches, default=lambda: pixels)
