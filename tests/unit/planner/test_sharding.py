import numpy as np
import pytest

from repot.planner.sharding import (
    assign_to_shards,
    assign_to_stable_shards,
    choose_num_shards,
)
from repot.work_list import stable_shard


@pytest.mark.parametrize(
    ("num_pictures", "num_threads", "num_shards"),
    [
        (0, 1, 1),
        (1, 1, 1),
        (1024, 1, 1),
        (1025, 1, 2),
        (1025, 2, 2),
        (2049, 2, 4),
        (3, 8, 8),
        (8193, 8, 16),
    ],
)
def test_one_shard_is_chosen_per_1024_pictures(
    num_pictures: int, num_threads: int, num_shards: int
) -> None:
    assert choose_num_shards(num_pictures, num_threads) == num_shards


def test_37_pictures_are_assigned_as_in_2016() -> None:
    shards = assign_to_shards(37, num_shards=4, num_threads=2)
    assert [len(shard) for shard in shards] == [9, 9, 9, 10]
    # random.seed(12345); random.shuffle of 0..36 in Python 3.
    assert shards[0][:5].tolist() == [4, 14, 7, 6, 15]


@pytest.mark.parametrize("num_pictures", [0, 1, 5, 6, 7, 1000])
@pytest.mark.parametrize(("num_shards", "num_threads"), [(1, 1), (6, 1), (6, 2), (6, 6)])
def test_every_picture_is_in_exactly_one_shard(
    num_pictures: int, num_shards: int, num_threads: int
) -> None:
    shards = assign_to_shards(num_pictures, num_shards=num_shards, num_threads=num_threads)
    assert len(shards) == num_shards
    assert sorted(picture for shard in shards for picture in shard) == list(range(num_pictures))
    assert max(map(len, shards)) - min(map(len, shards)) <= 2


@pytest.mark.parametrize(
    ("num_threads", "sizes"), [(1, [1, 2, 1, 2, 1, 2]), (2, [1, 1, 2, 1, 2, 2])]
)
def test_layout_depends_on_threads(num_threads: int, sizes: list[int]) -> None:
    shards = assign_to_shards(9, num_shards=6, num_threads=num_threads)
    assert [len(shard) for shard in shards] == sizes


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7, 1024])
def test_places_at_the_borders_of_stable_shards_are_where_readers_look(num_shards: int) -> None:
    borders = [(index << 64) // num_shards for index in range(num_shards)]
    places = sorted({0, 2**64 - 1, *borders, *(b + 1 for b in borders), *(b - 1 for b in borders)})
    places = [place for place in places if 0 <= place < 2**64][::-1]
    shards = assign_to_stable_shards(np.array(places, np.uint64), num_shards=num_shards)
    found = {int(number): index for index, shard in enumerate(shards) for number in shard}
    assert [found[n] for n in range(len(places))] == [stable_shard(p, num_shards) for p in places]
    assert [places[n] for shard in shards for n in shard] == sorted(places)


def test_copies_keep_their_order_in_stable_shards() -> None:
    shards = assign_to_stable_shards(np.array([7, 5, 7, 5, 7], np.uint64), num_shards=1)
    assert [shard.tolist() for shard in shards] == [[1, 3, 0, 2, 4]]
