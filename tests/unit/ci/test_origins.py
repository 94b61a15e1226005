from pathlib import Path
from typing import Any

import pytest

from repot import storage
from repot_pipelines.ci.comment import origin_section
from repot_pipelines.ci.origins import Origin, Origins, differing_settings, read_origins

ORIGIN: dict[str, Any] = {
    "dataset_id": "d1",
    "num_examples": {"train": 8, "validation": 2},
    "labels": ("a", "b"),
    "settings": {"epochs": 1, "recipe": "head"},
}


def origin(**changes: Any) -> Origin:
    return Origin(**{**ORIGIN, **changes})


def test_same_origin_says_so() -> None:
    section = origin_section(Origins(challenger=origin(), champion=origin()))

    assert section.startswith("Data and settings are those of the champion.")
    assert "epochs" not in section


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset_id": "d2"}, "What changed: the data."),
        ({"settings": {"epochs": 2, "recipe": "head"}}, "What changed: the settings."),
        ({"dataset_id": "d2", "settings": {}}, "What changed: the data and the settings."),
    ],
)
def test_what_changed_is_named(changes: dict[str, Any], words: str) -> None:
    assert words in origin_section(Origins(challenger=origin(**changes), champion=origin()))


def test_settings_that_only_one_has_differ() -> None:
    new, old = origin(settings={"epochs": 1, "new": 0}), origin(settings={"epochs": 1, "old": ""})

    assert list(differing_settings(new, old)) == [("new", None, 0), ("old", "", None)]


@pytest.mark.parametrize(("count", "words"), [(10, "`l9`"), (11, "`l9` and 1 more")])
def test_many_new_labels_are_counted(count: int, words: str) -> None:
    labels = ("a", "b", *(f"l{index}" for index in range(count)))

    section = origin_section(Origins(challenger=origin(labels=labels), champion=origin()))

    assert section.endswith(words)


@pytest.mark.parametrize(
    "facts", [{}, [], {"dataset_id": "d", "num_examples": 3, "labels": [], "settings": {}}]
)
def test_training_facts_of_another_shape_are_a_problem_and_no_crash(
    tmp_path: Path, facts: object
) -> None:
    storage.write_json(str(tmp_path / "runs" / "v" / "training.json"), facts)

    origins = read_origins(str(tmp_path), version="v", champion_version="")

    assert origins.challenger is None
    assert "training.json" in origins.problem


def test_champion_whose_run_is_gone_leaves_the_challenger(tmp_path: Path) -> None:
    facts = {**ORIGIN, "checkpoint_id": "c", "labels": ["a"]}
    storage.write_json(str(tmp_path / "runs" / "v" / "training.json"), facts)

    origins = read_origins(str(tmp_path), version="v", champion_version="gone")

    assert origins.challenger is not None
    assert origins.champion is None
    assert "| checkpoint | `c` |" in origin_section(origins)
