"""The content of the examples of real datasets: stored by builders, or computed from shards."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from repot import storage
from repot.data_checks import DataLimits
from repot.errors import CorruptShardError, NotFoundError, StorageError
from repot.example_digests import (
    DIGEST_BYTES,
    join_digests,
    read_contents,
    read_digests,
    read_groups,
    shard_digests,
)
from repot.manifest import Manifest, read_manifest
from repot.records import decode_example, read_records
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from tests.unit.conftest import MakePlan


@pytest.fixture
def dataset_uri(make_plan: MakePlan) -> str:
    """Return a dataset with three training shards."""
    planned = make_plan(train_shards=3)
    build_shards(planned.dataset_uri, num_processes=1)
    complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=0))
    return planned.dataset_uri


def _jpegs(dataset_uri: str, manifest: Manifest, split: str) -> list[bytes]:
    return [
        jpeg
        for receipt in manifest.split_shards(split)
        for record in read_records(Path(dataset_uri, receipt.shard))
        for jpeg in decode_example(record)["image/encoded"]
        if isinstance(jpeg, bytes)
    ]


def test_digests_are_those_of_the_records_in_order(dataset_uri: str) -> None:
    manifest = read_manifest(dataset_uri)
    for split in manifest.splits:
        jpegs = _jpegs(dataset_uri, manifest, split)
        digests = read_digests(dataset_uri, manifest, split, task="gate")
        expected = b"".join(hashlib.sha256(jpeg).digest()[:DIGEST_BYTES] for jpeg in jpegs)
        assert digests.tobytes() == expected
        size = Path(dataset_uri, "digests", f"{split}.bin").stat().st_size
        assert size == DIGEST_BYTES * (len(jpegs) + 1)
    assert not any(receipt.digests for receipt in manifest.shards)


def test_stored_digests_need_no_shard(dataset_uri: str) -> None:
    manifest = read_manifest(dataset_uri)
    for receipt in manifest.shards:
        Path(dataset_uri, receipt.shard).unlink()
    assert len(read_digests(dataset_uri, manifest, "train", task="gate")) == 24


def test_class_ids_are_those_of_the_records_in_order(dataset_uri: str) -> None:
    manifest = read_manifest(dataset_uri)
    for split in manifest.splits:
        expected = [
            class_id
            for receipt in manifest.split_shards(split)
            for record in read_records(Path(dataset_uri, receipt.shard))
            for class_id in decode_example(record)["image/class/label"]
        ]
        for receipt in manifest.split_shards(split):
            Path(dataset_uri, receipt.shard).unlink()

        contents = read_contents(dataset_uri, manifest, split, task="train")

        assert contents.class_ids.tolist() == expected
        assert len(set(expected)) == 3
        assert contents.class_ids.dtype == np.int64
        digests = read_digests(dataset_uri, manifest, split, task="gate")
        np.testing.assert_array_equal(contents.digests, digests)


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "of_another_split"])
def test_class_ids_are_computed_from_the_shards_and_stored_again(
    dataset_uri: str, damage: str
) -> None:
    manifest = read_manifest(dataset_uri)
    path = Path(dataset_uri, "classes", "train.bin")
    data = path.read_bytes()
    if damage == "missing":
        shutil.rmtree(path.parent)
    else:
        other = path.with_name("validation.bin").read_bytes()
        damaged = {"cut": data[:-1], "changed": b"x" + data[1:], "of_another_split": other}
        path.write_bytes(damaged[damage])

    contents = read_contents(dataset_uri, manifest, "train", task="train")

    assert path.read_bytes() == data
    assert contents.class_ids.tolist() == np.frombuffer(data[:-DIGEST_BYTES], "<u4").tolist()


def test_contents_that_cannot_be_stored_are_computed(
    dataset_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = read_manifest(dataset_uri)
    expected = read_contents(dataset_uri, manifest, "train", task="train")
    shutil.rmtree(Path(dataset_uri, "classes"))

    def fail(uri: str, data: bytes) -> None:
        raise StorageError(f"{uri} cannot be written")

    monkeypatch.setattr(storage, "write_bytes", fail)
    found = read_contents(dataset_uri, manifest, "train", task="train")

    np.testing.assert_array_equal(found.class_ids, expected.class_ids)
    np.testing.assert_array_equal(found.digests, expected.digests)
    assert "train are not stored" in caplog.text


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "empty"])
def test_digests_are_computed_from_the_shards_and_stored_again(
    dataset_uri: str, damage: str
) -> None:
    manifest = read_manifest(dataset_uri)
    path = Path(dataset_uri, "digests", "train.bin")
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        damaged = {"cut": data[:-16], "changed": b"x" + data[1:], "empty": b""}
        path.write_bytes(damaged[damage])
    digests = read_digests(dataset_uri, manifest, "train", task="gate")
    assert path.read_bytes() == data
    assert digests.tobytes() == data[:-DIGEST_BYTES]


def test_receipts_of_an_earlier_version_give_the_same_digests(make_plan: MakePlan) -> None:
    planned = make_plan(train_shards=2)
    build_shards(planned.dataset_uri, num_processes=1)
    for path in Path(planned.dataset_uri, "receipts").iterdir():
        receipt = storage.read_json(str(path))
        del receipt["digests"]
        storage.write_json(str(path), receipt)
    complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=0))
    manifest = read_manifest(planned.dataset_uri)
    stored = read_digests(planned.dataset_uri, manifest, "train", task="gate")
    computed = [shard_digests(planned.dataset_uri, s) for s in manifest.split_shards("train")]
    assert np.array_equal(stored, np.concatenate(computed))


def test_without_digests_and_shards_nothing_is_known(dataset_uri: str) -> None:
    manifest = read_manifest(dataset_uri)
    Path(dataset_uri, "digests", "train.bin").unlink()
    shard = Path(dataset_uri, "train-00001-of-00003")
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptShardError):
        read_digests(dataset_uri, manifest, "train", task="gate")
    shard.unlink()
    with pytest.raises(NotFoundError, match=r"train-00001-of-00003 is missing\. Restore"):
        read_digests(dataset_uri, manifest, "train", task="gate")


def test_digest_that_ends_with_zeros_is_found() -> None:
    digests = [b"a" * 14 + b"\0\0", b"\0" * 16, b"b" * 16]
    assert np.isin(join_digests(digests), join_digests(digests[:2])).tolist() == [True, True, False]


def test_groups_of_training_records_are_stored_in_their_order(make_plan: MakePlan) -> None:
    # In a group: a/000 to a/002, a/010 and a/011, b/000 to b/002, and c/000 to c/002.
    planned = make_plan(train_shards=3, group_pattern=r"^(\w/\d\d)[0-2]")
    build_shards(planned.dataset_uri, num_processes=1)
    complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=0))
    manifest = read_manifest(planned.dataset_uri)

    groups = read_groups(planned.dataset_uri, manifest)

    assert groups is not None
    names = []
    for receipt in manifest.split_shards("train"):
        for record in read_records(Path(planned.dataset_uri, receipt.shard)):
            features = decode_example(record)
            (label,), (file,) = features["image/class/text"], features["image/filename"]
            assert isinstance(label, bytes)
            assert isinstance(file, bytes)
            names.append(label + file[:2] if file[2:3] in b"012" else b"")
    by_name: dict[bytes, set[bytes]] = {}
    for name, group in zip(names, map(bytes, groups), strict=True):
        by_name.setdefault(name, set()).add(group)
    assert by_name.pop(b"") == {b""}
    assert len(by_name) >= 2
    assert all(len(found) == 1 for found in by_name.values())
    assert len(set.union(*by_name.values())) == len(by_name)
    assert not any(receipt.groups for receipt in manifest.shards)
    path = Path(planned.dataset_uri, "groups", "train.bin")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptShardError, match="must name the group of each training example"):
        read_groups(planned.dataset_uri, manifest)


def test_dataset_without_groups_has_no_file_of_them(dataset_uri: str) -> None:
    assert read_groups(dataset_uri, read_manifest(dataset_uri)) is None
    assert not Path(dataset_uri, "groups").exists()
