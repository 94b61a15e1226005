"""Which picture is in which shard, exactly as in 2016.

The pictures of a split are shuffled with a fixed seed, dealt to threads and then to shards in equal runs. "Threads" are
a part of the layout, not of how the work is done.

Source: research/inception/inception/data/build_image_data.py of tensorflow/models, with the listing sorted.
"""

import itertools
import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

SHUFFLE_SEED = 12345
PICTURES_PER_SHARD = 1024

_T = TypeVar("_T")


def choose_num_shards(num_pictures: int, num_threads: int) -> int:
    """Return how many shards of about 1024 pictures there are to be, a multiple of `num_threads`."""
    num_shards = max(1, -(-num_pictures // PICTURES_PER_SHARD))
    return -(-num_shards // num_threads) * num_threads


def deal(pictures: Sequence[_T], *, num_shards: int, num_threads: int) -> list[list[_T]]:
    """Return the pictures of every shard of a split, in their order.

    Args:
        pictures: The pictures of the split, by class id and then by path.
        num_shards: A multiple of `num_threads`; some shards are empty where there are more than pictures.
        num_threads: Into how many runs the pictures go first.
    """
    order = list(range(len(pictures)))
    random.Random(SHUFFLE_SEED).shuffle(order)  # noqa: S311
    shards = []
    for start, stop in _runs(0, len(pictures), num_threads):
        for first, last in _runs(start, stop, num_shards // num_threads):
            shards.append([pictures[index] for index in order[first:last]])
    return shards


def _runs(start: int, stop: int, num_runs: int) -> list[tuple[int, int]]:
    """Return the half-open runs that cut [start, stop) at evenly spaced places, rounded down."""
    # borders: int64 [num_runs + 1]
    borders = np.linspace(start, stop, num_runs + 1).astype(np.int64).tolist()
    return list(itertools.pairwise(borders))
