import random

import google_crc32c
import numpy as np
import pytest

from repot.composition import (
    PLACE,
    Composition,
    Pack,
    decode_numbers,
    encode_numbers,
    places_in_file,
    read_segments,
    shard_crc32c,
)
from repot.records import frame_record


def _frames(*sizes: int) -> list[bytes]:
    draw = random.Random(len(sizes))
    return [frame_record(draw.randbytes(size)) for size in sizes]


@pytest.mark.parametrize(
    "sizes", [(), (0,), (1,), (0, 0, 0), (70_000, 1, 5), tuple(range(0, 4000, 7))]
)
def test_checksum_of_a_shard_follows_from_those_of_its_records(sizes: tuple[int, ...]) -> None:
    frames = _frames(*sizes)
    lengths = np.array([len(frame) for frame in frames], np.uint32)
    tails = np.array([int.from_bytes(frame[-4:], "little") for frame in frames], np.uint32)
    assert shard_crc32c(lengths, tails) == google_crc32c.value(b"".join(frames))


@pytest.mark.parametrize("seed", range(20))
def test_segments_are_the_records_in_order(seed: int) -> None:
    draw = random.Random(seed)
    frames = _frames(*(draw.randrange(2000) for _ in range(60)))
    packs = [[frame for frame in frames if draw.random() < 0.8] for _ in range(4)]
    data = [b"".join(pack) for pack in packs]
    chosen = []
    for _ in range(draw.randrange(80)):
        index = draw.randrange(4)
        first = draw.randrange(len(packs[index]))
        # Runs, single records, and some twice.
        for row in range(first, min(first + draw.choice([1, 1, 9]), len(packs[index]))):
            offset = sum(map(len, packs[index][:row]))
            chosen.append((index, row, offset, 0, 0))
    composition = Composition.of(
        "train-00000-of-00001",
        [Pack(name=f"packs/{i}", size_bytes=len(pack)) for i, pack in enumerate(data)],
        np.array(chosen, PLACE),
        np.array([len(packs[index][row]) for index, row, *_ in chosen], np.uint32),
    )
    num_reads = 0

    def read(pack: Pack, offset: int, num_bytes: int) -> bytes:
        nonlocal num_reads
        num_reads += 1
        return data[int(pack.name[-1])][offset : offset + num_bytes]

    expected = b"".join(packs[index][row] for index, row, *_ in chosen)
    assert b"".join(read_segments(composition, read)) == expected
    assert num_reads <= 4
    assert composition.size_bytes == len(expected)
    positions = [data[i][offset : offset + size] for i, offset, size in composition.positions()]
    assert positions == [packs[index][row][12:-4] for index, row, *_ in chosen]


def test_far_parts_of_a_pack_are_read_by_themselves() -> None:
    sizes = np.array([10, 10, 10], np.uint32)
    places = np.zeros(3, PLACE)
    places["offset"] = [0, 1_000_000, 1_000_020]
    composition = Composition.of("s", [Pack(name="p", size_bytes=2_000_000)], places, sizes)
    reads = []

    def read(_: Pack, offset: int, num_bytes: int) -> bytes:
        reads.append((offset, num_bytes))
        return bytes(num_bytes)

    assert len(b"".join(read_segments(composition, read))) == 30
    assert reads == [(0, 10), (1_000_000, 30)]


def test_numbers_survive_text() -> None:
    numbers = np.array([0, 1, 2**32 - 1], np.uint32)
    assert decode_numbers(encode_numbers(numbers)).tolist() == numbers.tolist()
    assert places_in_file(np.array([5, 7], np.uint32))["offset"].tolist() == [0, 5]
