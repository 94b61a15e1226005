from collections.abc import Callable
from pathlib import Path

import pytest

from repot import storage
from repot.dataset import open_shards, read_examples
from repot.errors import CorruptShardError
from repot.manifest import read_manifest

SHARD = "train-00001-of-00002"


@pytest.fixture
def dataset_copy(sample_dataset_uri: str, tmp_path: Path) -> str:
    """Return a copy of the dataset that a test can damage."""
    uri = str(tmp_path / "dataset")
    storage.copy_folder(sample_dataset_uri, uri)
    return uri


def test_examples_match_the_receipts(sample_dataset_uri: str, tmp_path: Path) -> None:
    manifest = read_manifest(sample_dataset_uri)

    for receipt in manifest.shards:
        examples = list(read_examples(open_shards(sample_dataset_uri, [receipt], tmp_path)))
        labels = [manifest.labels[int(example["label"]) - 1] for example in examples]
        assert {label: labels.count(label) for label in labels} == receipt.class_counts
        assert all(example["encoded"].numpy().startswith(b"\xff\xd8\xff") for example in examples)


def test_examples_of_a_split_are_read_once_and_in_order(
    sample_dataset_uri: str, tmp_path: Path
) -> None:
    shards = open_shards(
        sample_dataset_uri, read_manifest(sample_dataset_uri).split_shards("train"), tmp_path
    )

    filenames = [example["filename"].numpy() for example in read_examples(shards)]

    assert len(set(filenames)) == len(filenames)
    assert filenames == [
        example["filename"].numpy() for shard in shards for example in read_examples([shard])
    ]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])]
)
def test_error_for_damaged_shard_has_both_checksums_and_advice(
    damage: Callable[[bytes], bytes], dataset_copy: str, tmp_path: Path
) -> None:
    path, (_, receipt) = (
        Path(dataset_copy, SHARD),
        read_manifest(dataset_copy).split_shards("train"),
    )
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(CorruptShardError) as caught:
        open_shards(dataset_copy, [receipt], tmp_path)

    size, crc32c = path.stat().st_size, storage.crc32c_hex(path.read_bytes())
    assert f"{path} must have {receipt.size_bytes} bytes with CRC32C {receipt.crc32c}" in str(
        caught.value
    )
    assert f"got {size} bytes with CRC32C {crc32c}" in str(caught.value)
    assert f"Delete it, receipts/{SHARD}.json and manifest.json" in str(caught.value)


def test_missing_shard_is_an_error(dataset_copy: str, tmp_path: Path) -> None:
    Path(dataset_copy, SHARD).unlink()

    with pytest.raises(CorruptShardError, match=rf"{SHARD} must exist; it is missing\. Delete"):
        open_shards(dataset_copy, read_manifest(dataset_copy).split_shards("train"), tmp_path)


def test_shards_in_a_bucket_are_downloaded_once(
    sample_dataset_uri: str, gcs: str, tmp_path: Path
) -> None:
    storage.copy_folder(sample_dataset_uri, f"{gcs}/dataset")
    receipts = read_manifest(f"{gcs}/dataset").split_shards("train")

    downloaded = open_shards(f"{gcs}/dataset", receipts, tmp_path)
    storage.delete_folder(f"{gcs}/dataset")

    assert [path.name for path in downloaded] == [receipt.shard for receipt in receipts]
    assert open_shards(f"{gcs}/dataset", receipts, tmp_path) == downloaded
