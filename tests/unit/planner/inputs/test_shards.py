"""Existing shards as input: WebDataset tar files and TFRecord shards of the 2016 schema."""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from repot.errors import UsageError
from repot.planner.inputs.inventory import Inventory
from repot.planner.inputs.read import ReadOptions, read_inventory
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.records import Box, encode_example, frame_record, picture_features
from repot.settings import DatasetSettings
from tests.unit.conftest import make_jpeg


def _inventory(uri: Path, **options: Any) -> Inventory:
    return read_inventory(PictureRoots(pictures_uri=str(uri)), ReadOptions(**options))


def _problem(uri: Path, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        _inventory(uri, **options)
    return str(caught.value)


def _tar(path: Path, files: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_samples_of_one_key(tmp_path: Path) -> None:
    metadata = json.dumps({"label": "a cat", "width": 3}).encode()
    _tar(
        tmp_path / "x-000000.tar",
        {
            "00/n1.jpg": b"1",
            "00/n1.cls": b"7\n",
            "00/n1.json": metadata,
            "00/n2.seg.v2.txt": b"caption",
            "00/n2.PNG": b"2",
            "00/n2.json": metadata,
            "info.txt": b"about",
        },
    )
    inventory = _inventory(tmp_path / "x-000000.tar")
    assert [(each.file.name, each.label) for each in inventory.candidates] == [
        ("n1.jpg", "7"),
        ("n2.PNG", "a cat"),
    ]
    assert [each.path for each in inventory.rejected] == ["x-000000.tar/info.txt"]
    names = [str(number) for number in range(7)]
    listed = _inventory(tmp_path, listed_labels=[*names[:6], "six", "seven", "a cat"])
    assert [each.label for each in listed.candidates] == ["seven", "a cat"]


def test_samples_without_a_label_or_with_several_pictures_are_named(tmp_path: Path) -> None:
    files = {"1.jpg": b"1", "2.jpg": b"2", "2.png": b"2", "2.cls": b"0", "3.jpg": b"", "3.cls": b""}
    _tar(tmp_path / "x.tar", files)
    problem = _problem(tmp_path / "x.tar")
    assert problem.startswith(f"Every sample of {tmp_path}/x.tar must name a picture and its label")
    for line in (
        "x.tar/1: it has no .cls file, and no .json file with a label",
        "x.tar/2: it has several pictures: 2.jpg, 2.png",
        "x.tar/3: the label is empty",
    ):
        assert line in problem


def _write_shard(path: Path, *changes: Mapping[str, Any]) -> None:
    frames = []
    for number, change in enumerate(changes):
        features = picture_features(
            jpeg=make_jpeg(number), height=12, width=16, class_id=1, label="a", filename="x.jpg"
        )
        frames.append(frame_record(encode_example({**features, **change})))
    path.write_bytes(b"".join(frames))


def test_labels_keep_the_order_of_their_numbers(tmp_path: Path) -> None:
    rows = [("zebra", 1), ("ape", 2), ("bear", 3)]
    changes = [
        {"image/class/text": [text.encode()], "image/class/label": [class_id]}
        for text, class_id in rows
    ]
    _write_shard(tmp_path / "train-00000-of-00001", *changes)
    _write_shard(tmp_path / "validation-00000-of-00001", *changes)
    inventory = _inventory(tmp_path)
    assert inventory.label_order == ("zebra", "ape", "bear")
    assert [each.split for each in inventory.candidates] == ["train"] * 3 + ["validation"] * 3
    assert not inventory.has_boxes
    _write_shard(tmp_path / "train-00000-of-00001", changes[0], {"image/class/label": [9]})
    assert _inventory(tmp_path).label_order == ("zebra", "ape", "bear", "a")


def test_labels_that_shards_do_not_know_are_numbered_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="repot.progress")
    changes = [
        {"image/class/text": [text.encode()], "image/class/label": [class_id]}
        for text, class_id in (("zebra", 1), ("ape", 2))
    ]
    _write_shard(tmp_path / "validation-00000-of-00001", *changes)
    rows = []
    for number, label in enumerate(["zebra", "ape", "bear"]):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
        rows.append(f"{number}.jpg,{label}\n")
    (tmp_path / "train.csv").write_text("path,label\n" + "".join(rows))
    planned = plan_dataset(
        PictureRoots(
            train_uri=f"{tmp_path}/train.csv",
            validation_uri=f"{tmp_path}/validation-00000-of-00001",
        ),
        dataset_folder=lambda _: f"{tmp_path}/data",
        listings_uri=None,
        settings=DatasetSettings(),
    )
    assert planned.plan.labels == ("ape", "bear", "zebra")
    assert "number their labels differently, or not all of them" in caplog.text


def test_shards_for_training_only_are_not_split(tmp_path: Path) -> None:
    _tar(tmp_path / "train-000.tar", {"1.jpg": b"1", "1.cls": b"0"})
    assert [each.split for each in _inventory(tmp_path).candidates] == [""]
    _tar(tmp_path / "val-000.tar", {"1.jpg": b"1", "1.cls": b"0"})
    assert [each.split for each in _inventory(tmp_path).candidates] == ["train", "validation"]


def test_record_without_a_text_has_the_label_of_its_line(tmp_path: Path) -> None:
    _write_shard(tmp_path / "x", {"image/class/text": [], "image/class/label": [2]})
    (candidate,) = _inventory(tmp_path / "x").candidates
    assert candidate.label == "2"
    (candidate,) = _inventory(tmp_path / "x", listed_labels=["a", "b"]).candidates
    assert candidate.label == "b"


def test_boxes_and_synsets_of_records_are_kept(tmp_path: Path) -> None:
    features = picture_features(
        jpeg=make_jpeg(1),
        height=12,
        width=16,
        class_id=1,
        label="n01739381",
        filename="x.JPEG",
        text="vine snake",
        boxes=[Box(xmin=0.25, ymin=0, xmax=0.5, ymax=1)],
    )
    (tmp_path / "x").write_bytes(frame_record(encode_example(features)))
    inventory = _inventory(tmp_path / "x")
    (candidate,) = inventory.candidates
    assert (candidate.label, inventory.texts) == ("n01739381", {"n01739381": "vine snake"})
    assert candidate.boxes == (Box(xmin=0.25, ymin=0, xmax=0.5, ymax=1),)
    assert inventory.has_boxes


def test_damaged_shards_and_other_records_are_refused(tmp_path: Path) -> None:
    _write_shard(tmp_path / "x", {}, {})
    data = bytearray((tmp_path / "x").read_bytes())
    data[-20] ^= 1
    (tmp_path / "x").write_bytes(data)
    assert f"record 1 of {tmp_path}/x, at byte" in _problem(tmp_path / "x")
    (tmp_path / "x").write_bytes(frame_record(encode_example({"text": [b"no picture"]})))
    assert f"got record 0 of {tmp_path}/x. Give the shards of a dataset" in _problem(tmp_path / "x")


def test_compressed_shard_is_named(tmp_path: Path) -> None:
    _write_shard(tmp_path / "x", {}, {})
    (tmp_path / "x.gz").write_bytes(gzip.compress((tmp_path / "x").read_bytes()))
    for options in ({}, {"input_format": "tfrecord"}):
        problem = _problem(tmp_path / "x.gz", **options)
        assert problem.startswith("A TFRecord shard must not be compressed;")


def test_folder_with_both_kinds_of_shards_is_ambiguous(tmp_path: Path) -> None:
    _write_shard(tmp_path / "train-00000-of-00001", {})
    _tar(tmp_path / "x.tar", {"1.jpg": b"1", "1.cls": b"0"})
    problem = _problem(tmp_path)
    assert "either TFRecord shards or tar files; got 'train-00000-of-00001' and 'x.tar'" in problem
    assert len(_inventory(tmp_path, input_format="tfrecord").candidates) == 1
    assert len(_inventory(tmp_path, input_format="webdataset").candidates) == 1
