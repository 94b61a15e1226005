import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repot import storage
from repot.dataset import (
    PADDING,
    decode_boxes,
    open_examples,
    share_of_batches,
    shuffled_numbers,
    spread_over_lanes,
)
from repot.errors import CorruptShardError
from repot.json_record import read_record
from repot.manifest import Receipt, read_manifest
from repot.records import Box, encode_example, frame_record, picture_features
from tests.shard_files import examples_of, write_shards

SHARD = "train-00001-of-00002"


def numbers_of(examples: Any) -> list[int]:
    """Return the numbers of examples from `write_shards`."""
    return [int(example["filename"]) for example in examples.as_numpy_iterator()]


@pytest.fixture
def dataset_copy(sample_dataset_uri: str, tmp_path: Path) -> str:
    """Return a copy of the dataset that a test can damage."""
    uri = str(tmp_path / "dataset")
    storage.copy_folder(sample_dataset_uri, uri)
    return uri


def read_train(dataset_uri: str) -> list[Any]:
    with open_examples(dataset_uri, read_manifest(dataset_uri)) as examples:
        return list(examples["train"].read().as_numpy_iterator())


def test_examples_match_the_receipts(sample_dataset_uri: str) -> None:
    manifest = read_manifest(sample_dataset_uri)

    with open_examples(sample_dataset_uri, manifest) as examples:
        for split in ("train", "validation"):
            read = iter(examples[split].read().as_numpy_iterator())
            for shard in manifest.split_shards(split):
                part = list(itertools.islice(read, shard.num_records))
                uri = f"{sample_dataset_uri}/receipts/{shard.shard}.json"
                receipt = read_record(uri, Receipt)
                labels = [manifest.labels[example["label"] - 1] for example in part]
                assert {label: labels.count(label) for label in labels} == receipt.class_counts
                assert all(example["encoded"].startswith(b"\xff\xd8\xff") for example in part)
            assert next(read, None) is None


@pytest.mark.parametrize(
    "numbers", [[], [0], [11], [3, 4, 2], [11, 0, 11, 5, 5], list(range(11, -1, -1))]
)
def test_examples_are_read_by_number_in_any_order(numbers: list[int], tmp_path: Path) -> None:
    manifest = write_shards(str(tmp_path), train=[3, 0, 1, 8], validation=[2])

    with open_examples(str(tmp_path), manifest) as examples:
        assert [len(examples[split]) for split in ("train", "validation")] == [12, 2]
        read = examples["train"].read(np.array(numbers, np.int64))
        assert numbers_of(read) == numbers == numbers_of(read)
        assert int(read.cardinality()) == len(numbers)
        assert numbers_of(examples["validation"].read()) == [0, 1]


def test_boxes_of_an_example_keep_their_order_and_edges(tmp_path: Path) -> None:
    boxes = (Box(xmin=0.1, ymin=0.2, xmax=0.3, ymax=0.4), Box(xmin=0, ymin=0, xmax=1, ymax=0.5))
    path = tmp_path / "shard"
    for found in (boxes, (), None):
        features = picture_features(
            jpeg=b"x", height=1, width=1, class_id=1, label="a", filename="a", boxes=found
        )
        path.write_bytes(frame_record(encode_example(features)))

        (example,) = examples_of([path]).read()

        expected = [[box.ymin, box.xmin, box.ymax, box.xmax] for box in found or ()]
        np.testing.assert_allclose(
            decode_boxes(example).numpy(), np.reshape(expected, [-1, 4]), rtol=1e-6
        )


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])]
)
def test_error_for_damaged_shard_has_both_checksums_and_advice(
    damage: Callable[[bytes], bytes], dataset_copy: str
) -> None:
    path, (_, receipt) = (
        Path(dataset_copy, SHARD),
        read_manifest(dataset_copy).split_shards("train"),
    )
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(CorruptShardError) as caught:
        read_train(dataset_copy)

    size, crc32c = path.stat().st_size, storage.crc32c_hex(path.read_bytes())
    assert f"{path} must have {receipt.size_bytes} bytes with CRC32C {receipt.crc32c}" in str(
        caught.value
    )
    assert f"got {size} bytes with CRC32C {crc32c}" in str(caught.value)
    advice = f"Delete it, receipts/{SHARD}.json, base.json (if any) and manifest.json"
    assert advice in str(caught.value)


def test_missing_shard_is_an_error(dataset_copy: str) -> None:
    Path(dataset_copy, SHARD).unlink()

    with pytest.raises(CorruptShardError, match=rf"{SHARD} must exist; it is missing\. Delete"):
        read_train(dataset_copy)


def test_examples_of_intact_shards_are_read_although_another_is_damaged(dataset_copy: str) -> None:
    manifest = read_manifest(dataset_copy)
    Path(dataset_copy, SHARD).unlink()

    with open_examples(dataset_copy, manifest) as examples:
        first = np.arange(manifest.split_shards("train")[0].num_records)
        assert len(list(examples["train"].read(first))) == len(first)


def test_local_shard_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_shards(str(tmp_path), train=[3, 3, 3])
    verified: list[str] = []
    verify = storage.file_crc32c_hex

    def count(path: Path) -> str:
        verified.append(path.name)
        return verify(path)

    monkeypatch.setattr(storage, "file_crc32c_hex", count)
    with open_examples(str(tmp_path), manifest) as examples:
        assert verified == []
        for _epoch in range(3):
            assert len(numbers_of(examples["train"].read(np.arange(6)))) == 6
        assert sorted(verified) == [receipt.shard for receipt in manifest.shards[:2]]


@pytest.mark.parametrize("sizes", [[7], [5, 0, 9], [4] * 40, [100, 1, 50] * 7])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 32])
def test_shuffled_order_has_every_example_once_and_depends_on_the_seeds_only(
    sizes: list[int], batch_size: int
) -> None:
    def order(*seeds: int) -> list[int]:
        return list(shuffled_numbers(sizes, seeds=seeds, window=16, batch_size=batch_size))

    assert sorted(order(5, 0)) == list(range(sum(sizes)))
    assert order(5, 0) == order(5, 0)
    assert order(5, 0) != order(5, 1)


def test_shuffled_order_reads_few_shards_at_a_time() -> None:
    sizes = [64] * 64
    order = shuffled_numbers(sizes, seeds=(0, 0), window=512, batch_size=32)

    shards = order // 64
    # 8 lanes, each at one shard or at the border of two
    assert all(len(set(shards[i : i + 32])) <= 16 for i in range(0, len(shards), 32))
    assert all(len(set(shards[i : i + 32])) >= 8 for i in range(0, len(shards), 32))
    first_use = [int(np.flatnonzero(shards == shard)[0]) for shard in range(64)]
    last_use = [int(np.flatnonzero(shards == shard)[-1]) for shard in range(64)]
    assert max(np.subtract(last_use, first_use)) <= 2 * 8 * 64


def test_small_shards_are_mixed_within_the_window() -> None:
    def mean_number_of_shards(window: int) -> float:
        order = shuffled_numbers([4] * 256, seeds=(0, 0), window=window, batch_size=32)
        batches = (order // 4).reshape(-1, 32)
        return float(np.mean([len(set(batch)) for batch in batches]))

    assert mean_number_of_shards(1) < 17
    assert mean_number_of_shards(1024) > 25


@pytest.mark.parametrize("num_workers", [2, 4, 8])
def test_each_worker_needs_its_share_of_the_shards(num_workers: int) -> None:
    order = shuffled_numbers([64] * 64, seeds=(0, 0), window=512, batch_size=32)

    for worker in range(num_workers):
        share = share_of_batches(order, batch_size=32, replicas=[worker], num_replicas=num_workers)
        # a shard at the border of two workers is needed by both
        assert len(set((share // 64).ravel())) <= 64 // num_workers + 2


@pytest.mark.parametrize("num_examples", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("num_replicas", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("batch_size", "multiple"), [(32, 1), (32, 2), (31, 2), (4, 2)])
def test_replicas_share_every_batch_whatever_their_number(
    num_examples: int, num_replicas: int, batch_size: int, multiple: int
) -> None:
    order = spread_over_lanes(np.arange(num_examples), num_shards=20, batch_size=batch_size)

    def share(replicas: Sequence[int]) -> Any:
        return share_of_batches(
            order,
            batch_size=batch_size,
            replicas=replicas,
            num_replicas=num_replicas,
            multiple=multiple,
        )

    together = share(range(num_replicas))
    shares = [share([i]) for i in range(num_replicas)]

    np.testing.assert_array_equal(np.concatenate(shares, axis=1), together)
    if multiple == 1:
        assert together.shape[1:] == (num_replicas, -(-batch_size // num_replicas))
    for batch in range(len(together)):
        found = together[batch][together[batch] != PADDING].tolist()
        expected = order[batch_size * batch : batch_size * (batch + 1)].tolist()
        assert found == expected
        for replica in together[batch]:
            for row in range(0, len(replica), multiple):
                if replica[row] != PADDING:
                    assert expected.index(replica[row]) % multiple == 0


def test_workers_read_their_own_shards_also_of_some_of_the_examples() -> None:
    only = np.sort(np.random.default_rng(0).choice(64 * 64, 3000, replace=False))

    order = shuffled_numbers([64] * 64, seeds=(0, 0), window=1, batch_size=32, only=only)

    assert sorted(order) == only.tolist()
    # Lanes are made of the examples that take part, so a shard is in one of them or two.
    shards = [
        set(share_of_batches(order, batch_size=32, replicas=[worker], num_replicas=4).ravel() // 64)
        - {-1}
        for worker in range(4)
    ]
    assert max(map(len, shards)) <= 64 / 4 + 2
    assert set.union(*shards) == set(range(64))


def test_lanes_keep_the_order_of_few_shards() -> None:
    for num_shards in (1, 7):
        np.testing.assert_array_equal(
            spread_over_lanes(np.arange(50), num_shards=num_shards, batch_size=8), np.arange(50)
        )
