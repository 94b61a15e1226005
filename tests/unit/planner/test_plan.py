import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from repot import storage
from repot.checkpoints import CheckpointSource
from repot.dataset_plan import Share, read_plan
from repot.errors import DataError, UsageError
from repot.manifest import shard_split
from repot.planner import checksums
from repot.planner.listing import PictureRoots
from repot.planner.plan import PlannedDataset, plan_dataset, plan_work, raise_problems
from repot.planner.preflight import Parameters
from repot.settings import (
    CheckpointSettings,
    DatasetSettings,
    GateSettings,
    InputSettings,
    JobSettings,
    RunSettings,
    TaskSettings,
    TrainingSettings,
)
from repot.work_list import read_work_list
from tests.unit.conftest import MakePlan, WritePictures


def _paths(planned: PlannedDataset) -> dict[str, list[str]]:
    return {
        name: [picture.path for picture in read_work_list(planned.dataset_uri, name)]
        for name in planned.plan.shard_names
    }


def test_plan_describes_the_dataset(make_plan: MakePlan, pictures: Path) -> None:
    (pictures / "a" / "Thumbs.db").write_bytes(b"x")
    planned = make_plan(train_shards=2)
    plan = planned.plan
    assert plan.labels == ("a", "b", "c")
    assert plan.shard_names == [
        "train-00000-of-00002",
        "train-00001-of-00002",
        "validation-00000-of-00001",
    ]
    assert plan.settings == DatasetSettings(train_shards=2, validation_shards=1)
    assert plan.num_found == 31
    assert [(item.path, item.reason) for item in plan.rejected] == [("a/Thumbs.db", "system_file")]
    assert sum(plan.num_pictures.values()) == 30
    assert not planned.exists
    assert read_plan(planned.dataset_uri) == plan


def test_work_lists_contain_every_picture_once(make_plan: MakePlan, pictures: Path) -> None:
    planned = make_plan(train_shards=3, num_threads=3, validation_shards=3)
    work = [
        picture
        for name in planned.plan.shard_names
        for picture in read_work_list(planned.dataset_uri, name)
    ]
    assert sorted(picture.path for picture in work) == sorted(
        f"{path.parent.name}/{path.name}" for path in pictures.glob("*/*")
    )
    for picture in work:
        data = Path(picture.uri).read_bytes()
        assert picture.uri == str(pictures / picture.path)
        assert picture.checksum == storage.crc32c_hex(data)
        assert picture.size_bytes == len(data)
        assert (picture.class_id, picture.label) == (
            "abc".index(picture.path[0]) + 1,
            picture.path[0],
        )


def test_planning_again_gives_the_same_id_and_bytes(make_plan: MakePlan, tmp_path: Path) -> None:
    def stored_files() -> dict[str, bytes]:
        infos = storage.list_objects(first.dataset_uri)
        return {info.uri: storage.read_bytes(info.uri) for info in infos}

    first = make_plan()
    files = stored_files()
    assert make_plan() == first
    assert make_plan(use_cache=False) == first
    assert stored_files() == files
    assert len(list((tmp_path / "storage" / "datasets").iterdir())) == 1


def test_id_does_not_depend_on_the_location_of_the_pictures(
    make_plan: MakePlan, pictures: Path, tmp_path: Path, gcs: str
) -> None:
    shutil.copytree(pictures, tmp_path / "elsewhere")
    storage.upload_folder(pictures, f"{gcs}/pictures")
    first = make_plan()
    assert make_plan(tmp_path / "elsewhere").plan.dataset_id == first.plan.dataset_id
    remote = make_plan(
        roots=PictureRoots(pictures_uri=f"{gcs}/pictures"), storage_uri=f"{gcs}/storage"
    )
    assert remote.plan.dataset_id == first.plan.dataset_id
    assert _paths(remote) == _paths(first)


def test_id_does_not_depend_on_modification_times(make_plan: MakePlan, pictures: Path) -> None:
    first = make_plan().plan.dataset_id
    os.utime(pictures / "a" / "000.jpg", (1, 1))
    assert make_plan().plan.dataset_id == first


def test_split_folders_and_two_roots_give_the_same_dataset(
    make_plan: MakePlan, tmp_path: Path, write_pictures: WritePictures
) -> None:
    folder = tmp_path / "split"
    write_pictures(folder, {"train/a": 3, "train/b": 2, "validation/a": 1})
    one = make_plan(folder)
    two = make_plan(
        roots=PictureRoots(train_uri=f"{folder}/train", validation_uri=f"{folder}/validation")
    )
    assert one.plan.dataset_id == two.plan.dataset_id
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
def test_every_setting_changes_the_id(make_plan: MakePlan, settings: dict[str, float]) -> None:
    assert make_plan(**settings).plan.dataset_id != make_plan().plan.dataset_id


def test_chosen_and_explicit_shard_counts_give_the_same_dataset(make_plan: MakePlan) -> None:
    explicit = make_plan(train_shards=1, validation_shards=1)
    assert explicit.plan.dataset_id == make_plan().plan.dataset_id


def test_every_picture_changes_the_id_and_other_files_do_not(
    make_plan: MakePlan, pictures: Path
) -> None:
    def dataset_id() -> str:
        return make_plan().plan.dataset_id

    ids = [dataset_id()]
    (pictures / "a" / "000.jpg").write_bytes(b"other bytes")
    ids.append(dataset_id())
    (pictures / "a" / "000.jpg").rename(pictures / "a" / "renamed.jpg")
    ids.append(dataset_id())
    (pictures / "a" / "renamed.jpg").rename(pictures / "b" / "renamed.jpg")
    ids.append(dataset_id())
    (pictures / "b" / "sub").mkdir()
    (pictures / "b" / "sub" / "x.jpg").write_bytes(b"nested")
    ids.append(dataset_id())
    assert len(set(ids)) == 5
    (pictures / "LICENSE").write_text("text")
    (pictures / "b" / ".DS_Store").write_text("text")
    assert dataset_id() == ids[-1]


def test_columns_of_scored_pictures_are_part_of_the_dataset(pictures: Path, tmp_path: Path) -> None:
    def columns(split: str, camera: str) -> tuple[str, set[tuple[str, ...]]]:
        rows = ["path,label,split,camera"]
        for path in sorted(pictures.rglob("*.jpg")):
            own = "validation" if path.stem.endswith("0") else "train"
            value = camera if own == split else "A"
            rows.append(f"{path},{path.parent.name},{own},{value}")
        (tmp_path / "m.csv").write_text("\n".join(rows))
        planned = plan_dataset(
            PictureRoots(pictures_uri=str(tmp_path / "m.csv")),
            dataset_folder=lambda dataset_id: str(tmp_path / dataset_id),
            listings_uri=None,
            settings=DatasetSettings(),
        )
        found = {
            (shard_split(name), *(value for _, value in each.columns))
            for name in planned.plan.shard_names
            for each in read_work_list(planned.dataset_uri, name)
        }
        return planned.plan.dataset_id, found

    first, found = columns("validation", "A")
    assert found == {("train",), ("validation", "A")}
    # What training does not use does not repeat it.
    assert columns("train", "B")[0] == first
    second, found = columns("validation", "B")
    assert second != first
    assert found == {("train",), ("validation", "B")}


def test_labels_file_sets_names_and_order_of_labels(make_plan: MakePlan) -> None:
    planned = make_plan(labels="c\na\n")
    assert planned.plan.labels == ("c", "a")
    assert {item.reason for item in planned.plan.rejected} == {"label_not_listed"}
    assert len(planned.plan.rejected) == 10
    assert planned.plan.num_found == 30
    (class_id,) = {
        picture.class_id
        for picture in read_work_list(planned.dataset_uri, "train-00000-of-00001")
        if "c/" in picture.path
    }
    assert class_id == 1
    assert make_plan(labels="a\nc\n").plan.dataset_id != planned.plan.dataset_id


def test_more_shards_than_pictures_give_empty_shards(make_plan: MakePlan) -> None:
    plan = make_plan(train_shards=64, validation_shards=16, num_threads=8).plan
    assert len(plan.shard_names) == 80
    assert sum(plan.num_pictures.values()) == 30
    assert 0 in plan.num_pictures.values()


def test_existing_dataset_is_found_and_nothing_is_written(make_plan: MakePlan) -> None:
    first = make_plan()
    storage.delete_folder(f"{first.dataset_uri}/work")
    storage.write_json(f"{first.dataset_uri}/manifest.json", {"dataset_id": first.plan.dataset_id})
    again = make_plan()
    assert again.exists
    assert again.plan == first.plan
    assert not storage.list_objects(f"{first.dataset_uri}/work")


def test_single_label_is_an_error(
    make_plan: MakePlan, tmp_path: Path, write_pictures: WritePictures
) -> None:
    write_pictures(tmp_path / "one", {"roses": 5})
    with pytest.raises(DataError, match="at least two labels; got 'roses'"):
        make_plan(tmp_path / "one")


def test_labels_with_a_single_picture_are_named(
    make_plan: MakePlan, tmp_path: Path, write_pictures: WritePictures
) -> None:
    write_pictures(tmp_path / "few", {"a": 2, "b": 1, "c": 2, "d": 1})
    with pytest.raises(DataError, match="these have fewer: 'b', 'd'"):
        make_plan(tmp_path / "few")


def test_validation_label_without_training_pictures_is_named(
    make_plan: MakePlan, tmp_path: Path, write_pictures: WritePictures
) -> None:
    write_pictures(
        tmp_path / "split", {"train/a": 2, "train/b": 1, "validation/a": 1, "validation/x": 1}
    )
    with pytest.raises(DataError, match="these have none: 'x'"):
        make_plan(tmp_path / "split")


def test_validation_folder_without_pictures_is_an_error(
    make_plan: MakePlan, tmp_path: Path, write_pictures: WritePictures
) -> None:
    write_pictures(tmp_path / "split", {"train/a": 2, "train/b": 1})
    (tmp_path / "split" / "validation").mkdir()
    (tmp_path / "split" / "validation" / "README.md").write_text("later")
    with pytest.raises(DataError, match="must be pictures of a label for validation"):
        make_plan(tmp_path / "split")


def test_all_problems_are_reported_at_once(
    make_plan: MakePlan, pictures: Path, write_pictures: WritePictures
) -> None:
    (pictures / "stray.jpg").write_bytes(b"x")
    write_pictures(pictures, {"single": 1, "deep/er": 3, " blank": 2})
    with pytest.raises(DataError) as caught:
        make_plan()
    problems = str(caught.value).split("\n")
    assert len(problems) == 4
    for part in (
        "stray.jpg",
        "'deep' contains only subfolders",
        "' blank'",
        "have fewer: 'single'",
    ):
        assert any(part in problem for problem in problems)
    with pytest.raises(UsageError) as usage:
        make_plan(labels="a\n\nnope\na\n")
    assert len(usage.value.problems) == 4


def test_problems_are_one_usage_error_if_any_concerns_an_option() -> None:
    raise_problems()
    with pytest.raises(DataError, match=r"one\ntwo"):
        raise_problems(data=["one", "two"])
    with pytest.raises(UsageError) as caught:
        raise_problems(usage=["option"], data=["pictures"])
    assert caught.value.problems == ("option", "pictures")


def test_dataset_inside_the_pictures_folder_is_an_error_before_anything_is_written(
    make_plan: MakePlan, pictures: Path
) -> None:
    with pytest.raises(UsageError, match="must not be inside the pictures folder"):
        make_plan(storage_uri=f"{pictures}/out")
    assert not (pictures / "out").exists()


def test_unreadable_picture_is_rejected(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = checksums._read
    monkeypatch.setattr(
        checksums,
        "_read",
        lambda file: (
            checksums._Read(error="Permission denied") if file.path == "a/003.jpg" else read(file)
        ),
    )
    plan = make_plan().plan
    (rejection,) = plan.rejected
    assert (rejection.path, rejection.label, rejection.reason) == ("a/003.jpg", "a", "unreadable")
    assert rejection.detail == "Permission denied"
    assert sum(plan.num_pictures.values()) == 29


def test_picture_replaced_by_one_of_equal_size_and_time_is_another_dataset(
    make_plan: MakePlan, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "SETTLED_NS", -3600 * 10**9)
    picture = pictures / "a" / "000.jpg"
    before, status = make_plan().plan.dataset_id, picture.stat()
    picture.write_bytes(picture.read_bytes()[:-1] + b"\0")
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert picture.stat().st_size == status.st_size
    assert make_plan().plan.dataset_id != before


def _parameters(pictures: Path, storage_uri: str, builder_pods: int) -> Parameters:
    return Parameters(
        run=RunSettings(
            pictures_uri=str(pictures), storage_uri=storage_uri, builder_pods=builder_pods
        ),
        inputs=InputSettings(),
        dataset=DatasetSettings(train_shards=5),
        training=TrainingSettings(),
        gate=GateSettings(),
        checkpoint_settings=CheckpointSettings(),
        checkpoint=CheckpointSource(name="w.h5", uri="/w.h5"),
        task=TaskSettings(),
        job=JobSettings(),
    )


@pytest.mark.parametrize(("builder_pods", "num_items"), [(1, 1), (4, 4), (6, 6), (64, 6)])
def test_work_has_one_item_per_pod_but_not_more_than_shards(
    pictures: Path, tmp_path: Path, builder_pods: int, num_items: int
) -> None:
    work = plan_work(_parameters(pictures, str(tmp_path / "storage"), builder_pods))
    assert work.items == tuple(
        f"{work.dataset_id}:{index}/{num_items}:0.05,1.0,0,-1:{tmp_path}/storage"
        for index in range(num_items)
    )
    assert (tmp_path / "storage" / "datasets" / work.dataset_id / "plan.json").exists()


def test_archive_is_unpacked_into_the_storage_of_a_run(pictures: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(f"{tmp_path}/archive", "gztar", pictures.parent, "pictures"))
    folder = plan_work(_parameters(pictures, str(tmp_path / "storage"), 1))
    work = plan_work(_parameters(archive, str(tmp_path / "other"), 1))
    assert work.dataset_id == folder.dataset_id
    (unpacked,) = (tmp_path / "other" / "unpacked").iterdir()
    uris = {
        picture.uri
        for shard in ("train-00000-of-00005", "validation-00000-of-00001")
        for picture in read_work_list(f"{tmp_path}/other/datasets/{work.dataset_id}", shard)
    }
    assert uris == {str(unpacked)}


def test_work_of_an_existing_dataset_is_one_item(pictures: Path, tmp_path: Path) -> None:
    parameters = _parameters(pictures, str(tmp_path / "storage"), 4)
    first = plan_work(parameters)
    manifest = tmp_path / "storage" / "datasets" / first.dataset_id / "manifest.json"
    storage.write_json(str(manifest), {"dataset_id": first.dataset_id})
    (item,) = plan_work(parameters).items
    assert item.startswith(f"{first.dataset_id}:0/1:")


def test_items_name_the_run_only_while_the_dataset_does_not_exist(
    pictures: Path, tmp_path: Path
) -> None:
    parameters = _parameters(pictures, str(tmp_path / "storage"), 2)
    first = plan_work(parameters, run_id="run-1")
    # Otherwise KFP would take a dataset that was deleted for built.
    assert [Share.from_item(item).run_id for item in first.items] == ["run-1", "run-1"]
    manifest = tmp_path / "storage" / "datasets" / first.dataset_id / "manifest.json"
    storage.write_json(str(manifest), {"dataset_id": first.dataset_id})
    (item,) = plan_work(parameters, run_id="run-2").items
    assert plan_work(parameters, run_id="run-3").items == (item,)
    assert "run-" not in item
    manifest.unlink()
    assert plan_work(parameters, run_id="run-2").items != first.items


def test_work_has_the_facts_that_kfp_shows(pictures: Path, tmp_path: Path) -> None:
    (pictures / "a" / "Thumbs.db").write_bytes(b"x")
    assert plan_work(_parameters(pictures, str(tmp_path / "storage"), 1)).facts == {
        "num_labels": 3,
        "train_pictures": 24,
        "validation_pictures": 6,
        "test_pictures": 0,
        "rejected": 1,
    }


def _notices(capture: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in capture.records if record.name == "repot.progress"]


def test_plan_tells_what_was_found(
    make_plan: MakePlan, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="repot.progress")
    (pictures / "a" / "Thumbs.db").write_bytes(b"x")
    (pictures / "pears").mkdir()
    (pictures / "C").mkdir()
    (pictures / "C" / "1.jpg").write_bytes(b"x")
    (pictures / "C" / "2.jpg").write_bytes(b"x")
    os.mkfifo(pictures / "b" / "pipe.jpg")
    planned = make_plan()
    notices = _notices(caplog)
    assert notices[0].startswith("plan: 32 pictures of 4 labels, per label 2 to 12, median 9; ")
    assert notices[1:3] == [
        (
            "plan: left out 1: it is a pipe, a socket, a device or a link to a folder that "
            "contains it ('b/pipe.jpg': a named pipe)"
        ),
        ("plan: left out 1: the file belongs to the operating system or to a tool ('a/Thumbs.db')"),
    ]
    assert "contain no pictures and are left out: 'pears'" in notices[3]
    assert "The labels 'C', 'c' differ only by case" in notices[4]
    assert all("plan: warning: " in notice for notice in notices[3:])
    assert planned.plan.empty_label_folders == ("pears",)
    assert planned.plan.num_found == 34
    assert planned.plan.labels == ("C", "a", "b", "c")


def test_empty_label_folder_is_not_part_of_the_dataset_id(
    make_plan: MakePlan, pictures: Path
) -> None:
    dataset_id = make_plan().plan.dataset_id
    (pictures / "pears").mkdir()
    assert make_plan().plan.dataset_id == dataset_id


def test_nested_setting_is_part_of_the_plan(make_plan: MakePlan, pictures: Path) -> None:
    (pictures / "a" / "day" / "camera").mkdir(parents=True)
    for number in range(4):
        path = pictures / "a" / f"00{number}.jpg"
        path.rename(pictures / "a" / "day" / "camera" / path.name)
    assert len(make_plan().plan.rejected) == 4
    planned = make_plan(nested=True)
    assert planned.plan.rejected == ()
    assert planned.plan.settings.nested
    assert sum(planned.plan.num_pictures.values()) == 30
    assert sum("a/day/camera/000.jpg" in paths for paths in _paths(planned).values()) == 1


def test_too_many_nested_pictures_fail_the_plan(pictures: Path, tmp_path: Path) -> None:
    (pictures / "a" / "day").mkdir()
    for number in range(3):
        path = pictures / "a" / f"00{number}.jpg"
        path.rename(pictures / "a" / "day" / path.name)
    with pytest.raises(DataError, match=r"3 of 30 are in subfolders .* Use --nested"):
        plan_work(_parameters(pictures, str(tmp_path / "storage"), builder_pods=1))


def test_csv_as_labels_file_is_the_only_problem(make_plan: MakePlan) -> None:
    lines = "".join(f"{number},label {number}\n" for number in range(25))
    with pytest.raises(UsageError) as caught:
        make_plan(labels=f"id,label\n{lines}")
    assert len(caught.value.problems) == 1
    assert "Its first line is 'id,label'" in str(caught.value)


def test_test_folder_has_shards_of_its_own(
    make_plan: MakePlan, write_pictures: WritePictures, tmp_path: Path
) -> None:
    for split, count in {"train": 6, "validation": 2, "test": 3}.items():
        write_pictures(tmp_path / "split" / split, {"a": count, "b": count})
    planned = make_plan(tmp_path / "split", test_shards=2)

    paths = _paths(planned)

    assert list(paths) == [
        "test-00000-of-00002",
        "test-00001-of-00002",
        "train-00000-of-00001",
        "validation-00000-of-00001",
    ]
    for name, found in paths.items():
        assert {path.partition("/")[0] for path in found} == {shard_split(name)}
    assert sum(planned.plan.num_pictures.values()) == 22
    assert planned.plan.settings.test_shards == 2


def test_dataset_without_test_keeps_the_id_from_before_there_was_one(
    make_plan: MakePlan, write_pictures: WritePictures, tmp_path: Path
) -> None:
    for split, count in {"train": 6, "validation": 2}.items():
        write_pictures(tmp_path / "split" / split, {"a": count, "b": count})

    planned = make_plan(tmp_path / "split", test_shards=3)

    assert planned.plan.settings.test_shards == 0
    assert planned.plan.dataset_id == "1b6ececda9375a1a"


def _splits(planned: PlannedDataset) -> dict[str, str]:
    """Return the split of each picture, by path."""
    return {path: shard_split(name) for name, paths in _paths(planned).items() for path in paths}


def test_copies_and_groups_stay_together_in_the_shards(make_plan: MakePlan, pictures: Path) -> None:
    for number in range(6):
        shutil.copy(pictures / "a" / f"{number:03}.jpg", pictures / "a" / f"copy {number}.jpg")
        (pictures / "b" / f"{number:03}.jpg").rename(pictures / "b" / f"p{number % 3} {number}.jpg")

    splits = _splits(make_plan(test_fraction=0.2, group_pattern=r"b/(p\d)"))

    assert set(splits.values()) == {"train", "validation", "test"}
    for number in range(6):
        assert splits[f"a/{number:03}.jpg"] == splits[f"a/copy {number}.jpg"]
    for patient in range(3):
        paths = (f"b/p{patient} {number}.jpg" for number in (patient, patient + 3))
        assert len({splits[path] for path in paths}) == 1


def test_test_fraction_takes_from_a_training_folder_and_keeps_validation(
    make_plan: MakePlan, write_pictures: WritePictures, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "split" / "train", {"a": 10, "b": 20})
    write_pictures(tmp_path / "split", {"validation/a": 12})

    planned = make_plan(tmp_path / "split", test_fraction=0.2)

    assert list(planned.plan.num_pictures.values()) == [24, 12, 6]
    splits = _splits(planned)
    assert all(s == "validation" for path, s in splits.items() if path.startswith("validation/"))


def test_train_and_test_folders_give_validation_from_train(
    make_plan: MakePlan, write_pictures: WritePictures, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "split", {"train/a": 10, "train/b": 10, "test/a": 3, "test/b": 3})

    planned = make_plan(tmp_path / "split")

    assert planned.plan.num_pictures == {
        "train-00000-of-00001": 16,
        "validation-00000-of-00001": 4,
        "test-00000-of-00001": 6,
    }


def test_pictures_of_one_group_per_label_cannot_be_validated(
    make_plan: MakePlan, pictures: Path
) -> None:
    del pictures
    with pytest.raises(DataError, match="Validation must have a picture; it has none"):
        make_plan(group_pattern="^[^/]+")


def test_group_pattern_without_a_match_is_a_warning(
    make_plan: MakePlan, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="repot.progress")
    make_plan(group_pattern="patient")
    assert any("The group pattern 'patient' matches no picture" in n for n in _notices(caplog))


def test_gate_cannot_decide_on_a_test_split_that_is_missing(pictures: Path, tmp_path: Path) -> None:
    parameters = _parameters(pictures, str(tmp_path / "storage"), 1)
    on_test = dataclasses.replace(parameters, gate=GateSettings(gate_split="test"))
    with pytest.raises(UsageError, match="must be validation if there is no test split"):
        plan_work(on_test)

    with_test = dataclasses.replace(on_test, dataset=DatasetSettings(test_fraction=0.2))
    assert plan_work(with_test).facts["test_pictures"] == 6
