"""A table gives back the files that were put in, in any order, and is small."""

import random
import tracemalloc

import pytest

from repot import storage
from repot.file_parts import FilePart
from repot.planner.file_table import FileTable, FoundFile
from repot.planner.inputs.inventory import CandidatePicture, PictureTable
from repot.records import Box
from repot.work_list import etag_checksum

# Composed and decomposed, right to left, beyond the basic plane, bytes that are no UTF-8.
NAMES = ["a", "é", "é", "\u05d0", "\U0001f436", "ros\udce9", "x//y", " ", "ﬁ"]
BOX = Box(xmin=0.0, ymin=0.0, xmax=0.5, ymax=1.0, label="a")


def _random_file(draw: random.Random) -> FoundFile:
    path = "/".join(draw.choices(NAMES, k=draw.randint(1, 3))) + f"/{draw.randrange(50)}.jpg"
    part = FilePart(offset=draw.randrange(9), num_bytes=5, method="stored")
    version = str(draw.randrange(2**60))
    return FoundFile(
        uri=draw.choice(
            [f"/data/{path}", f"/data/{path[2:]}", f"gs://b/{path}", path, "s3://b/x.zip", "/other"]
        ),
        path=path,
        size_bytes=draw.choice([0, 1, 2**40]),
        checksum=draw.choice(["", "00000000", f"{draw.randrange(2**32):08x}", f"etag:{version}"]),
        version=version,
        kind=draw.choice(["", "", "a socket"]),
        part=draw.choice([None, None, part]),
        has_crc32c=draw.random() < 0.5,
        stamp=draw.choice(["", f" 5 {draw.randrange(99)}"]),
    )


def _random_picture(draw: random.Random) -> CandidatePicture:
    return CandidatePicture(
        file=_random_file(draw),
        label=draw.choice(NAMES),
        split=draw.choice(["", "train", "test"]),
        group=draw.choice(["", "g1", "g2"]),
        boxes=draw.choice([(), (BOX,), (BOX, BOX)]),
        crop=draw.choice([None, BOX]),
        columns=draw.choice([(), (("camera", "1"),)]),
    )


@pytest.mark.parametrize("seed", range(10))
def test_table_returns_what_was_added(seed: int) -> None:
    draw = random.Random(seed)
    pictures = [_random_picture(draw) for _ in range(100)]
    table = PictureTable(pictures)
    files = [picture.file for picture in pictures]
    assert list(table) == pictures
    assert list(table.files) == files
    assert [*table.files.paths] == [file.path for file in files]
    assert [*table.files.uris] == [file.uri for file in files]
    assert table.files.unknown == [n for n, file in enumerate(files) if not file.checksum]
    assert (table[-1], table[3:5]) == (pictures[-1], pictures[3:5])

    numbers = draw.choices(range(100), k=60)
    taken = table.take(numbers)
    assert list(taken) == [pictures[number] for number in numbers]
    # A table that was taken grows like any other.
    taken.extend(pictures)
    assert list(taken) == [*(pictures[number] for number in numbers), *pictures]

    assert list(table.sorted()) == sorted(
        pictures, key=lambda each: (each.file.path, each.file.uri)
    )


def test_checksum_that_is_found_later_is_kept() -> None:
    table = FileTable([_random_file(random.Random(0)) for _ in range(3)])
    table.set_checksum(1, "0000beef")
    table.set_checksum(2, etag_checksum(table.version(2)))
    assert (table[1].checksum, table[2].checksum) == ("0000beef", f"etag:{table[2].version}")


def test_listed_picture_takes_120_bytes() -> None:
    num_pictures = 20_000
    tracemalloc.start()
    try:
        pictures = PictureTable()
        for number in range(num_pictures):
            path = f"label_{number // 1000:04}/IMG_{number:08}.jpg"
            info = storage.ObjectInfo(
                uri=f"gs://pictures/{path}",
                size_bytes=40_000 + number,
                crc32c=f"{number * 2654435761 % 2**32:08x}",
                version=str(1_700_000_000_000_000 + number),
                has_crc32c=True,
            )
            pictures.files.add(info, path)
            pictures.labels.append(path[:10])
            pictures.splits.append("")
        del info
        size_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size_bytes / num_pictures < 120
