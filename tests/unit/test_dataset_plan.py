import dataclasses
from pathlib import Path

import pytest

from repot import storage
from repot.dataset_plan import (
    DatasetPlan,
    SourcePicture,
    read_plan,
    read_work,
    write_unless_existing,
)
from repot.errors import DataError, UsageError


def _plan(uri: str, dataset_id: str = "1" * 16) -> DatasetPlan:
    return DatasetPlan(
        dataset_uri=uri,
        dataset_id=dataset_id,
        pictures_uri="/pictures",
        labels=("a", "b"),
        settings={"num_threads": 1},
        num_pictures={"train-00000-of-00001": 1, "validation-00000-of-00001": 0},
        num_found=1,
        rejected=(),
    )


def _shards(plan: DatasetPlan) -> dict[str, list[SourcePicture]]:
    picture = SourcePicture(
        uri="/a/\udce9.jpg",
        path="a/\udce9.jpg",
        label="a",
        class_id=1,
        size_bytes=1,
        crc32c="0" * 8,
        version="1-1",
    )
    return {name: [picture] * count for name, count in plan.num_pictures.items()}


def test_plan_and_work_lists_come_back(tmp_path: Path) -> None:
    plan = _plan(str(tmp_path))
    shards = _shards(plan)
    assert write_unless_existing(plan, shards) == plan
    assert read_plan(str(tmp_path)) == plan
    assert {name: read_work(str(tmp_path), name) for name in plan.shard_names} == shards


def test_plan_on_object_storage_comes_back(gcs: str) -> None:
    plan = _plan(f"{gcs}/d")
    write_unless_existing(plan, _shards(plan))
    assert read_plan(f"{gcs}/d") == plan


def test_missing_plan_and_work_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="planned before it is built"):
        read_plan(str(tmp_path))
    with pytest.raises(DataError, match="no work list for train-00007-of-00008"):
        read_work(str(tmp_path), "train-00007-of-00008")


def test_existing_data_set_is_left_alone(tmp_path: Path) -> None:
    plan = _plan(str(tmp_path))
    storage.write_json(f"{tmp_path}/manifest.json", {"dataset_id": plan.dataset_id})
    assert write_unless_existing(plan, _shards(plan)) == dataclasses.replace(plan, exists=True)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_other_data_set_is_never_overwritten(tmp_path: Path) -> None:
    storage.write_json(f"{tmp_path}/manifest.json", {"dataset_id": "2" * 16})
    plan = _plan(str(tmp_path))
    with pytest.raises(UsageError, match="holds 2222222222222222"):
        write_unless_existing(plan, _shards(plan))


@pytest.mark.parametrize("facts", [{"name": "a web app"}, ["a list"]])
def test_manifest_of_another_program_is_never_overwritten(tmp_path: Path, facts: object) -> None:
    storage.write_json(f"{tmp_path}/manifest.json", facts)
    plan = _plan(str(tmp_path))
    with pytest.raises(UsageError, match="holds something else"):
        write_unless_existing(plan, _shards(plan))


def test_unfinished_other_data_set_makes_room_and_nothing_else_does(tmp_path: Path) -> None:
    uri = str(tmp_path)
    old = dataclasses.replace(_plan(uri, "2" * 16), num_pictures={"train-00000-of-00009": 1})
    write_unless_existing(old, _shards(old))
    for name in ("train-00000-of-00009", "receipts/train-00000-of-00009.json", "my notes.txt"):
        storage.write_text(f"{uri}/{name}", "old")
    new = _plan(uri)
    write_unless_existing(new, _shards(new))
    names = {storage.relative_name(info.uri, uri) for info in storage.list_objects(uri)}
    assert names == {
        "my notes.txt",
        "plan.json",
        *(f"work/{name}.json" for name in new.shard_names),
    }


def test_finished_shards_of_the_same_plan_stay(tmp_path: Path) -> None:
    plan = _plan(str(tmp_path))
    for _ in range(2):
        write_unless_existing(plan, _shards(plan))
        storage.write_text(f"{tmp_path}/receipts/train-00000-of-00001.json", "receipt")
    assert storage.exists(f"{tmp_path}/receipts/train-00000-of-00001.json")
