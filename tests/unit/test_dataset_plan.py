import contextlib
import dataclasses
import threading
from pathlib import Path

import pytest

from repot import dataset_plan, storage
from repot.data_checks import DataLimits
from repot.dataset_plan import DatasetPlan, Share, is_built, read_plan, write_plan
from repot.errors import DataError, UsageError
from repot.layout import DATASET_PARTS
from repot.manifest import Rejection
from repot.settings import DatasetSettings
from repot.work_list import SourcePicture, read_work_list

DATASET_ID = "0123456789abcdef"
OTHER_ID = "2" * 16
PLAN = DatasetPlan(
    dataset_id=DATASET_ID,
    pictures_uri="/pictures",
    labels=("a", "b"),
    settings=DatasetSettings(train_shards=1, validation_shards=1),
    num_pictures={"train-00000-of-00001": 1, "validation-00000-of-00001": 0},
    num_found=2,
    rejected=(Rejection(path="b/\udce9.db", label="b", split="", reason="system_file"),),
)


def _shards(plan: DatasetPlan) -> dict[str, list[SourcePicture]]:
    picture = SourcePicture(
        uri="/a/\udce9.jpg",
        path="a/\udce9.jpg",
        label="a",
        class_id=1,
        size_bytes=1,
        checksum="0" * 8,
        version="1-1",
    )
    return {name: [picture] * count for name, count in plan.num_pictures.items()}


def test_plan_and_work_lists_can_be_read_back(tmp_path: Path) -> None:
    shards = _shards(PLAN)
    write_plan(str(tmp_path), PLAN, shards.__getitem__)
    assert read_plan(str(tmp_path)) == PLAN
    assert {name: read_work_list(str(tmp_path), name) for name in PLAN.shard_names} == shards


@pytest.mark.parametrize(("max_pictures", "can_meet"), [(8, False), (9, True)])
def test_large_work_lists_are_not_in_memory_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_pictures: int, can_meet: bool
) -> None:
    names = {f"train-0000{index}-of-00003": 3 for index in range(3)}
    plan = dataclasses.replace(PLAN, num_pictures=names)
    pictures = _shards(plan)
    monkeypatch.setattr(dataset_plan, "_MAX_PICTURES", max_pictures)
    # Three writers meet here, if there are three.
    meeting = threading.Barrier(3)
    met = []

    def pictures_of(shard: str) -> list[SourcePicture]:
        with contextlib.suppress(threading.BrokenBarrierError):
            met.append(meeting.wait(30 if can_meet else 0.2))
        return pictures[shard]

    write_plan(str(tmp_path), plan, pictures_of)

    assert len(met) == (3 if can_meet else 0)
    assert {name: read_work_list(str(tmp_path), name) for name in names} == pictures


def test_plan_in_a_bucket_can_be_read_back(gcs: str) -> None:
    write_plan(f"{gcs}/d", PLAN, _shards(PLAN).__getitem__)
    assert read_plan(f"{gcs}/d") == PLAN


def test_missing_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"planned before it is built; {tmp_path} has no plan"):
        read_plan(str(tmp_path))


@pytest.mark.parametrize(
    "change", [{"num_found": "2"}, {"colour": "blue"}, {"settings": {"num_threads": 0}}]
)
def test_invalid_plan_is_an_error(tmp_path: Path, change: dict[str, object]) -> None:
    storage.write_json(f"{tmp_path}/plan.json", {**PLAN.to_json(), **change})
    with pytest.raises(DataError, match=rf"plan\.json must be .*{next(iter(change))[:3]}"):
        read_plan(str(tmp_path))


def test_dataset_is_built_if_it_has_its_manifest(tmp_path: Path) -> None:
    assert not is_built(str(tmp_path), DATASET_ID)
    storage.write_json(f"{tmp_path}/manifest.json", {"dataset_id": DATASET_ID})
    assert is_built(str(tmp_path), DATASET_ID)


def test_folder_of_another_dataset_is_an_error(tmp_path: Path) -> None:
    storage.write_json(f"{tmp_path}/manifest.json", {"dataset_id": OTHER_ID})
    with pytest.raises(UsageError, match=f"contains dataset {OTHER_ID}"):
        is_built(str(tmp_path), DATASET_ID)


@pytest.mark.parametrize("content", [{"name": "a web app"}, ["a list"], None])
def test_folder_with_a_manifest_of_another_program_is_an_error(
    tmp_path: Path, content: object
) -> None:
    storage.write_json(f"{tmp_path}/manifest.json", content)
    with pytest.raises(UsageError, match="that is not from a dataset"):
        is_built(str(tmp_path), DATASET_ID)


def test_unfinished_other_dataset_is_deleted_and_other_files_are_kept(tmp_path: Path) -> None:
    uri = str(tmp_path)
    old = dataclasses.replace(PLAN, dataset_id=OTHER_ID, num_pictures={"train-00000-of-00009": 1})
    write_plan(uri, old, _shards(old).__getitem__)
    parts = [f"{part}x" if part.endswith("/") else part for part in DATASET_PARTS]
    for name in ("train-00000-of-00009", "checksums.json", "my notes.txt", *parts):
        if name != "plan.json":
            storage.write_text(f"{uri}/{name}", "old")
    write_plan(uri, PLAN, _shards(PLAN).__getitem__)
    names = {storage.relative_name(info.uri, uri) for info in storage.list_objects(uri)}
    assert names == {
        "my notes.txt",
        "labels.txt",
        "plan.json",
        *(f"work/{name}.json.gz" for name in PLAN.shard_names),
    }


def test_finished_shards_of_the_same_plan_are_kept(tmp_path: Path) -> None:
    for _ in range(2):
        write_plan(str(tmp_path), PLAN, _shards(PLAN).__getitem__)
        storage.write_text(f"{tmp_path}/receipts/train-00000-of-00001.json", "receipt")
    assert storage.exists(f"{tmp_path}/receipts/train-00000-of-00001.json")


def make_share(index: int, num_shares: int, limits: DataLimits | None = None) -> Share:
    return Share(
        dataset_id=DATASET_ID,
        share_index=index,
        num_shares=num_shares,
        limits=limits or DataLimits(max_rejected_fraction=0.05),
        storage_uri="gs://b/a:b",
    )


@pytest.mark.parametrize("fraction", [0, 0.0, 1.0, 0.123456789, 1e-9])
def test_item_has_the_exact_limits(fraction: float) -> None:
    limits = DataLimits(
        max_rejected_fraction=fraction,
        max_leaked_fraction=1 - fraction,
        min_pictures_per_label=7,
        max_conflicts=-1,
    )
    share = make_share(0, 1, limits)
    assert Share.from_item(share.to_item()) == share


def test_share_can_be_read_back_from_its_item() -> None:
    share = make_share(3, 64)
    assert share.to_item() == f"{DATASET_ID}:3/64:0.05,1.0,0,-1:gs://b/a:b"
    assert Share.from_item(share.to_item()) == share
    share = dataclasses.replace(share, run_id="local-0a.b_c")
    assert share.to_item() == f"{DATASET_ID}:3/64@local-0a.b_c:0.05,1.0,0,-1:gs://b/a:b"
    assert Share.from_item(share.to_item()) == share


@pytest.mark.parametrize(
    "item",
    [
        "",
        DATASET_ID,
        f"{DATASET_ID}:0/2",
        f"{DATASET_ID}:1/1:0.5,1.0,0,-1:/s",
        f"{DATASET_ID}:0/0:0.5,1.0,0,-1:/s",
        f"{DATASET_ID}:-1/2:0.5,1.0,0,-1:/s",
        f"{DATASET_ID}:0/2:0.5,1.0,0,-1:",
        f"{DATASET_ID}:0/2::/s",
        "abc:0/2:0.5,1.0,0,-1:/s",
        f"{DATASET_ID}:0/2:0.5:/s",
        f"{DATASET_ID}:0/2:0.5,1.0,0,x:/s",
        f"{DATASET_ID}:0/2@:0.5,1.0,0,-1:/s",
        f"{DATASET_ID}:0/2@a/b:0.5,1.0,0,-1:/s",
    ],
)
def test_invalid_item_is_an_error(item: str) -> None:
    with pytest.raises(UsageError, match="work item"):
        Share.from_item(item)


@pytest.mark.parametrize("num_shares", [1, 2, 3, 7, 9])
def test_shares_are_even_and_complete(num_shares: int) -> None:
    names = [f"train-{index:05}-of-00007" for index in range(7)]
    shares = [make_share(index, num_shares).select(names) for index in range(num_shares)]
    assert sorted(name for share in shares for name in share) == names
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
