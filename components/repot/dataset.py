"""The examples of a dataset, by number, read from shards that arrive while training runs.

The examples of a split are numbered from 0, in the order of the shards and of the records in them.
A reader asks for any numbers in any order; only the shards with those examples are fetched, see
`repot.shard_cache`. So an order, a worker's share of it, and the rest of it after an interruption
are arrays of numbers.

An example is a dict of scalar tensors: `encoded` string, the JPEG bytes; `label` int64, the class
id in 1..N; `filename` string, the base name of the picture file; `boxes` string, the serialized
float32 [num_boxes, 4] objects (ymin, xmin, ymax, xmax) in [0, 1], see `decode_boxes`.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from repot.manifest import SPLITS, Manifest
from repot.shard_cache import ShardCache

Numbers = npt.NDArray[np.int64]

PADDING = -1
"""A row of a share that has no example, see `share_of_batches`."""

NUM_LANES = 8
"""Most shards that a batch takes its examples from, see `spread_over_lanes`."""

_BOX_FEATURES = [f"image/object/bbox/{edge}" for edge in ("ymin", "xmin", "ymax", "xmax")]
_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "image/filename": tf.io.FixedLenFeature([], tf.string, default_value=""),
    **{
        name: tf.io.FixedLenSequenceFeature([], tf.float32, allow_missing=True)
        for name in _BOX_FEATURES
    },
}
_CHUNK_RECORDS = 16


class Examples:
    """The examples of one split.

    Args:
        cache: Holds the shards.
        first_shard: Index of the split's first shard in the cache.
        shard_sizes: Number of records of each shard of the split.
        shard_bytes: Their sizes in bytes.
    """

    def __init__(
        self,
        cache: ShardCache,
        *,
        first_shard: int,
        shard_sizes: Sequence[int],
        shard_bytes: Sequence[int],
    ) -> None:
        self.shard_sizes = tuple(shard_sizes)
        self._cache = cache
        self._first_shard = first_shard
        self._shard_bytes = np.asarray(shard_bytes, np.int64)
        # starts[i] is the number of the first example of shard i; the last entry is the total.
        self._starts = np.concatenate([[0], np.cumsum(self.shard_sizes, dtype=np.int64)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, numbers: Numbers | None = None) -> Any:
        """Return a tf.data.Dataset of examples.

        Args:
            numbers: The numbers of the examples, in any order and with repetitions; None for all of
                them in order.

        Raises:
            UsageError: The shards that the order needs at the same time exceed the cache.
        """
        return self.read_records(numbers).map(parse_example)

    def read_records(self, numbers: Numbers | None = None) -> Any:
        """Return a tf.data.Dataset of serialized examples, string []; otherwise as `read`."""
        numbers = np.arange(len(self)) if numbers is None else np.asarray(numbers, np.int64)
        # int64 [num_numbers]
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        uses = _shard_uses(shards)
        self._cache.check_room(_peak_bytes(uses, self._shard_bytes))

        def chunks() -> Iterator[list[bytes]]:
            order = [self._first_shard + use.shard for use in uses]
            last_use = {use.last: self._first_shard + use.shard for use in uses}
            with self._cache.plan(order) as plan:
                for start in range(0, len(numbers), _CHUNK_RECORDS):
                    chunk: list[bytes] = []
                    part = slice(start, start + _CHUNK_RECORDS)
                    places = zip(numbers[part].tolist(), shards[part].tolist(), strict=True)
                    for place, (number, shard) in enumerate(places, start):
                        index = self._first_shard + shard
                        if chunk and not plan.is_present(index):
                            # What is here does not wait for what is not.
                            yield chunk
                            chunk = []
                        file = plan.open(index)
                        chunk.append(file.read(number - starts[shard]))
                        if place in last_use:
                            plan.release(last_use[place])
                    yield chunk

        starts = self._starts.tolist()
        # Bytes go from Python to TensorFlow in chunks: one call per record would cost more.
        records = tf.data.Dataset.from_generator(
            chunks, output_signature=tf.TensorSpec([None], tf.string)
        ).unbatch()
        return records.apply(tf.data.experimental.assert_cardinality(len(numbers)))


@contextlib.contextmanager
def open_examples(
    dataset_uri: str,
    manifest: Manifest,
    *,
    cache_bytes: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, Examples]]:
    """Yield the examples of each split; at the end, delete the shards that were downloaded.

    An error of a shard is raised where its first record is read, at the latest at the end of the
    block: a CorruptShardError if its bytes differ from its receipt, a NotFoundError if it is
    missing in object storage, a StorageError if it cannot be read.

    Args:
        dataset_uri: Folder of the dataset.
        manifest: Its manifest.
        cache_bytes: Most bytes of downloaded shards on disk; 0 for half of the free space.
        should_stop: Called while a reader waits for a shard; StoppedError if it returns True.
    """
    receipts = [receipt for split in SPLITS for receipt in manifest.split_shards(split)]
    with ShardCache(dataset_uri, receipts, max_bytes=cache_bytes, should_stop=should_stop) as cache:
        examples: dict[str, Examples] = {}
        first_shard = 0
        for split in SPLITS:
            shards = manifest.split_shards(split)
            examples[split] = Examples(
                cache,
                first_shard=first_shard,
                shard_sizes=[shard.num_records for shard in shards],
                shard_bytes=[shard.size_bytes for shard in shards],
            )
            first_shard += len(shards)
        yield examples


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def parse_example(record: Any) -> dict[str, Any]:
    """Return the example in a serialized tf.train.Example, string []."""
    features = tf.io.parse_single_example(record, _FEATURES)
    boxes = tf.stack([features[name] for name in _BOX_FEATURES], axis=-1)
    return {
        "encoded": features["image/encoded"],
        "label": features["image/class/label"],
        "filename": features["image/filename"],
        "boxes": tf.io.serialize_tensor(boxes),  # a scalar, so that examples can be batched
    }


def decode_boxes(example: dict[str, Any]) -> Any:
    """Return the boxes of an example: float32 [num_boxes, 4] as (ymin, xmin, ymax, xmax)."""
    return tf.ensure_shape(tf.io.parse_tensor(example["boxes"], tf.float32), [None, 4])


def shuffled_numbers(
    shard_sizes: Sequence[int],
    *,
    seeds: Sequence[int],
    window: int,
    batch_size: int,
    only: Numbers | None = None,
) -> Numbers:
    """Return a random order of the examples that reads a few shards at a time.

    The shards are permuted, and the examples in each. Small shards are mixed further: every
    `window` examples that follow each other are permuted again. The result is spread over lanes.

    Args:
        shard_sizes: Number of examples of each shard.
        seeds: Seeds of the order; nothing else has a part in it.
        window: See above; 1 for none.
        batch_size: Examples per batch.
        only: The examples that take part; None is all of them.

    Returns:
        int64 [num_examples].
    """
    rng = np.random.default_rng(list(seeds))
    starts = np.concatenate([[0], np.cumsum(shard_sizes, dtype=np.int64)])
    order = np.concatenate(
        [
            np.empty(0, np.int64),
            *(
                starts[i] + rng.permutation(shard_sizes[i])
                for i in rng.permutation(len(shard_sizes))
            ),
        ]
    )
    if only is not None:
        # Before the lanes are made: each has its own shards also without the other examples.
        order = order[np.isin(order, only)]
    num_lanes = _num_lanes(len(shard_sizes), batch_size)
    lanes = _lanes(len(order), batch_size, num_lanes)
    first = 0
    for size in np.bincount(lanes, minlength=num_lanes).tolist():
        for start in range(first, first + size, max(1, window // num_lanes)):
            rng.shuffle(order[start : min(start + max(1, window // num_lanes), first + size)])
        first += size
    return spread_over_lanes(order, num_shards=len(shard_sizes), batch_size=batch_size)


def spread_over_lanes(numbers: Numbers, *, num_shards: int, batch_size: int) -> Numbers:
    """Reorder examples so that each part of every batch comes from its own part of the shards.

    The rows of a batch are divided into lanes of neighbouring rows, and the examples into one run
    per lane. A batch takes its next rows from each run. So batches mix several shards; and workers
    that each take some of the rows of every batch read different shards, while the batches do not
    depend on the number of workers.

    There is one lane for every four shards and at most NUM_LANES: the first batch needs one shard
    of each lane.

    Args:
        numbers: int64 [num_examples], examples of neighbouring shards next to each other.
        num_shards: Number of shards that they are in.
        batch_size: Examples per batch.
    """
    lanes = _lanes(len(numbers), batch_size, _num_lanes(num_shards, batch_size))
    order = np.empty_like(numbers)
    # A stable sort lists the positions of lane 0 first, then those of lane 1, each in order.
    order[np.argsort(lanes, kind="stable")] = numbers
    return order


def share_of_batches(
    numbers: Numbers,
    *,
    batch_size: int,
    replicas: Sequence[int],
    num_replicas: int,
    multiple: int = 1,
) -> Numbers:
    """Return the examples that some replicas take from each batch.

    Every replica takes neighbouring rows. All get equally many: PADDING fills the last batch, and
    evens out a batch size that is not a multiple of the number of replicas.

    Args:
        numbers: The order of the examples.
        batch_size: Examples per batch, over all replicas.
        replicas: The replicas, each in [0, num_replicas).
        num_replicas: Number of replicas that share each batch.
        multiple: Each replica's first row in the batch is a multiple of this.

    Returns:
        int64 [num_batches, len(replicas), rows], rows = ceil(batch_size / num_replicas), rounded up
        to the multiple.
    """
    num_batches = -(-len(numbers) // batch_size)
    rows = np.full([num_batches, batch_size], PADDING, np.int64)
    rows.ravel()[: len(numbers)] = numbers
    num_units = -(-batch_size // multiple)
    width = multiple * -(-num_units // num_replicas)
    shares = np.full([num_batches, len(replicas), width], PADDING, np.int64)
    for i, replica in enumerate(replicas):
        first, end = (multiple * (num_units * k // num_replicas) for k in (replica, replica + 1))
        share = rows[:, first:end]  # the last one may be shorter
        shares[:, i, : share.shape[1]] = share
    return shares


def _num_lanes(num_shards: int, batch_size: int) -> int:
    return max(1, min(NUM_LANES, num_shards // 4, batch_size))


def _lanes(num_examples: int, batch_size: int, num_lanes: int) -> Numbers:
    """Return the lane of each place of an order, int64 [num_examples]."""
    return np.arange(num_examples) % batch_size * num_lanes // batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class _ShardUse:
    """Which places of an order need a shard: the first and the last of them."""

    shard: int
    first: int
    last: int


def _shard_uses(shards: Numbers) -> list[_ShardUse]:
    """Return the uses of shards by an order, in the order of first use.

    Args:
        shards: Shard of each place.
    """
    used, first = np.unique(shards, return_index=True)
    _, from_end = np.unique(shards[::-1], return_index=True)
    uses = [
        _ShardUse(shard=shard, first=start, last=len(shards) - 1 - rest)
        for shard, start, rest in zip(used.tolist(), first.tolist(), from_end.tolist(), strict=True)
    ]
    return sorted(uses, key=lambda use: use.first)


def _peak_bytes(uses: Sequence[_ShardUse], shard_bytes: Numbers) -> int:
    """Return the most bytes of the shards that are in use at the same time."""
    changes = [(use.first, int(shard_bytes[use.shard])) for use in uses]
    changes += [(use.last, -int(shard_bytes[use.shard])) for use in uses]
    # At equal places, growth counts first: at its last place, a shard is still in use.
    changes.sort(key=lambda change: (change[0], -change[1]))
    return max(itertools.accumulate((size for _, size in changes), initial=0))
