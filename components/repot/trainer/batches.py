"""Batches for training and scoring, as tf.data.Datasets of (inputs, labels, mask).

inputs: float32 [batch, image_size, image_size, 3] pictures in [0, 1] to score,
    TrainingPictures to train on, see `repot.augmentation`, or float32 [batch, features]
labels: int64 [batch], class ids in 1..N, 0 for padding
mask: float32 [batch], 1 for an example, 0 for padding

Every batch has the full batch size, so that each replica of a strategy always gets a share of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from repot.augmentation import TrainingPictures, crop_for_training
from repot.dataset import Examples, shuffled_numbers
from repot.preprocessing import central_crop, decode_jpeg


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """The pictures of one split.

    Attributes:
        examples: The examples of the split.
        image_size: Height and width of the inputs, in pixels.
        batch_size: Examples per batch.
        shuffle_buffer: Examples of small shards that are shuffled together.
        seed: Seed of the order and the augmentation; no global random state has a part in them.
        augmentation: A key of `repot.recipes.AUGMENTATIONS`, for training batches.
    """

    examples: Examples
    image_size: int
    batch_size: int
    shuffle_buffer: int
    seed: int
    augmentation: str = "none"

    @property
    def num_examples(self) -> int:
        """Number of pictures."""
        return len(self.examples)

    def batches(self, skip: int = 0) -> Any:
        """Return every example once, in order, preprocessed as for evaluation.

        Args:
            skip: Batches to leave out at the start.
        """
        numbers = np.arange(skip * self.batch_size, self.num_examples)
        return _batch(
            self.examples.read(numbers).map(self._preprocess, num_parallel_calls=tf.data.AUTOTUNE),
            self.batch_size,
        )

    def training_batches(self, epoch: int, skip: int = 0) -> Any:
        """Return every example once, shuffled and cropped; equal epochs give equal batches.

        The inputs are TrainingPictures, which `repot.augmentation.augment` turns into the model's
        input.

        Args:
            epoch: Number of the epoch, from 0.
            skip: Batches to leave out at the start.
        """
        order = shuffled_numbers(
            self.examples.shard_sizes,
            seeds=(self.seed, epoch),
            window=self.shuffle_buffer,
            batch_size=self.batch_size,
        )
        crop_seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])

        def crop(place: Any, example: dict[str, tf.Tensor]) -> tuple[TrainingPictures, Any]:
            # The seed depends on the example's place in the epoch, not on the thread that maps it.
            picture = crop_for_training(
                example["encoded"],
                self.image_size,
                tf.stack([tf.constant(crop_seed, tf.int64), place]),
                augmentation=self.augmentation,
            )
            return picture, example["label"]

        first = skip * self.batch_size
        numbered = self.examples.read(order[first:]).enumerate(first)
        return _batch(numbered.map(crop, num_parallel_calls=tf.data.AUTOTUNE), self.batch_size)

    def _preprocess(self, example: dict[str, tf.Tensor]) -> tuple[Any, Any]:
        return central_crop(decode_jpeg(example["encoded"]), self.image_size), example["label"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureTable:
    """The backbone's features of some pictures, in order.

    Attributes:
        features: float32 [num_examples, features].
        labels: int64 [num_examples], class ids.
        digests: S32 [num_examples], SHA-256 of the encoded bytes of the examples.
    """

    features: Any
    labels: Any
    digests: Any = None


def feature_batches(
    table: FeatureTable, batch_size: int, *, seed: int | None = None, skip: int = 0
) -> Any:
    """Return every row of a table once.

    Args:
        table: The rows.
        batch_size: Rows per batch.
        seed: Seed of the order; None keeps the rows in order.
        skip: Batches to leave out at the start.
    """
    order = np.arange(len(table.labels))
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    order = order[skip * batch_size :]
    rows = tf.data.Dataset.from_tensor_slices((table.features[order], table.labels[order]))
    return _batch(rows, batch_size)


def _batch(examples: Any, batch_size: int) -> Any:
    # DATA: every worker reads all examples and keeps its share of each batch, so that the batches
    # do not depend on the number of workers.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = examples.batch(batch_size).map(
        lambda inputs, labels: _pad(inputs, labels, batch_size)
    )
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _pad(inputs: Any, labels: Any, batch_size: int) -> tuple[Any, Any, Any]:
    """Return a batch of static shape with its mask; padding is zeros at the end."""
    missing = batch_size - tf.shape(labels)[0]
    mask = tf.pad(tf.ones_like(labels, tf.float32), [[0, missing]])

    def pad(values: Any) -> Any:
        padding = [[0, missing]] + [[0, 0]] * (values.shape.rank - 1)
        return tf.ensure_shape(tf.pad(values, padding), [batch_size, *values.shape[1:]])

    return tf.nest.map_structure(pad, inputs), pad(labels), tf.ensure_shape(mask, [batch_size])
