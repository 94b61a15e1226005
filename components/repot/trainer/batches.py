"""Batches for training and scoring, as tf.data.Datasets of (inputs, labels, mask).

inputs: float32 [batch, image_size, image_size, 3] pictures in [0, 1] to score,
    TrainingPictures to train on, see `repot.augmentation`, or float32 [batch, features]
labels: int64 [batch], class ids in 1..N, 0 for padding
mask: float32 [batch], 1 for an example, 0 for padding

Every batch has the full batch size, so that each replica of a strategy always gets a share of it.
With several replicas, each worker reads only its own rows of every batch, as ShareOfBatches. The
batches as such do not depend on the number of replicas and workers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from repot.augmentation import TrainingPictures, crop_for_training
from repot.dataset import (
    PADDING,
    Examples,
    Numbers,
    decode_boxes,
    share_of_batches,
    shuffled_numbers,
    spread_over_lanes,
)
from repot.preprocessing import central_crop, decode_jpeg


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The replicas of this worker among all that share each batch.

    Attributes:
        worker: Index of the worker, from 0.
        num_workers: Number of workers.
        num_replicas: Replicas of each worker, such as its GPUs.
    """

    worker: int
    num_workers: int
    num_replicas: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareOfBatches:
    """This worker's rows of each batch.

    Attributes:
        replica_batches: tf.data.Dataset of (inputs, labels, mask), one element for each replica of
            this worker in turn.
    """

    replica_batches: Any


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
        share: This worker's share of the batches that are trained on or scored; None if there is
            only one replica.
        only: int64 [n], numbers of the examples that take part, in order; None is all of them.
    """

    examples: Examples
    image_size: int
    batch_size: int
    shuffle_buffer: int
    seed: int
    augmentation: str = "none"
    share: Share | None = None
    only: Numbers | None = None

    @property
    def numbers(self) -> Numbers:
        """Numbers of the examples that take part, in order; int64 [num_examples]."""
        return np.arange(len(self.examples)) if self.only is None else self.only

    @property
    def num_examples(self) -> int:
        """Number of pictures."""
        return len(self.examples) if self.only is None else len(self.only)

    @property
    def num_full_batches(self) -> int:
        """Number of training batches that are full; at least 1."""
        return max(1, self.num_examples // self.batch_size)

    def batches(self, skip: int = 0) -> Any:
        """Return every example once, in order, preprocessed as for evaluation.

        Args:
            skip: Batches to leave out at the start.
        """
        numbers = self.numbers[skip * self.batch_size :]
        return _batch(
            self.examples.read(numbers).map(self._preprocess, num_parallel_calls=tf.data.AUTOTUNE),
            self.batch_size,
        )

    def scoring_batches(self) -> Any:
        """Return this worker's share of every example, preprocessed as for evaluation."""
        if self.share is None:
            return self.batches()
        order = spread_over_lanes(
            self.numbers,
            num_shards=len(self.examples.shard_sizes),
            batch_size=self.batch_size,
        )
        return self._shared_batches(order, lambda _place, example: self._preprocess(example))

    def training_batches(
        self, epoch: int, skip: int = 0, *, only_full: bool = False, in_pairs: bool = False
    ) -> Any:
        """Return this worker's share of every example, shuffled and cropped.

        Equal epochs give equal batches. The inputs are TrainingPictures, which
        `repot.augmentation.augment` turns into the model's input.

        Args:
            epoch: Number of the epoch, from 0.
            skip: Batches to leave out at the start.
            only_full: Leave out the examples that do not fill a batch, other ones in each epoch; a
                dataset smaller than a batch fills it by repetition. For BatchNorm in training mode,
                which takes padding for pictures.
            in_pairs: Whether rows 0 and 1 of a batch go to the same replica, rows 2 and 3, and so
                on.
        """
        order = shuffled_numbers(
            self.examples.shard_sizes,
            seeds=(self.seed, epoch),
            window=self.shuffle_buffer,
            batch_size=self.batch_size,
            only=self.only,
        )
        if only_full:
            order = np.resize(order, self.num_full_batches * self.batch_size)
        crop_seed = epoch_seed(self.seed, epoch)

        def crop(place: Any, example: dict[str, tf.Tensor]) -> tuple[TrainingPictures, Any]:
            # The seed depends on the example's place in the epoch, not on the thread that maps it.
            picture = crop_for_training(
                example["encoded"],
                self.image_size,
                tf.stack([tf.constant(crop_seed, tf.int64), tf.maximum(place, 0)]),
                augmentation=self.augmentation,
                boxes=decode_boxes(example),
            )
            draws = tf.where(place == PADDING, 0.0, picture.draws)
            return picture._replace(draws=draws), example["label"]

        if self.share is not None:
            return self._shared_batches(order, crop, skip, multiple=2 if in_pairs else 1)
        first = skip * self.batch_size
        numbered = self.examples.read(order[first:]).enumerate(first)
        return _batch(numbered.map(crop, num_parallel_calls=tf.data.AUTOTUNE), self.batch_size)

    def _shared_batches(
        self,
        order: Numbers,
        prepare: Callable[[Any, Any], tuple[Any, Any]],
        skip: int = 0,
        *,
        multiple: int = 1,
    ) -> ShareOfBatches:
        """Return this worker's share of an order.

        Args:
            order: Numbers of the examples.
            prepare: (place in the order, example) -> input and label; the place is PADDING for a
                row that is not an example.
            skip: Batches to leave out at the start.
            multiple: See `share_of_batches`.
        """
        share = self.share or Share(worker=0, num_workers=1, num_replicas=1)
        first_replica = share.worker * share.num_replicas
        # int64 [num_batches, num_replicas, rows]
        places = share_of_batches(
            np.arange(len(order))[skip * self.batch_size :],
            batch_size=self.batch_size,
            replicas=range(first_replica, first_replica + share.num_replicas),
            num_replicas=share.num_workers * share.num_replicas,
            multiple=multiple,
        )
        numbered = tf.data.Dataset.zip(
            tf.data.Dataset.from_tensor_slices(places.ravel()),
            self.examples.read(order[_fill_padding(places)].ravel()),
        )

        def prepare_row(place: Any, example: dict[str, tf.Tensor]) -> tuple[Any, Any]:
            inputs, label = prepare(place, example)
            return inputs, tf.where(place == PADDING, tf.zeros_like(label), label)

        prepared = numbered.map(prepare_row, num_parallel_calls=tf.data.AUTOTUNE)
        batches = prepared.batch(places.shape[-1], drop_remainder=True).map(
            lambda inputs, labels: (inputs, labels, tf.cast(labels > 0, tf.float32))
        )
        prefetched = batches.prefetch(tf.data.AUTOTUNE).with_options(input_options())
        return ShareOfBatches(replica_batches=prefetched)

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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RowBatches:
    """Batches of the rows of a table; compiled steps gather them from the table, see `StepRunner`.

    Attributes:
        table: The rows.
        numbers: int32 [num_batches, batch_size], the table's rows in each batch; 0 for padding.
        mask: float32 [num_batches, batch_size], 1 for a row, 0 for padding.
        skip: Batches to leave out at the start.
    """

    table: FeatureTable
    numbers: Any
    mask: Any
    skip: int = 0

    def first(self, num_batches: int) -> "RowBatches":
        """Return the first batches alone."""
        return replace(self, numbers=self.numbers[:num_batches], mask=self.mask[:num_batches])

    def dataset(self) -> Any:
        """Return the batches as a tf.data.Dataset; the table is not copied."""
        shape = [self.numbers.shape[1], self.table.features.shape[1]]

        def gather(numbers: Any, mask: Any) -> tuple[Any, Any, Any]:
            # A tensor that a tf.data function uses is copied with every iterator; this is not.
            features = tf.numpy_function(self.table.features.__getitem__, [numbers], tf.float32)
            return (
                tf.ensure_shape(features, shape),
                batch_labels(self.table.labels, numbers, mask),
                mask,
            )

        rest = (self.numbers[self.skip :], self.mask[self.skip :])
        return _prefetch(tf.data.Dataset.from_tensor_slices(rest).map(gather))


def batch_labels(labels: Any, numbers: Any, mask: Any) -> Any:
    """Return the labels of the rows of a batch, int64 [batch], 0 for padding."""
    return tf.gather(labels, numbers) * tf.cast(mask, tf.int64)


def feature_batches(
    table: FeatureTable,
    batch_size: int,
    *,
    only: Numbers | None = None,
    seed: int | None = None,
    skip: int = 0,
) -> RowBatches:
    """Return every row of a table once.

    Args:
        table: The rows.
        batch_size: Rows per batch.
        only: int64 [n], the rows that take part; None is all of them.
        seed: Seed of the order; None keeps the rows in order.
        skip: Batches to leave out at the start.
    """
    order = np.arange(len(table.labels)) if only is None else only
    order = np.array(order, np.int32)
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    padding = [0, -len(order) % batch_size]
    return RowBatches(
        table=table,
        numbers=np.pad(order, padding).reshape(-1, batch_size),
        mask=np.pad(np.ones(len(order), np.float32), padding).reshape(-1, batch_size),
        skip=skip,
    )


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of what is random in one epoch."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _fill_padding(places: Numbers) -> Numbers:
    """Replace padding by the example before it of the same replica, or by the first one of all.

    BatchNorm in training mode does not know padding, so it must see a picture. The shard of that
    one is open already.

    Args:
        places: int64 [num_batches, num_replicas, rows], PADDING for padding.
    """
    by_replica = places.transpose(1, 0, 2).reshape(places.shape[1], -1)
    # Examples of a replica have rising places.
    filled = np.maximum(np.maximum.accumulate(by_replica, axis=1), 0)
    num_batches, num_replicas, rows = places.shape
    return filled.reshape(num_replicas, num_batches, rows).transpose(1, 0, 2)


def _batch(examples: Any, batch_size: int) -> Any:
    batches = examples.batch(batch_size)
    return _prefetch(batches.map(lambda inputs, labels: _pad(inputs, labels, batch_size)))


def _prefetch(batches: Any) -> Any:
    return batches.prefetch(tf.data.AUTOTUNE).with_options(input_options())


def input_options() -> Any:
    """Return how tf.data reads and shares batches, as tf.data.Options."""
    options = tf.data.Options()
    # DATA: every worker reads all examples and keeps its share of each batch, so that the batches
    # do not depend on the number of workers.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # Every core works on pictures of its own; to divide the operations of one as well takes time.
    options.threading.max_intra_op_parallelism = 1
    return options


def _pad(inputs: Any, labels: Any, batch_size: int) -> tuple[Any, Any, Any]:
    """Return a batch of static shape with its mask; padding is zeros at the end."""
    missing = batch_size - tf.shape(labels)[0]
    mask = tf.pad(tf.ones_like(labels, tf.float32), [[0, missing]])

    def pad(values: Any) -> Any:
        padding = [[0, missing]] + [[0, 0]] * (values.shape.rank - 1)
        return tf.ensure_shape(tf.pad(values, padding), [batch_size, *values.shape[1:]])

    return tf.nest.map_structure(pad, inputs), pad(labels), tf.ensure_shape(mask, [batch_size])
