"""Bounding boxes and texts of synsets from files of their own, and examples per box."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repot import records
from repot.errors import UsageError
from repot.planner.inputs.boxes import read_boxes
from repot.planner.listing import PictureRoots
from repot.planner.plan import PlannedDataset, plan_dataset
from repot.records import Box
from repot.settings import DatasetSettings, InputSettings
from repot.shard_builder.build import build_shards
from repot.work_list import SourcePicture, read_work_list
from tests.unit.conftest import make_jpeg


def _plan(
    uri: Path, target: Path, *, crop_to_boxes: bool = False, labels_file: str = "", **inputs: str
) -> PlannedDataset:
    return plan_dataset(
        PictureRoots(pictures_uri=str(uri)),
        dataset_folder=lambda _: str(target),
        listings_uri=None,
        settings=DatasetSettings(crop_to_boxes=crop_to_boxes),
        labels_file_uri=labels_file,
        inputs=InputSettings(**inputs),
    )


def _work(planned: PlannedDataset) -> list[SourcePicture]:
    return [
        picture
        for shard in planned.plan.shard_names
        for picture in read_work_list(planned.dataset_uri, shard)
    ]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder with three pictures in each of two labels."""
    for index, label in enumerate(("cat", "dog")):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(3):
            path = tmp_path / "pictures" / label / f"{label}{number}.jpg"
            path.write_bytes(make_jpeg(10 * index + number))
    return tmp_path / "pictures"


def _voc(objects: str, size: str = "<width>200</width><height>100</height>") -> str:
    return f"<annotation><filename>x</filename><size>{size}</size>{objects}</annotation>"


def _object(name: str, *edges: object, part: str = "") -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{name}>{edge}</{name}>" for name, edge in zip(names, edges, strict=True))
    return f"<object><name>{name}</name>{part}<bndbox>{box}</bndbox></object>"


def test_boxes_of_pascal_voc(tmp_path: Path) -> None:
    part = (
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
        "<ymax>9</ymax></bndbox></part>"
    )
    objects = _object("cat", 20, 10.9, 100, 50, part=part) + _object("dog", 300, 90, 100, -5)
    (tmp_path / "2007_000027.xml").write_text(_voc(objects + _object("cat", 5, 5, 5, 9)))
    index = read_boxes(str(tmp_path))
    name, boxes = index.find("any/2007_000027.png")
    assert name == "2007_000027"
    assert boxes == [
        Box(xmin=0.1, ymin=0.1, xmax=0.5, ymax=0.5, label="cat"),
        Box(xmin=0.5, ymin=0.0, xmax=1.0, ymax=0.9, label="dog"),
    ]
    assert index.num_empty == 1
    assert index.find("2007_000028.png") == ("", ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "it cannot be read: no element found"),
        (_voc(_object("cat", 1, 1, "x", 4)), "it cannot be read: could not convert"),
        (_voc("", "<width>0</width>"), "width and height must be at least 1"),
        (_voc("", "<width>nan</width>"), "sizes and edges must be finite numbers"),
        (_voc(_object("cat", 1, 1, "inf", 4)), "sizes and edges must be finite numbers"),
        (_voc(_object("cat", "nan", 1, 2, 4)), "sizes and edges must be finite numbers"),
        ('<!DOCTYPE a [<!ENTITY b "b">]><a>&b;</a>', "it must not declare a document type"),
    ],
)
def test_annotation_that_cannot_be_read_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "n01739381").mkdir()
    (tmp_path / "n01739381" / "a.xml").write_text(text)
    with pytest.raises(UsageError, match=f"n01739381/a.xml: {message}"):
        read_boxes(str(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat0.jpg,0,0,1", "it must have a name and four numbers"),
        ("cat0.jpg,0,0,1,x", "it must have a name and four numbers"),
        ("cat0.jpg,0,0,1,1.01", r"edges must be fractions of the picture, in 0..1; got 0, 0, 1"),
    ],
)
def test_wrong_line_of_boxes_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(f"x.jpg,0,0,1,1\n{line}\n")
    with pytest.raises(UsageError, match=f"line 2: {message}"):
        read_boxes(str(tmp_path / "boxes.csv"))


def test_boxes_become_features_of_all_pictures(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("cat0.jpg,.1,.2,.3,.4\ncat0.jpg,0,0,1,1\ndog1.jpg,.5,0,.5,1\n")
    plain = _plan(pictures, tmp_path / "plain").plan.dataset_id
    planned = _plan(pictures, tmp_path / "data", bounding_box_file_uri=f"{tmp_path}/b.csv")
    assert planned.plan.dataset_id != plain
    by_name = {picture.path: picture.boxes for picture in _work(planned)}
    assert len(by_name.pop("cat/cat0.jpg") or ()) == 2
    assert set(by_name.values()) == {()}


def test_pictures_of_one_name_with_boxes_are_reported(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="repot.progress")
    for label in ("cat", "dog"):
        (pictures / label / f"{label}0.jpg").rename(pictures / label / "same.jpg")
    (tmp_path / "b.csv").write_text("same.jpg;.1;.2;.3;.4\nunknown.jpg;0;0;1;1\n")
    planned = _plan(pictures, tmp_path / "data", bounding_box_file_uri=f"{tmp_path}/b.csv")
    assert sum(bool(picture.boxes) for picture in _work(planned)) == 2
    counts = f"2 bounding boxes in 2 of {len(_work(planned))} pictures; 1 other pictures"
    assert counts in caplog.text
    assert "several pictures have the names 'same.jpg'; each of them got the boxes" in caplog.text


def test_boxes_of_a_manifest_and_of_a_file_give_the_same_dataset(
    pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "b.csv").write_text("cat0.jpg,.1,.2,.3,.4\ndog1.jpg,.5,0,.75,1\n")
    boxes = {"cat/cat0.jpg": ".1,.2,.3,.4", "dog/dog1.jpg": ".5,0,.75,1"}
    rows = [
        f"{path},{path[:3]},{boxes.get(path, ',,,')}"
        for path in sorted(str(each.relative_to(pictures)) for each in pictures.glob("*/*"))
    ]
    manifest = pictures / "m.csv"
    manifest.write_text("\n".join(["path,label,xmin,ymin,xmax,ymax", *rows]))
    by_file = _plan(pictures, tmp_path / "data", bounding_box_file_uri=f"{tmp_path}/b.csv")
    assert _plan(manifest, tmp_path / "again").plan.dataset_id == by_file.plan.dataset_id
    build_shards(by_file.dataset_uri, num_processes=1)
    # The boxes of shards have single precision.
    again = _plan(Path(by_file.dataset_uri), tmp_path / "third")
    assert again.plan.dataset_id == by_file.plan.dataset_id


def test_boxes_of_no_picture_are_an_error(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("other.jpg,.1,.2,.3,.4\n")
    with pytest.raises(UsageError, match=r"none of the 1 names .*'other.jpg', is that of a pict"):
        _plan(pictures, tmp_path / "data", bounding_box_file_uri=f"{tmp_path}/b.csv")
    with pytest.raises(UsageError, match="must be in a CSV file, or in a folder with XML files"):
        _plan(pictures, tmp_path / "data", bounding_box_file_uri=f"{tmp_path}/none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ta cat\n", "'dog' has none in"),
        ("cat a cat\ndog\ta dog\n", "line 1: got 'cat a cat'"),
        ("cat\ta\tb\ndog\ta dog\n", "line 1: got"),
    ],
)
def test_wrong_metadata_file_is_explained(
    text: str, message: str, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "m.txt").write_text(text)
    with pytest.raises(UsageError, match=message):
        _plan(pictures, tmp_path / "data", imagenet_metadata_file_uri=f"{tmp_path}/m.txt")


def test_texts_of_synsets_without_files_named_as_in_imagenet(
    pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "m.txt").write_text("cat\ta cat\r\ndog\ta dog, brown\r\nfox\tunused\r\n")
    planned = _plan(pictures, tmp_path / "data", imagenet_metadata_file_uri=f"{tmp_path}/m.txt")
    assert {(each.label, each.text) for each in _work(planned)} == {
        ("cat", "a cat"),
        ("dog", "a dog, brown"),
    }
    assert planned.plan.num_found == 6


def _blocks(folder: Path) -> Path:
    """Write pictures of 40 x 20 pixels, the left half black and the right half white."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    for number in range(6):
        (folder / f"{number}.png").parent.mkdir(exist_ok=True)
        pixels[0, 0] = number
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_one_example_per_box(tmp_path: Path) -> None:
    folder = _blocks(tmp_path / "pictures")
    halves = [
        f"{number}.png,{label},{xmin},0,{xmin + 0.5},1"
        for number in range(5)
        for label, xmin in (("black", 0.0), ("white", 0.5))
    ]
    rows = ["path,label,xmin,ymin,xmax,ymax", *halves, "5.png,white,,,,"]
    (folder / "m.csv").write_text("\n".join(rows))
    planned = _plan(folder / "m.csv", tmp_path / "data", crop_to_boxes=True)
    work = _work(planned)
    assert sorted((each.path, each.label) for each in work)[:2] == [
        ("0.box1.png", "black"),
        ("0.box2.png", "white"),
    ]
    assert len({each.path for each in work}) == len(work) == 10
    assert [(each.path, each.reason) for each in planned.plan.rejected] == [("5.png", "no_box")]
    # Both examples of a picture are in one split.
    by_split = {
        split: {
            each.path[0]
            for shard in planned.plan.shard_names
            if shard.startswith(split)
            for each in read_work_list(planned.dataset_uri, shard)
        }
        for split in ("train", "validation")
    }
    assert not by_split["train"] & by_split["validation"]
    build_shards(planned.dataset_uri, num_processes=1)
    for shard in planned.plan.shard_names:
        for data in records.read_records(Path(planned.dataset_uri, shard)):
            features = records.decode_example(data)
            assert (features["image/height"], features["image/width"]) == ([20], [20])
            encoded = features["image/encoded"][0]
            assert isinstance(encoded, bytes)
            mean = np.asarray(Image.open(io.BytesIO(encoded))).mean()
            assert (mean > 128) == (features["image/class/text"] == [b"white"])
            assert not any(name.startswith("image/object") for name in features)


def test_cropping_needs_boxes(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="crop_to_boxes must have bounding boxes"):
        _plan(pictures, tmp_path / "data", crop_to_boxes=True)


def test_crops_have_the_label_of_the_object_if_it_is_a_label(
    pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "boxes").mkdir()
    objects = _object("cat", 0, 0, 9, 9), _object("dog", 9, 9, 99, 99), _object("tree", 1, 1, 5, 5)
    for name in ("cat0", "cat1", "dog0", "dog1"):
        (tmp_path / "boxes" / f"{name}.xml").write_text(_voc("".join(objects)))
    planned = _plan(
        pictures, tmp_path / "data", crop_to_boxes=True, bounding_box_file_uri=f"{tmp_path}/boxes"
    )
    assert planned.plan.labels == ("cat", "dog")
    labels = {each.path: each.label for each in _work(planned)}
    assert [labels[f"cat/cat0.box{number}.jpg"] for number in (1, 2, 3)] == ["cat", "dog", "cat"]
    assert [labels[f"dog/dog1.box{number}.jpg"] for number in (1, 2, 3)] == ["cat", "dog", "dog"]
    whole = _plan(pictures, tmp_path / "whole", bounding_box_file_uri=f"{tmp_path}/boxes")
    boxes = {each.path: each.boxes or () for each in _work(whole)}
    # A box of the other label is skipped, one of something else is not.
    assert [len(boxes[f"cat/cat{number}.jpg"]) for number in range(3)] == [2, 2, 0]
