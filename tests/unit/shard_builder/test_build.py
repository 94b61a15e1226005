import json
import os
from pathlib import Path

import pytest

from repot import storage
from repot.data_checks import DataLimits
from repot.dataset_plan import Share
from repot.planner import checksums
from repot.planner.plan import PlannedDataset
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from tests.unit.conftest import MakePlan

NO_REJECTED = DataLimits(max_rejected_fraction=0)


def _shards(planned: PlannedDataset) -> dict[str, bytes]:
    return {
        name: storage.read_bytes(f"{planned.dataset_uri}/{name}")
        for name in planned.plan.shard_names
    }


def _receipts(planned: PlannedDataset) -> dict[str, bytes]:
    return {
        name: storage.read_bytes(f"{planned.dataset_uri}/receipts/{name}.json")
        for name in planned.plan.shard_names
    }


def test_shards_do_not_depend_on_processes_and_shares(make_plan: MakePlan, tmp_path: Path) -> None:
    settings = {"train_shards": 6, "validation_shards": 2, "num_threads": 2}
    results = []
    for number, num_processes in enumerate((1, 3)):
        planned = make_plan(storage_uri=f"{tmp_path}/{number}", **settings)
        build_shards(planned.dataset_uri, num_processes=num_processes)
        results.append((_shards(planned), _receipts(planned)))
    planned = make_plan(storage_uri=f"{tmp_path}/shares", **settings)
    for index in (2, 0, 1):
        share = Share(
            dataset_id=planned.plan.dataset_id,
            share_index=index,
            num_shares=3,
            limits=NO_REJECTED,
            storage_uri="s",
        )
        build_shards(planned.dataset_uri, share.select(planned.plan.shard_names))
    results.append((_shards(planned), _receipts(planned)))
    assert results[0] == results[1] == results[2]


def test_finished_shards_are_not_built_again(make_plan: MakePlan) -> None:
    planned = make_plan(train_shards=4)
    build_shards(planned.dataset_uri, planned.plan.shard_names[:2])
    versions = {info.uri: info.version for info in storage.list_objects(planned.dataset_uri)}
    build_shards(planned.dataset_uri)
    after = {info.uri: info.version for info in storage.list_objects(planned.dataset_uri)}
    assert versions.items() < after.items()
    assert len(_shards(planned)) == 5


def test_progress_includes_pictures_of_finished_shards(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = make_plan(train_shards=4)
    finished = planned.plan.shard_names[:2]
    build_shards(planned.dataset_uri, finished)
    monkeypatch.setenv("REPOT_EVENTS", str(tmp_path / "events"))
    build_shards(planned.dataset_uri)
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    done = [event["done"] for event in events]
    assert {event["task"] for event in events} == {"build shards"}
    assert {event["total"] for event in events} == {30}
    assert done[0] == sum(planned.plan.num_pictures[name] for name in finished) > 0
    assert done == sorted(done)
    assert done[-1] == 30


def test_twins_in_two_unicode_forms_are_built_in_every_run(
    make_plan: MakePlan, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "SETTLED_NS", -3600 * 10**9)
    for number, name in enumerate(("caf\u00e9.jpg", "cafe\u0301.jpg")):
        path = pictures / "a" / name
        path.write_bytes((pictures / "a" / f"00{number}.jpg").read_bytes().ljust(2000, b"\0"))
        os.utime(path, (1_000, 1_000))
    if len(list((pictures / "a").iterdir())) < 14:
        pytest.skip("this disk normalises names")
    # Other shard counts make another dataset from the cached checksums.
    for train_shards in (1, 2):
        planned = make_plan(train_shards=train_shards)
        build_shards(planned.dataset_uri, num_processes=1)
        assert complete_dataset(planned.dataset_uri, limits=NO_REJECTED).num_accepted == 32
