from pathlib import Path
from typing import Any

import pytest

from repot import storage
from repot.json_record import write_record
from repot.settings import TrainingSettings
from repot.training_record import EpochRecord, TrainingRecord
from repot_pipelines.ci.lineage import Lineage, differing_settings, lineage_section, read_lineage

VERSIONS = {"repot": "0.1.0"}
SETTINGS = TrainingSettings(epochs=1)


def training(**changes: Any) -> TrainingRecord:
    last_epoch = EpochRecord(
        phase="head",
        epoch=1,
        learning_rate=0.0,
        train_loss=0.5,
        train_precision_at_1=0.9,
        validation_loss=None,
        validation_precision_at_1=None,
        seconds=1.0,
    )
    values: dict[str, Any] = {
        "training_id": "t1",
        "dataset_id": "d1",
        "checkpoint_id": "c1",
        "settings": SETTINGS,
        "image_size": 299,
        "labels": ("a", "b"),
        "num_examples": {"train": 8, "validation": 2},
        "num_parameters": 5,
        "epochs": 1,
        "seconds": 2.0,
        "train_examples_per_second": 4.0,
        "last_epoch": last_epoch,
        "versions": VERSIONS,
    }
    return TrainingRecord(**{**values, **changes})


def write_training(storage_uri: Path, version: str) -> None:
    write_record(str(storage_uri / "runs" / version / "training.json"), training())


def test_equal_lineage_is_reported_without_settings() -> None:
    section = lineage_section(Lineage(challenger=training(), champion=training()))

    assert section.startswith("Data and settings are the same as the champion's.")
    assert "epochs" not in section


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dataset_id": "d2"}, "What changed: the data."),
        ({"settings": TrainingSettings(epochs=2)}, "What changed: the settings."),
        ({"checkpoint_id": "c2"}, "What changed: the settings."),
        ({"dataset_id": "d2", "versions": {}}, "What changed: the data and the settings."),
    ],
)
def test_section_names_what_changed(changes: dict[str, Any], sentence: str) -> None:
    lineage = Lineage(challenger=training(**changes), champion=training())

    assert sentence in lineage_section(lineage)


def test_setting_that_only_one_version_has_differs() -> None:
    challenger = training(versions={**VERSIONS, "new": "1"})
    champion = training(versions={**VERSIONS, "old": ""})

    assert list(differing_settings(challenger, champion)) == [("new", None, "1"), ("old", "", None)]


@pytest.mark.parametrize(("num_labels", "end"), [(10, "`l9`"), (11, "`l9` and 1 more")])
def test_long_list_of_new_labels_is_truncated(num_labels: int, end: str) -> None:
    labels = ("a", "b", *(f"l{index}" for index in range(num_labels)))

    section = lineage_section(Lineage(challenger=training(labels=labels), champion=training()))

    assert section.endswith(end)


@pytest.mark.parametrize(
    "value", [{}, [], {"dataset_id": "d", "num_examples": 3, "labels": [], "settings": {}}]
)
def test_invalid_training_record_is_a_problem_and_no_error(tmp_path: Path, value: object) -> None:
    storage.write_json(str(tmp_path / "runs" / "v" / "training.json"), value)

    lineage = read_lineage(str(tmp_path), version="v", champion_version="")

    assert lineage.challenger is None
    assert "training.json" in lineage.problem
    assert lineage_section(lineage).startswith("What changed is unknown because the storage")


def test_missing_champion_record_leaves_the_challenger(tmp_path: Path) -> None:
    write_training(tmp_path, "v")

    lineage = read_lineage(str(tmp_path), version="v", champion_version="gone")

    assert lineage.challenger == training()
    assert lineage.champion is None
    assert "| checkpoint | `c1` |" in lineage_section(lineage)


def test_both_records_are_read(tmp_path: Path) -> None:
    write_training(tmp_path, "v")
    write_training(tmp_path, "w")

    lineage = read_lineage(str(tmp_path), version="v", champion_version="w")

    assert lineage == Lineage(challenger=training(), champion=training())


def test_test_pictures_are_counted_beside_the_others() -> None:
    with_test = training(num_examples={"train": 8, "validation": 2, "test": 1200})

    section = lineage_section(Lineage(challenger=with_test, champion=training()))

    assert "| 8 + 2 | 8 + 2 + 1,200 for test |" in section
