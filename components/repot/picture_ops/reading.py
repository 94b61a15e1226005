"""Read headers of picture files in a TensorFlow graph, and reject files."""

from typing import Any

import tensorflow as tf

ADVICE = "Send what repot.serving_client.encode_picture returns for the file."


def require(value: Any, condition: Any, rule: str) -> Any:
    """Return the value if the condition holds.

    Args:
        value: Any tensor; what is computed from the result is computed after the check.
        condition: bool [].
        rule: What must hold, as a clause.

    Raises:
        tf.errors.InvalidArgumentError: The condition does not hold.
    """
    message = f"A picture in image_bytes must be accepted by the model: {rule}. {ADVICE}"
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.identity(value)


def read_bytes(data: Any) -> Any:
    """Return a file as uint8 [n + 64]: zeros follow, so that headers can be read unchecked."""
    return tf.pad(tf.io.decode_raw(data, tf.uint8), [[0, 64]])


def starts_with(data: Any, prefix: bytes, position: Any = 0) -> Any:
    """Return whether a string [] has these bytes at a position, bool []."""
    return tf.cond(
        tf.strings.length(data) >= position + len(prefix),
        lambda: tf.strings.substr(data, position, len(prefix)) == prefix,
        lambda: False,
    )


def read_integer(content: Any, position: Any, size: int, *, is_little: Any) -> Any:
    """Return the unsigned integer at a position, int64 [].

    Args:
        content: uint8 [n].
        position: Of its first byte.
        size: Number of bytes.
        is_little: bool [], whether the least significant byte comes first.
    """
    values = tf.cast(content[position : position + size], tf.int64)
    return tf.reduce_sum(values * place_values(size, is_little=is_little))


def place_values(size: int, *, is_little: Any) -> Any:
    """Return what each byte of an integer counts, int64 [size]."""
    powers = [256**i for i in range(size)]
    return tf.where(is_little, tf.constant(powers, tf.int64), tf.constant(powers[::-1], tf.int64))


def read_big(content: Any, position: Any, size: int) -> Any:
    """Return the big-endian integer at a position, int32 []."""
    return tf.cast(read_integer(content, position, size, is_little=False), tf.int32)


def read_little(content: Any, position: Any, size: int) -> Any:
    """Return the little-endian integer at a position, int32 []."""
    return tf.cast(read_integer(content, position, size, is_little=True), tf.int32)
