import dataclasses
import gzip
from pathlib import Path
from typing import Any

import pytest

from repot import storage
from repot.errors import DataError
from repot.file_parts import FilePart
from repot.records import Box
from repot.work_list import SourcePicture, read_work_list, write_work_list

SHARD = "train-00000-of-00001"
BOX = Box(xmin=0.1, ymin=0.25, xmax=0.5, ymax=1.0, label="a")
PICTURE = SourcePicture(
    uri="/a/\udce9.jpg",
    path="a/\udce9.jpg",
    label="a",
    class_id=1,
    size_bytes=1,
    checksum="0" * 8,
    version="1-1",
)


@pytest.mark.parametrize("num_pictures", [0, 1, 2])
def test_work_list_can_be_read_back(tmp_path: Path, num_pictures: int) -> None:
    write_work_list(str(tmp_path), SHARD, [PICTURE] * num_pictures)
    assert read_work_list(str(tmp_path), SHARD) == [PICTURE] * num_pictures


@pytest.mark.parametrize(
    "changes",
    [
        [{}, {"group": "ab" * 16}],
        [{"boxes": ()}, {"boxes": None}, {"boxes": (BOX, BOX)}],
        [{"crop": BOX}, {"crop": None}],
        [{"part": FilePart(offset=1, num_bytes=2, method="deflated")}, {"part": None}],
        [{"columns": (("camera", "A"), ("iso", "100"))}, {}],
        [{"text": "a t\u00e9xt"}] * 2,
        [{"uri": "/elsewhere/x.jpg"}, {"uri": "/a/e\u0301.jpg", "path": "a/\u00e9.jpg"}],
        [{"path": "", "uri": ""}, {"path": "b", "uri": "b"}],
    ],
)
def test_every_field_of_a_picture_is_in_the_work_list(
    tmp_path: Path, changes: list[dict[str, Any]]
) -> None:
    pictures = [dataclasses.replace(PICTURE, **change) for change in changes]
    write_work_list(str(tmp_path), SHARD, pictures)
    assert read_work_list(str(tmp_path), SHARD) == pictures


def test_work_list_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    written: dict[str, Any] = {
        "uri": "/a/\udce9.jpg",
        "path": "a/\udce9.jpg",
        "label": "a",
        "class_id": 1,
        "size_bytes": 1,
        "crc32c": "0" * 8,
        "version": "1-1",
    }
    box: dict[str, Any] = {"xmin": 0.1, "ymin": 0.2, "xmax": 0.3, "ymax": 0.4, "label": ""}
    boxed = {
        **written,
        "columns": {"iso": "9"},
        "boxes": [box],
        "crop": box,
        "group": "g",
        "text": "t",
    }
    boxed["part"] = {"offset": 1, "num_bytes": 2, "method": "stored"}
    uri = f"{tmp_path}/work/{SHARD}.json"
    storage.write_json(uri, {"shard": SHARD, "pictures": [written, boxed]})
    assert read_work_list(str(tmp_path), SHARD) == [
        PICTURE,
        dataclasses.replace(
            PICTURE,
            boxes=(Box(**box),),
            crop=Box(**box),
            group="g",
            text="t",
            columns=(("iso", "9"),),
            part=FilePart(offset=1, num_bytes=2),
        ),
    ]


@pytest.mark.parametrize("is_old", [False, True])
def test_some_pictures_of_a_work_list_are_read(is_old: bool, tmp_path: Path) -> None:
    pictures = [dataclasses.replace(PICTURE, path=f"a/{number}.jpg") for number in range(3)]
    if is_old:
        values = [{**dataclasses.asdict(each), "columns": {}} for each in pictures]
        storage.write_json(f"{tmp_path}/work/{SHARD}.json", {"shard": SHARD, "pictures": values})
    else:
        write_work_list(str(tmp_path), SHARD, pictures)

    assert read_work_list(str(tmp_path), SHARD, [2, 0]) == [pictures[2], pictures[0]]
    assert read_work_list(str(tmp_path), SHARD, []) == []


def test_compressed_work_list_that_calls_the_checksum_crc32c_is_read(tmp_path: Path) -> None:
    write_work_list(str(tmp_path), SHARD, [PICTURE, PICTURE])
    path = tmp_path / "work" / f"{SHARD}.json.gz"
    text = gzip.decompress(path.read_bytes())
    assert b'"checksum"' in text
    path.write_bytes(gzip.compress(text.replace(b'"checksum"', b'"crc32c"')))
    assert read_work_list(str(tmp_path), SHARD) == [PICTURE, PICTURE]


def test_work_list_takes_few_bytes(tmp_path: Path) -> None:
    pictures = [
        dataclasses.replace(
            PICTURE,
            path=f"label {i % 100}/IMG_{i:06d}.jpg",
            uri=f"gs://bucket/pictures/label {i % 100}/IMG_{i:06d}.jpg",
            size_bytes=50_000 + i * 7919 % 10_000,
            checksum=f"{i * 2654435761 % 2**32:08x}",
            version=str(1_700_000_000_000_000 + i * 104_729),
        )
        for i in range(1000)
    ]
    write_work_list(str(tmp_path), SHARD, pictures)
    size_bytes = (tmp_path / "work" / f"{SHARD}.json.gz").stat().st_size
    assert size_bytes < 45 * len(pictures)


def test_missing_work_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no work list for train-00007-of-00008"):
        read_work_list(str(tmp_path), "train-00007-of-00008")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not compressed",
        gzip.compress(b"[]"),
        gzip.compress(b"{}"),
        gzip.compress(b'{"num_pictures":1,"prefix":"","common":{"uri":"a"},"columns":{}}'),
        gzip.compress(b"{}" * 100)[:-9],
    ],
    # gzip writes the time into the header: the names that pytest makes of it differ among workers.
    ids=["empty", "not_compressed", "a_list", "no_fields", "missing_fields", "cut_off"],
)
def test_damaged_work_list_is_an_error(tmp_path: Path, content: bytes) -> None:
    storage.write_bytes(f"{tmp_path}/work/{SHARD}.json.gz", content)
    with pytest.raises(DataError, match=r"00001\.json\.gz must be a valid work list"):
        read_work_list(str(tmp_path), SHARD)


@pytest.mark.parametrize("content", [[], {}, {"pictures": [{"uri": "/a"}]}, {"pictures": [1]}])
def test_invalid_old_work_list_is_an_error(tmp_path: Path, content: object) -> None:
    storage.write_json(f"{tmp_path}/work/{SHARD}.json", content)
    with pytest.raises(DataError, match=r"00001\.json must be a valid work list"):
        read_work_list(str(tmp_path), SHARD)
