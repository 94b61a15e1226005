from pathlib import Path

import pytest

from repot import records, storage
from repot.errors import StorageError
from repot.shard_builder.shard import build_shard
from tests.unit.conftest import Plan


def _build(
    dataset_uri: str, shard: str, scratch_path: Path
) -> tuple[int, list[dict[str, list[records.Value]]]]:
    calls: list[None] = []
    receipt = build_shard(
        dataset_uri, shard, scratch_path=scratch_path, on_picture=lambda: calls.append(None)
    )
    data = storage.read_bytes(f"{dataset_uri}/{shard}")
    assert receipt.size_bytes == len(data)
    assert receipt.crc32c == storage.crc32c_hex(data)
    assert (
        storage.read_json(f"{dataset_uri}/receipts/{shard}.json")["num_records"]
        == receipt.num_records
    )
    return len(calls), [records.decode_example(record) for record in records.read_records(data)]


def test_shard_holds_its_pictures_in_order(plan: Plan, pictures: Path, tmp_path: Path) -> None:
    (pictures / "a" / "000.jpg").write_bytes(b"")
    (pictures / "b" / "000.jpg").write_text("no picture")
    made = plan(validation_fraction=0.01)
    num_calls, examples = _build(made.dataset_uri, "train-00000-of-00001", tmp_path)
    assert num_calls == made.num_pictures["train-00000-of-00001"]
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


def test_receipt_accounts_for_every_picture(plan: Plan, pictures: Path, tmp_path: Path) -> None:
    (pictures / "a" / "000.jpg").write_bytes(b"")
    made = plan(validation_fraction=0.01)
    receipt = build_shard(
        made.dataset_uri, "train-00000-of-00001", scratch_path=tmp_path, on_picture=lambda: None
    )
    (rejection,) = receipt.rejected
    assert (rejection.path, rejection.label, rejection.split, rejection.reason) == (
        "a/000.jpg",
        "a",
        "train",
        "empty",
    )
    assert receipt.num_records + 1 == made.num_pictures[receipt.shard]
    assert sum(receipt.class_counts.values()) == receipt.num_records


def test_empty_shard_is_an_empty_file(plan: Plan, tmp_path: Path) -> None:
    made = plan(train_shards=64)
    empty = next(name for name, count in made.num_pictures.items() if not count)
    assert _build(made.dataset_uri, empty, tmp_path) == (0, [])
    assert storage.read_bytes(f"{made.dataset_uri}/{empty}") == b""


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="Linux has a disk that is always full: /dev/full"
)
def test_full_scratch_folder_is_named(plan: Plan, tmp_path: Path) -> None:
    made = plan()
    (tmp_path / made.shard_names[0]).symlink_to("/dev/full")

    with pytest.raises(
        StorageError, match=rf"{tmp_path} must take .*No space left on device\. Free some .* TMPDIR"
    ):
        build_shard(
            made.dataset_uri, made.shard_names[0], scratch_path=tmp_path, on_picture=lambda: None
        )


def test_scratch_folder_is_left_empty(plan: Plan, tmp_path: Path) -> None:
    made = plan()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    build_shard(
        made.dataset_uri, made.shard_names[0], scratch_path=scratch, on_picture=lambda: None
    )
    assert list(scratch.iterdir()) == []
