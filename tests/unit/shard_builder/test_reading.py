import dataclasses
import os
from pathlib import Path

import pytest

from repot import storage
from repot.dataset_plan import SourcePicture
from repot.errors import DataError
from repot.pictures import MAX_FILE_BYTES, RejectedPicture
from repot.shard_builder import shard
from repot.shard_builder.shard import read_ahead, read_picture


def _picture(uri: str, data: bytes) -> SourcePicture:
    info = storage.write_bytes(uri, data)
    return SourcePicture(
        uri=uri,
        path="a/1.jpg",
        label="a",
        class_id=1,
        size_bytes=len(data),
        crc32c=storage.crc32c_hex(data),
        version=info.version,
    )


@pytest.fixture(params=["local", "gcs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a folder on a disk, and one on object storage."""
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("gcs"))


def test_pictures_come_in_their_order(folder: str) -> None:
    pictures = [_picture(f"{folder}/{number}", b"%d" % number) for number in range(40)]
    assert [(picture, data.result()) for picture, data in read_ahead(pictures)] == [
        (picture, b"%d" % number) for number, picture in enumerate(pictures)
    ]


def test_equal_bytes_in_a_new_version_are_no_change(folder: str) -> None:
    picture = _picture(f"{folder}/1", b"same")
    assert storage.write_bytes(picture.uri, b"same").version != picture.version
    assert read_picture(picture) == b"same"


def test_changed_picture_is_an_error(folder: str) -> None:
    picture = _picture(f"{folder}/1", b"same")
    storage.write_bytes(picture.uri, b"some")
    with pytest.raises(DataError, match=f"{picture.uri} was changed or deleted since"):
        read_picture(picture)


def test_deleted_picture_is_an_error(folder: str) -> None:
    picture = _picture(f"{folder}/1", b"same")
    storage.delete(picture.uri)
    with pytest.raises(DataError, match="was changed or deleted since"):
        read_picture(picture)


def test_change_that_keeps_size_and_time_is_found(tmp_path: Path) -> None:
    path = tmp_path / "1"
    picture = _picture(str(path), b"same")
    facts = path.stat()
    path.write_bytes(b"some")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(DataError, match="was changed"):
        read_picture(picture)


def test_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    picture = dataclasses.replace(_picture(f"{tmp_path}/1", b"x"), size_bytes=MAX_FILE_BYTES + 1)
    (tmp_path / "1").unlink()
    with pytest.raises(RejectedPicture) as caught:
        read_picture(picture)
    assert caught.value.reason == "too_large"


def test_what_is_read_ahead_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "_MAX_BYTES", 1000)
    started: list[str] = []
    original = shard.read_picture

    def read(picture: SourcePicture) -> bytes:
        started.append(picture.uri)
        return original(picture)

    monkeypatch.setattr(shard, "read_picture", read)
    small = [_picture(f"{tmp_path}/{number}", b"x" * 10) for number in range(50)]
    big = [_picture(f"{tmp_path}/big{number}", b"x" * 2000) for number in range(4)]
    for most, pictures in ((17, small), (2, big)):
        started.clear()
        for taken, (_, data) in enumerate(read_ahead(pictures)):
            data.result()
            assert len(started) <= taken + most


def test_reader_that_stops_early_leaves_no_threads(tmp_path: Path) -> None:
    pictures = [_picture(f"{tmp_path}/{number}", b"x") for number in range(40)]
    reader = read_ahead(pictures)
    next(reader)
    reader.close()
