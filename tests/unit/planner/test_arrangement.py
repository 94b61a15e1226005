"""Ids and work lists of datasets that were planned before: they must stay what they are."""

from pathlib import Path
from typing import Any

import pytest

from repot.planner.listing import PictureRoots
from repot.planner.plan import PlannedDataset, plan_dataset
from repot.settings import DatasetSettings
from repot.work_list import content_hash, read_work_list

NAMES = ("\u00e9", "e\u0301", "x y", "z")


@pytest.fixture(scope="module")
def input_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three labels with copies, and a manifest with all columns beside it."""
    folder = tmp_path_factory.mktemp("input")
    for label in ("a", "b", "é"):
        (folder / "pictures" / label).mkdir(parents=True)
        for number in range(30):
            path = folder / "pictures" / label / f"{NAMES[number % 4]}{number}.jpg"
            path.write_bytes(f"{number % 25}{label if number % 7 else ''}".encode())
    (folder / "pictures" / "stray.jpg.txt").write_text("x")
    rows = ["path,label,split,group,camera,xmin,ymin,xmax,ymax"]
    for number in range(30):
        split = ("train", "validation", "test", "")[number % 4]
        group = f"g{number}" if number % 3 else ""
        rows += [
            f"pictures/{label}/{NAMES[number % 4]}{number}.jpg,{label},{split},{group},"
            f"{number % 2},0.1,0.2,0.{3 + number % 5},0.9"
            for label in ("a", "b")
        ]
    (folder / "m.csv").write_text("\n".join(rows))
    return folder


def _plan(source: Path, out: Path, **settings: Any) -> PlannedDataset:
    return plan_dataset(
        PictureRoots(pictures_uri=str(source)),
        dataset_folder=lambda dataset_id: f"{out}/{dataset_id}",
        listings_uri=None,
        settings=DatasetSettings(**settings),
    )


@pytest.mark.parametrize(
    ("source", "settings", "dataset_id"),
    [
        ("pictures", {}, "aeaa71adcdb231e9"),
        ("pictures", {"shard_layout": "stable", "test_fraction": 0.1}, "1fff235233e063e2"),
        (
            "pictures",
            {"group_pattern": r"\d$", "train_shards": 4, "validation_shards": 2, "num_threads": 2},
            "df2e6c0b736345ca",
        ),
        ("m.csv", {}, "6a1611bf5a63c7fd"),
        ("m.csv", {"crop_to_boxes": True}, "5eb0753be663fa3a"),
    ],
)
def test_ids_of_known_pictures_never_change(
    input_folder: Path,
    tmp_path: Path,
    source: str,
    settings: dict[str, Any],
    dataset_id: str,
) -> None:
    assert _plan(input_folder / source, tmp_path, **settings).plan.dataset_id == dataset_id


def test_pictures_are_ordered_by_place_in_the_stable_layout(
    input_folder: Path, tmp_path: Path
) -> None:
    planned = _plan(input_folder / "pictures", tmp_path, shard_layout="stable", train_shards=2)
    first, second = (
        read_work_list(planned.dataset_uri, f"train-0000{index}-of-00002") for index in range(2)
    )
    places = [content_hash(picture.content) for picture in (*first, *second)]
    assert places == sorted(places)
    assert places[len(first) - 1] < 2**63 <= places[len(first)]
