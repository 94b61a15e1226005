import json
from pathlib import Path

import pytest

from repot import layout, storage
from repot.dataset_plan import DatasetPlan, share_of
from repot.errors import DataError, UsageError
from repot.shard_builder.build import build_item, build_shards
from tests.unit.conftest import Plan


def _shards(plan: DatasetPlan) -> dict[str, bytes]:
    return {name: storage.read_bytes(f"{plan.dataset_uri}/{name}") for name in plan.shard_names}


def _receipts(plan: DatasetPlan) -> dict[str, bytes]:
    return {
        name: storage.read_bytes(f"{plan.dataset_uri}/receipts/{name}.json")
        for name in plan.shard_names
    }


def test_processes_and_shares_change_no_byte(plan: Plan, tmp_path: Path) -> None:
    settings = {"train_shards": 6, "validation_shards": 2, "num_threads": 2}
    results = []
    for number, num_processes in enumerate((1, 3)):
        made = plan(storage_uri=f"{tmp_path}/{number}", **settings)
        build_shards(made.dataset_uri, num_processes=num_processes)
        results.append((_shards(made), _receipts(made)))
    made = plan(storage_uri=f"{tmp_path}/shares", **settings)
    for index in (2, 0, 1):
        build_shards(made.dataset_uri, share_of(made.shard_names, index, 3))
    results.append((_shards(made), _receipts(made)))
    assert results[0] == results[1] == results[2]


def test_finished_shards_are_left_alone(plan: Plan) -> None:
    made = plan(train_shards=4)
    build_shards(made.dataset_uri, made.shard_names[:2])
    versions = {info.uri: info.version for info in storage.list_objects(made.dataset_uri)}
    build_shards(made.dataset_uri)
    after = {info.uri: info.version for info in storage.list_objects(made.dataset_uri)}
    assert versions.items() < after.items()
    assert len(_shards(made)) == 5


def test_progress_counts_pictures_done_before(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(train_shards=4)
    build_shards(made.dataset_uri, made.shard_names[:2])
    monkeypatch.setenv("REPOT_EVENTS", str(tmp_path / "events"))
    build_shards(made.dataset_uri)
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    done = [event["done"] for event in events]
    assert {event["task"] for event in events} == {"build shards"}
    assert {event["total"] for event in events} == {30}
    assert done[0] == sum(made.num_pictures[name] for name in made.shard_names[:2]) > 0
    assert done == sorted(done)
    assert done[-1] == 30


def test_item_builds_its_share_from_bucket_to_bucket(plan: Plan, pictures: Path, gcs: str) -> None:
    from repot.planner.listing import PictureRoots

    local = plan(train_shards=3)
    build_shards(local.dataset_uri)
    storage.upload_folder(pictures, f"{gcs}/pictures")
    remote = plan(
        roots=PictureRoots(pictures_uri=f"{gcs}/pictures"), storage_uri=f"{gcs}/out", train_shards=3
    )
    for index in range(2):
        build_item(f"{remote.dataset_id}:{index}/2", f"{gcs}/out")
    assert _shards(remote) == _shards(local)


def test_item_of_an_existing_data_set_is_nothing_to_do(tmp_path: Path) -> None:
    dataset_id = "0" * 16
    uri = layout.dataset_uri(str(tmp_path), dataset_id)
    storage.write_json(f"{uri}/manifest.json", {})
    build_item(f"{dataset_id}:0/1", str(tmp_path))
    assert [path.name for path in Path(uri).iterdir()] == ["manifest.json"]


def test_item_without_a_plan_or_without_sense_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="planned before"):
        build_item(f"{'0' * 16}:0/1", str(tmp_path))
    with pytest.raises(UsageError, match="work item"):
        build_item("nonsense", str(tmp_path))
