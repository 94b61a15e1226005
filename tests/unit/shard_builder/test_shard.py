import dataclasses
import os
import threading
import time
from pathlib import Path

import pytest

from repot import records, storage
from repot.errors import DataError, StorageError
from repot.picture_decoder import MAX_FILES, PictureDecoder
from repot.picture_result import MAX_FILE_BYTES, RejectedPicture
from repot.shard_builder import shard
from repot.shard_builder.shard import build_shard, read_ahead, read_picture
from repot.work_list import SourcePicture, read_work_list
from tests.unit.conftest import MakePlan


def _build(
    dataset_uri: str, shard: str, scratch_path: Path, decoder: PictureDecoder
) -> tuple[int, list[dict[str, list[records.Value]]]]:
    """Build a shard; return the number of pictures that `on_pictures` got, and the examples."""
    counts: list[int] = []
    receipt = build_shard(
        dataset_uri,
        shard,
        scratch_path=scratch_path,
        decode=decoder.decode,
        on_pictures=counts.append,
    )
    data = storage.read_bytes(f"{dataset_uri}/{shard}")
    assert receipt.size_bytes == len(data)
    assert receipt.crc32c == storage.crc32c_hex(data)
    assert (
        storage.read_json(f"{dataset_uri}/receipts/{shard}.json")["num_records"]
        == receipt.num_records
    )
    return sum(counts), [records.decode_example(record) for record in records.read_records(data)]


def test_shard_contains_its_usable_pictures(
    make_plan: MakePlan, pictures: Path, tmp_path: Path, decoder: PictureDecoder
) -> None:
    (pictures / "a" / "000.jpg").write_bytes(b"")
    (pictures / "b" / "000.jpg").write_text("not a picture")
    planned = make_plan(validation_fraction=0.01)
    num_calls, examples = _build(planned.dataset_uri, "train-00000-of-00001", tmp_path, decoder)
    assert num_calls == planned.plan.num_pictures["train-00000-of-00001"]
    assert len(examples) == num_calls - 2
    for example in examples:
        label, filename = example["image/class/text"][0], example["image/filename"][0]
        assert isinstance(label, bytes)
        assert isinstance(filename, bytes)
        assert example["image/encoded"] == [
            (pictures / label.decode() / filename.decode()).read_bytes()
        ]
        assert example["image/class/label"] == [b"abc".index(label) + 1]
        assert (example["image/height"], example["image/width"]) == ([12], [16])


def test_receipt_accounts_for_every_picture(
    make_plan: MakePlan, pictures: Path, tmp_path: Path, decoder: PictureDecoder
) -> None:
    (pictures / "a" / "000.jpg").write_bytes(b"")
    planned = make_plan(validation_fraction=0.01)
    receipt = build_shard(
        planned.dataset_uri,
        "train-00000-of-00001",
        scratch_path=tmp_path,
        decode=decoder.decode,
        on_pictures=lambda _: None,
    )
    (rejection,) = receipt.rejected
    assert (rejection.path, rejection.label, rejection.split, rejection.reason) == (
        "a/000.jpg",
        "a",
        "train",
        "empty",
    )
    assert receipt.num_records + 1 == planned.plan.num_pictures[receipt.shard]
    assert sum(receipt.class_counts.values()) == receipt.num_records


def test_shard_without_pictures_is_an_empty_file(
    make_plan: MakePlan, tmp_path: Path, decoder: PictureDecoder
) -> None:
    planned = make_plan(train_shards=64)
    empty = next(name for name, count in planned.plan.num_pictures.items() if not count)
    assert _build(planned.dataset_uri, empty, tmp_path, decoder) == (0, [])
    assert storage.read_bytes(f"{planned.dataset_uri}/{empty}") == b""


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs /dev/full, Linux's device that is always full"
)
def test_full_scratch_folder_is_named(
    make_plan: MakePlan, tmp_path: Path, decoder: PictureDecoder, gcs: str
) -> None:
    planned = make_plan(storage_uri=gcs)
    name = planned.plan.shard_names[0]
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(
        StorageError, match=rf"{tmp_path} must .*No space left on device\. Free some .* TMPDIR"
    ):
        build_shard(
            planned.dataset_uri,
            name,
            scratch_path=tmp_path,
            decode=decoder.decode,
            on_pictures=lambda _: None,
        )


def test_scratch_folder_is_empty_afterwards(
    make_plan: MakePlan, tmp_path: Path, decoder: PictureDecoder, gcs: str
) -> None:
    planned = make_plan(storage_uri=gcs)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    name = planned.plan.shard_names[0]
    build_shard(
        planned.dataset_uri,
        name,
        scratch_path=scratch,
        decode=decoder.decode,
        on_pictures=lambda _: None,
    )
    assert list(scratch.iterdir()) == []
    assert storage.stat(f"{planned.dataset_uri}/{name}")


def test_local_shard_needs_no_scratch_folder_and_equals_one_in_a_bucket(
    make_plan: MakePlan, tmp_path: Path, decoder: PictureDecoder, gcs: str
) -> None:
    shards = []
    for storage_uri in ("", gcs):
        planned = make_plan(storage_uri=storage_uri)
        scratch = tmp_path / ("scratch" if storage_uri else "no such folder")
        if storage_uri:
            scratch.mkdir()
        name = planned.plan.shard_names[0]
        _build(planned.dataset_uri, name, scratch, decoder)
        shards.append(storage.read_bytes(f"{planned.dataset_uri}/{name}"))

    assert shards[0] == shards[1]


def _picture(uri: str, data: bytes) -> SourcePicture:
    info = storage.write_bytes(uri, data)
    return SourcePicture(
        uri=uri,
        path="a/1.jpg",
        label="a",
        class_id=1,
        size_bytes=len(data),
        checksum=storage.crc32c_hex(data),
        version=info.version,
    )


@pytest.fixture(params=["local", "gcs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a local folder, or a folder in a bucket."""
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("gcs"))


def test_pictures_are_read_in_order(folder: str) -> None:
    pictures = [_picture(f"{folder}/{number}", b"%d" % number) for number in range(40)]
    assert list(read_ahead(pictures)) == [
        (picture, b"%d" % number) for number, picture in enumerate(pictures)
    ]


def test_new_version_with_the_same_bytes_is_accepted(folder: str) -> None:
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


def test_change_that_keeps_size_and_time_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "1"
    picture = _picture(str(path), b"same")
    status = path.stat()
    path.write_bytes(b"some")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match="was changed"):
        read_picture(picture)


def test_too_large_file_is_rejected_without_reading(tmp_path: Path) -> None:
    picture = dataclasses.replace(_picture(f"{tmp_path}/1", b"x"), size_bytes=MAX_FILE_BYTES + 1)
    (tmp_path / "1").unlink()
    with pytest.raises(RejectedPicture) as caught:
        read_picture(picture)
    assert caught.value.reason == "too_large"


def test_reading_ahead_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "_MAX_BYTES_AHEAD", 1000)
    started: list[str] = []
    original = shard.read_picture

    def read(picture: SourcePicture) -> bytes:
        started.append(picture.uri)
        return original(picture)

    monkeypatch.setattr(shard, "read_picture", read)
    small = [_picture(f"{tmp_path}/{number}", b"x" * 10) for number in range(200)]
    large = [_picture(f"{tmp_path}/large{number}", b"x" * 2000) for number in range(4)]
    for max_ahead, pictures in ((1 + MAX_FILES, small), (2, large)):
        started.clear()
        for num_taken, _ in enumerate(read_ahead(pictures)):
            assert len(started) <= num_taken + max_ahead


def test_reader_that_stops_early_leaves_no_threads(tmp_path: Path) -> None:
    pictures = [_picture(f"{tmp_path}/{number}", b"x") for number in range(40)]
    reader = read_ahead(pictures)
    next(reader)
    reader.close()


def test_readers_are_added_while_pictures_are_waited_for(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = make_plan(train_shards=1, validation_fraction=0.01)
    pictures = read_work_list(planned.dataset_uri, "train-00000-of-00001")
    threads = set()

    def read(picture: SourcePicture) -> bytes:
        threads.add(threading.get_ident())
        time.sleep(0.02)
        return picture.path.encode()

    monkeypatch.setattr(shard, "read_picture", read)
    monkeypatch.setattr(shard, "_LOCAL_PICTURES_AT_ONCE", 1)
    monkeypatch.setattr(shard, "_MAX_LOCAL_PICTURES_AHEAD", 8)

    found = list(read_ahead(pictures))

    assert found == [(picture, picture.path.encode()) for picture in pictures]
    assert 1 < len(threads) <= 8
