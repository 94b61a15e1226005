import os
import shutil
from pathlib import Path

import pytest

from repot import storage
from repot.checkpoints import Source
from repot.dataset_plan import DatasetPlan, read_plan, read_work
from repot.errors import DataError, UsageError
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_work
from repot.planner.preflight import Parameters
from repot.settings import (
    DatasetSettings,
    GateSettings,
    JobSettings,
    RunSettings,
    TaskSettings,
    TrainingSettings,
)
from tests.unit.conftest import Plan, WritePictures


def _paths(plan: DatasetPlan) -> dict[str, list[str]]:
    return {
        name: [picture.path for picture in read_work(plan.dataset_uri, name)]
        for name in plan.shard_names
    }


def test_plan_says_what_is_going_to_be(plan: Plan, pictures: Path) -> None:
    (pictures / "a" / "Thumbs.db").write_bytes(b"x")
    made = plan(train_shards=2)
    assert made.labels == ("a", "b", "c")
    assert made.shard_names == [
        "train-00000-of-00002",
        "train-00001-of-00002",
        "validation-00000-of-00001",
    ]
    assert made.settings["validation_shards"] == 1
    assert made.num_found == 31
    assert [(item.path, item.reason) for item in made.rejected] == [("a/Thumbs.db", "system_file")]
    assert sum(made.num_pictures.values()) == 30
    assert not made.exists
    assert read_plan(made.dataset_uri) == made


def test_work_lists_hold_every_picture_once(plan: Plan, pictures: Path) -> None:
    made = plan(train_shards=3, num_threads=3, validation_shards=3)
    work = [picture for name in made.shard_names for picture in read_work(made.dataset_uri, name)]
    assert sorted(picture.path for picture in work) == sorted(
        f"{path.parent.name}/{path.name}" for path in pictures.glob("*/*")
    )
    for picture in work:
        data = Path(picture.uri).read_bytes()
        assert picture.uri == str(pictures / picture.path)
        assert picture.crc32c == storage.crc32c_hex(data)
        assert picture.size_bytes == len(data)
        assert (picture.class_id, picture.label) == (
            "abc".index(picture.path[0]) + 1,
            picture.path[0],
        )


def test_id_and_bytes_of_the_plan_are_repeatable(plan: Plan, tmp_path: Path) -> None:
    first = plan()
    files = {
        info.uri: storage.read_bytes(info.uri) for info in storage.list_objects(first.dataset_uri)
    }
    assert plan() == first
    assert plan(remember=False) == first
    assert {
        info.uri: storage.read_bytes(info.uri) for info in storage.list_objects(first.dataset_uri)
    } == files
    assert len(list((tmp_path / "storage" / "datasets").iterdir())) == 1


def test_id_does_not_depend_on_where_the_pictures_lie(
    plan: Plan, pictures: Path, tmp_path: Path, gcs: str
) -> None:
    shutil.copytree(pictures, tmp_path / "elsewhere")
    storage.upload_folder(pictures, f"{gcs}/pictures")
    first = plan()
    assert plan(tmp_path / "elsewhere").dataset_id == first.dataset_id
    remote = plan(roots=PictureRoots(pictures_uri=f"{gcs}/pictures"), storage_uri=f"{gcs}/storage")
    assert remote.dataset_id == first.dataset_id
    assert _paths(remote) == _paths(first)


def test_upload_of_equal_bytes_is_no_change(plan: Plan, pictures: Path) -> None:
    first = plan().dataset_id
    os.utime(pictures / "a" / "000.jpg", (1, 1))
    assert plan().dataset_id == first


def test_split_folders_and_two_roots_are_the_same_data_set(
    plan: Plan, tmp_path: Path, write_pictures: WritePictures
) -> None:
    folder = tmp_path / "split"
    write_pictures(folder, {"train/a": 3, "train/b": 2, "validation/a": 1})
    one = plan(folder)
    two = plan(
        roots=PictureRoots(train_uri=f"{folder}/train", validation_uri=f"{folder}/validation")
    )
    assert one.dataset_id == two.dataset_id
    assert sorted(_paths(one)["validation-00000-of-00001"]) == ["validation/a/000.jpg"]


@pytest.mark.parametrize(
    "settings",
    [
        {"train_shards": 2},
        {"validation_shards": 2},
        {"num_threads": 2},
        {"validation_fraction": 0.5},
    ],
)
def test_every_setting_changes_the_id(plan: Plan, settings: dict[str, float]) -> None:
    assert plan(**settings).dataset_id != plan().dataset_id


def test_chosen_and_given_shard_counts_are_the_same_data_set(plan: Plan) -> None:
    assert plan(train_shards=1, validation_shards=1).dataset_id == plan().dataset_id


def test_every_picture_changes_the_id_and_other_files_do_not(plan: Plan, pictures: Path) -> None:
    ids = [plan().dataset_id]
    (pictures / "a" / "000.jpg").write_bytes(b"other bytes")
    ids.append(plan().dataset_id)
    (pictures / "a" / "000.jpg").rename(pictures / "a" / "renamed.jpg")
    ids.append(plan().dataset_id)
    (pictures / "a" / "renamed.jpg").rename(pictures / "b" / "renamed.jpg")
    ids.append(plan().dataset_id)
    (pictures / "b" / "sub").mkdir()
    (pictures / "b" / "sub" / "x.jpg").write_bytes(b"nested")
    ids.append(plan().dataset_id)
    assert len(set(ids)) == 5
    (pictures / "LICENSE").write_text("text")
    (pictures / "b" / ".DS_Store").write_text("text")
    assert plan().dataset_id == ids[-1]


def test_labels_file_gives_names_and_order(plan: Plan) -> None:
    made = plan(labels="c\na\n")
    assert made.labels == ("c", "a")
    assert {item.reason for item in made.rejected} == {"label_not_listed"}
    assert len(made.rejected) == 10
    assert made.num_found == 30
    (picture,) = {
        picture.class_id
        for picture in read_work(made.dataset_uri, "train-00000-of-00001")
        if "c/" in picture.path
    }
    assert picture == 1
    assert plan(labels="a\nc\n").dataset_id != made.dataset_id


def test_more_shards_than_pictures_gives_empty_shards(plan: Plan) -> None:
    made = plan(train_shards=64, validation_shards=16, num_threads=8)
    assert len(made.shard_names) == 80
    assert sum(made.num_pictures.values()) == 30
    assert 0 in made.num_pictures.values()


def test_existing_data_set_is_recognised_and_nothing_written(plan: Plan) -> None:
    first = plan()
    storage.delete_folder(f"{first.dataset_uri}/work")
    storage.write_json(f"{first.dataset_uri}/manifest.json", {"dataset_id": first.dataset_id})
    again = plan()
    assert again.exists
    assert again.shard_names == first.shard_names
    assert not storage.list_objects(f"{first.dataset_uri}/work")


def test_one_label_is_refused(plan: Plan, tmp_path: Path, write_pictures: WritePictures) -> None:
    write_pictures(tmp_path / "one", {"roses": 5})
    with pytest.raises(DataError, match="two labels or more; got roses"):
        plan(tmp_path / "one")


def test_all_labels_with_a_single_picture_are_named(
    plan: Plan, tmp_path: Path, write_pictures: WritePictures
) -> None:
    write_pictures(tmp_path / "few", {"a": 2, "b": 1, "c": 2, "d": 1})
    with pytest.raises(DataError, match="these have fewer: b, d"):
        plan(tmp_path / "few")


def test_validation_label_without_training_pictures_is_named(
    plan: Plan, tmp_path: Path, write_pictures: WritePictures
) -> None:
    write_pictures(
        tmp_path / "split", {"train/a": 2, "train/b": 1, "validation/a": 1, "validation/x": 1}
    )
    with pytest.raises(DataError, match="these have none: x"):
        plan(tmp_path / "split")


def test_validation_folder_without_pictures_is_refused(
    plan: Plan, tmp_path: Path, write_pictures: WritePictures
) -> None:
    write_pictures(tmp_path / "split", {"train/a": 2, "train/b": 1})
    (tmp_path / "split" / "validation").mkdir()
    (tmp_path / "split" / "validation" / "README.md").write_text("later")
    with pytest.raises(DataError, match="validation folder must hold pictures"):
        plan(tmp_path / "split")


def test_several_problems_are_said_at_once(
    plan: Plan, pictures: Path, write_pictures: WritePictures
) -> None:
    (pictures / "stray.jpg").write_bytes(b"x")
    write_pictures(pictures, {"single": 1, "deep/er": 3, " blank": 2})
    with pytest.raises(DataError) as caught:
        plan()
    problems = str(caught.value).split("\n")
    assert len(problems) == 4
    for words in ("stray.jpg", "deep hold nothing but folders", "' blank'", "have fewer: single"):
        assert any(words in problem for problem in problems)
    with pytest.raises(UsageError) as usage:
        plan(labels="a\n\nnope\na\n")
    assert len(usage.value.problems) == 4


def test_data_set_inside_the_pictures_is_refused_before_anything_is_written(
    plan: Plan, pictures: Path
) -> None:
    with pytest.raises(UsageError, match="must not lie inside the pictures' folder"):
        plan(storage_uri=f"{pictures}/out")
    assert not (pictures / "out").exists()


def test_unreadable_picture_is_rejected_and_counted(
    plan: Plan, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repot.planner import checksums

    read = checksums._read
    monkeypatch.setattr(
        checksums,
        "_read",
        lambda file: ("", "Permission denied") if file.path == "a/003.jpg" else read(file),
    )
    made = plan()
    (rejection,) = made.rejected
    assert (rejection.path, rejection.label, rejection.reason) == ("a/003.jpg", "a", "unreadable")
    assert rejection.detail == "Permission denied"
    assert sum(made.num_pictures.values()) == 29


def _parameters(pictures: Path, storage_uri: str, builder_pods: int) -> Parameters:
    return Parameters(
        run=RunSettings(
            pictures_uri=str(pictures), storage_uri=storage_uri, builder_pods=builder_pods
        ),
        dataset=DatasetSettings(train_shards=5),
        training=TrainingSettings(),
        gate=GateSettings(),
        checkpoint=Source(name="w.h5", uri="/w.h5"),
        task=TaskSettings(),
        job=JobSettings(),
    )


@pytest.mark.parametrize(("builder_pods", "num_items"), [(1, 1), (4, 4), (6, 6), (64, 6)])
def test_plan_work_gives_one_item_a_pod_but_none_without_work(
    pictures: Path, tmp_path: Path, builder_pods: int, num_items: int
) -> None:
    work = plan_work(_parameters(pictures, str(tmp_path / "storage"), builder_pods))
    assert work.items == tuple(
        f"{work.dataset_id}:{index}/{num_items}" for index in range(num_items)
    )
    assert (tmp_path / "storage" / "datasets" / work.dataset_id / "plan.json").exists()


def test_plan_work_gives_one_item_for_an_existing_data_set(pictures: Path, tmp_path: Path) -> None:
    parameters = _parameters(pictures, str(tmp_path / "storage"), 4)
    first = plan_work(parameters)
    manifest = tmp_path / "storage" / "datasets" / first.dataset_id / "manifest.json"
    storage.write_json(str(manifest), {"dataset_id": first.dataset_id})
    assert plan_work(parameters).items == (f"{first.dataset_id}:0/1",)
