"""Assign the pictures of a split to shards: as in 2016, or by their content.

In the `tutorial` layout, that of 2016, the pictures are shuffled with a fixed seed, cut into one
range per thread, and each range is cut into shards. "Threads" are only part of this layout; they do
not affect how many processes work.

In the `stable` layout, a picture's place in [0, 2**64) is a hash of its content. Each shard has an
equal range of the places, and its records are in their order, so datasets differ only where their
pictures do. The number of shards is a power of two: it changes when the pictures have doubled. Then
each shard is divided into two, which are still composed of the earlier records, see
`repot.composition`. All of it depends on the pictures alone, not on earlier datasets.

Source of the 2016 layout: research/inception/inception/data/build_image_data.py of
tensorflow/models, but with a sorted file listing.
"""

import itertools
import random
from array import array

import numpy as np
from numpy.typing import NDArray

SHUFFLE_SEED = 12345
PICTURES_PER_SHARD = 1024

Numbers = NDArray[np.int64]
Places = NDArray[np.uint64]


def choose_num_shards(num_pictures: int, num_threads: int) -> int:
    """Return a number of shards of about 1024 pictures each, a multiple of `num_threads`."""
    num_shards = max(1, -(-num_pictures // PICTURES_PER_SHARD))
    return -(-num_shards // num_threads) * num_threads


def assign_to_shards(num_pictures: int, *, num_shards: int, num_threads: int) -> list[Numbers]:
    """Return the numbers of the pictures of each shard of a split, in the order of their records.

    Args:
        num_pictures: The pictures of the split, sorted by class id, then by name.
        num_shards: A multiple of `num_threads`. If there are more shards than pictures, some shards
            are empty.
        num_threads: Number of ranges that the pictures are cut into first.
    """
    shuffled = array("q", range(num_pictures))
    random.Random(SHUFFLE_SEED).shuffle(shuffled)  # noqa: S311
    # order: int64 [num_pictures]
    order = np.array(shuffled, np.int64)
    return [
        order[first:last]
        for start, stop in _cut_range(0, num_pictures, num_threads)
        for first, last in _cut_range(start, stop, num_shards // num_threads)
    ]


def choose_num_stable_shards(num_pictures: int) -> int:
    """Return a power of two, for 512 to 1024 pictures per shard."""
    return 1 << (max(1, -(-num_pictures // PICTURES_PER_SHARD)) - 1).bit_length()


def assign_to_stable_shards(places: Places, *, num_shards: int) -> list[Numbers]:
    """Return the numbers of the pictures of each shard of a split, in the order of their records.

    Args:
        places: uint64 [num_pictures], see `repot.work_list.content_hash`. Pictures with the same
            place, which are copies, keep their order.
        num_shards: Number of shards; each has an equal range of all places.
    """
    order = np.argsort(places, kind="stable")
    # The first place of each shard but the first, rounded up.
    borders = [-(-(index << 64) // num_shards) for index in range(1, num_shards)]
    # cuts: int64 [num_shards - 1]
    cuts = np.searchsorted(places, np.array(borders, np.uint64), sorter=order)
    return np.split(order, cuts)


def _cut_range(start: int, stop: int, num_parts: int) -> list[tuple[int, int]]:
    """Cut [start, stop) into half-open ranges at evenly spaced borders, rounded down."""
    # borders: int64 [num_parts + 1]
    borders = np.linspace(start, stop, num_parts + 1).astype(np.int64).tolist()
    return list(itertools.pairwise(borders))
