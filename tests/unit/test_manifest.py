import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from repot import storage
from repot.errors import DataError, UsageError
from repot.json_record import RecordError
from repot.manifest import (
    SPLITS,
    Manifest,
    Receipt,
    Rejection,
    Split,
    count_reasons,
    read_manifest,
    shard_name,
    shard_split,
)
from repot.settings import DatasetSettings

EMPTY = Rejection(path="b/empty.jpg", label="b", split="train", reason="empty")
STRAY = Rejection(
    path="Thumbs.db", label="", split="", reason="not_a_picture", detail="unknown format"
)


def receipt(name: str, class_counts: dict[str, int], *rejected: Rejection) -> Receipt:
    return Receipt(
        shard=name,
        split=shard_split(name),
        num_records=sum(class_counts.values()),
        size_bytes=4096,
        crc32c="0123abcd",
        class_counts=class_counts,
        rejected=rejected,
    )


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        dataset_id="0123456789abcdef",
        pictures_uri="gs://bucket/pictures",
        labels=("b", "a", "c"),
        settings=DatasetSettings(train_shards=2, validation_shards=1),
        shards=(
            receipt("train-00000-of-00002", {"b": 3, "a": 1}),
            receipt("train-00001-of-00002", {"a": 2}),
            receipt("validation-00000-of-00001", {"b": 1}),
        ),
        num_found=9,
        num_accepted=7,
        rejected=(EMPTY, STRAY),
    )


@pytest.mark.parametrize(
    ("split", "shard_index", "shard_count", "name"),
    [
        ("train", 0, 1, "train-00000-of-00001"),
        ("train", 1023, 1024, "train-01023-of-01024"),
        ("validation", 127, 128, "validation-00127-of-00128"),
        ("validation", 99_998, 99_999, "validation-99998-of-99999"),
    ],
)
def test_shard_name_has_the_2016_form(
    split: Split, shard_index: int, shard_count: int, name: str
) -> None:
    assert shard_name(split, shard_index, shard_count) == name
    assert shard_split(name) == split


def test_shard_names_sort_by_index() -> None:
    names = [shard_name("train", index, 1200) for index in range(1200)]

    assert sorted(names) == names


def test_num_classes_includes_the_background(manifest: Manifest) -> None:
    assert manifest.num_classes == 4


def test_num_examples_of_all_splits_add_up_to_num_accepted(manifest: Manifest) -> None:
    assert [manifest.num_examples(split) for split in SPLITS] == [6, 1, 0]
    assert manifest.splits == ("train", "validation")
    assert sum(map(manifest.num_examples, SPLITS)) == manifest.num_accepted


def test_split_without_shards_has_no_examples(manifest: Manifest) -> None:
    assert manifest.num_examples("test") == 0


def test_split_shards_are_the_shards_of_one_split(manifest: Manifest) -> None:
    assert [shard.shard for shard in manifest.split_shards("validation")] == [
        "validation-00000-of-00001"
    ]


def test_class_counts_include_every_label_in_label_order(manifest: Manifest) -> None:
    assert list(manifest.class_counts("train").items()) == [("b", 3), ("a", 3), ("c", 0)]
    assert list(manifest.class_counts("validation").items()) == [("b", 1), ("a", 0), ("c", 0)]


def test_class_counts_of_the_manifest_come_first(manifest: Manifest) -> None:
    shards = tuple(dataclasses.replace(shard, class_counts={}) for shard in manifest.shards)
    counts = {"train": {"a": 3, "b": 3}, "validation": {"b": 1}}
    stated = dataclasses.replace(manifest, shards=shards, num_by_label=counts)
    for split in ("train", "validation", "test"):
        assert stated.class_counts(split) == manifest.class_counts(split)


def test_many_labels_in_many_shards_are_counted_once_each(manifest: Manifest) -> None:
    # For each label in each shard, it would be a hundred million look-ups.
    labels = tuple(map(str, range(10_000)))
    shards = [receipt(f"train-{i:05d}-of-10000", {str(i): 1}) for i in range(10_000)]
    large = dataclasses.replace(manifest, labels=labels, shards=tuple(shards))
    started = time.process_time()
    assert set(large.class_counts("train").values()) == {1}
    assert time.process_time() - started < 2


def test_manifest_survives_json(manifest: Manifest) -> None:
    assert Manifest.from_json(_through_json(manifest.to_json())) == manifest


def test_receipt_with_rejections_survives_json() -> None:
    original = receipt("train-00000-of-00001", {"a": 1}, EMPTY)

    assert Receipt.from_json(_through_json(original.to_json())) == original


def test_receipt_without_rejected_key_has_no_rejections() -> None:
    fields = receipt("train-00000-of-00001", {"a": 1}).to_json()
    del fields["rejected"]

    assert Receipt.from_json(_through_json(fields)).rejected == ()


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "blue"},
        {"num_found": "9"},
        {"rejected": [{"path": "a"}]},
        {"settings": {"num_threads": 1, "colour": "blue"}},
        {"settings": {"num_threads": 0}},
        {"shards": [{"shard": "train-00000-of-00001"}]},
    ],
)
def test_invalid_manifest_is_an_error(manifest: Manifest, change: dict[str, Any]) -> None:
    with pytest.raises((RecordError, UsageError)):
        Manifest.from_json({**_through_json(manifest.to_json()), **change})


def test_missing_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"must have a manifest\.json; {tmp_path} has none"):
        read_manifest(str(tmp_path))


def test_invalid_manifest_file_is_an_error(tmp_path: Path) -> None:
    storage.write_json(f"{tmp_path}/manifest.json", {"dataset_id": 1})
    with pytest.raises(DataError, match=rf"{tmp_path}/manifest\.json must be a valid Manifest"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("change", [{"colour": "blue"}, {"split": "dev"}, {"class_counts": [1]}])
def test_invalid_receipt_is_an_error(manifest: Manifest, change: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        Receipt.from_json({**_through_json(manifest.shards[0].to_json()), **change})


def test_count_reasons_sorts_by_count_then_by_name() -> None:
    reasons = ["empty", "truncated", "truncated", "animated"]
    rejected = [Rejection(path="p", label="", split="", reason=reason) for reason in reasons]

    assert list(count_reasons(rejected).items()) == [
        ("truncated", 2),
        ("animated", 1),
        ("empty", 1),
    ]


def test_count_reasons_without_rejections_is_empty() -> None:
    assert count_reasons([]) == {}


def _through_json(fields: dict[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(json.dumps(fields))
    return decoded
