"""The content of the examples of real datasets: stored by builders, or computed from shards."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from repot import storage
from repot.data_checks import DataLimits
from repot.errors import CorruptShardError, NotFoundError
from repot.example_digests import DIGEST_BYTES, join_digests, read_digests, shard_digests
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
