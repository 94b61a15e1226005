"""Batches for training and scoring: (inputs, labels, mask).

inputs: float32 [batch, image_size, image_size, 3] pictures in [0, 1], or float32 [batch, features].
labels: int64 [batch], class ids in 1..N.   mask: float32 [batch], 1 for an example, 0 for padding.
Every batch has the full batch size, so that each replica of a strategy always has a share of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from repot.dataset import read_examples
from repot.preprocessing import central_crop, decode_jpeg, distort_picture


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureTable:
    """The features of one split: float32 [num_examples, features], and their class ids: int64 [num_examples]."""

    features: Any
    labels: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """One split's pictures as batches.

    Attributes:
        shards: Local, verified shards.
        num_examples: Records in them.
        image_size: Height and width of the batches, in pixels.
        batch_size: Examples a batch.
        shuffle_buffer: Records that are shuffled among each other.
        seed: Of the order and of the distortion.
    """

    shards: tuple[Path, ...]
    num_examples: int
    image_size: int
    batch_size: int
    shuffle_buffer: int
    seed: int

    def batches(self, first: int = 0) -> Any:
        """Return every example once, in order, as evaluation sees it, without the first batches."""
        rest = read_examples(self.shards).skip(first * self.batch_size)
        return _batched(
            rest.map(self._evaluated, num_parallel_calls=tf.data.AUTOTUNE), self.batch_size
        )

    def distorted_batches(self, epoch: int, first: int = 0) -> Any:
        """Return every example once, shuffled and distorted; the epoch alone decides how.

        Args:
            epoch: In [0, epochs).
            first: Batches to leave out at the start.
        """
        rng = np.random.default_rng([self.seed, epoch])
        shards = [self.shards[i] for i in rng.permutation(len(self.shards))]
        buffer = min(self.shuffle_buffer, self.num_examples)
        order_seed, distortion_seed = (int(value) for value in rng.integers(2**31, size=2))
        examples = read_examples(shards).shuffle(
            buffer, seed=order_seed, reshuffle_each_iteration=False
        )

        def distorted(index: Any, example: dict[str, Any]) -> tuple[Any, Any]:
            seed = tf.stack([tf.constant(distortion_seed, tf.int64), index])
            return distort_picture(decode_jpeg(example["encoded"]), self.image_size, seed), example[
                "label"
            ]

        rest = examples.enumerate().skip(first * self.batch_size)
        return _batched(rest.map(distorted, num_parallel_calls=tf.data.AUTOTUNE), self.batch_size)

    def _evaluated(self, example: dict[str, Any]) -> tuple[Any, Any]:
        return central_crop(decode_jpeg(example["encoded"]), self.image_size), example["label"]


def feature_batches(table: FeatureTable, batch_size: int, seed: int | None, first: int = 0) -> Any:
    """Return every row of a table once, shuffled with `seed` or, if it is None, in order; without the first batches."""
    order = np.arange(len(table.labels))
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    order = order[first * batch_size :]
    rows = tf.data.Dataset.from_tensor_slices((table.features[order], table.labels[order]))
    return _batched(rows, batch_size)


def _batched(examples: Any, batch_size: int) -> Any:
    # Every worker reads everything and keeps its share of each batch: how many there are changes no batch.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = examples.batch(batch_size).map(
        lambda inputs, labels: _padded(inputs, labels, batch_size)
    )
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _padded(inputs: Any, labels: Any, batch_size: int) -> tuple[Any, Any, Any]:
    missing = batch_size - tf.shape(labels)[0]
    mask = tf.pad(tf.ones_like(labels, tf.float32), [[0, missing]])
    padding = [[0, missing]] + [[0, 0]] * (inputs.shape.rank - 1)
    inputs = tf.ensure_shape(tf.pad(inputs, padding), [batch_size, *inputs.shape[1:]])
    labels = tf.ensure_shape(tf.pad(labels, [[0, missing]]), [batch_size])
    return inputs, labels, tf.ensure_shape(mask, [batch_size])
