"""What Plan passes on to later tasks."""

import json
from pathlib import Path
from typing import Any

import pytest

from repot.planner.component import plan
from repot.planner.finished import FinishedWork
from repot.planner.outputs import plan_outputs
from repot.planner.plan import PlannedWork
from repot.planner.preflight import check_parameters
from repot.settings import DEFAULTS, GateSettings, JobSettings

SPOT = [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]
TAINTED = [{"operator": "Exists"}]
CHANGES: dict[str, Any] = {
    "cpu_image": "cpu-image",
    "trainer_image": "gpu-image",
    "accelerator_count": 2,
    "accelerator_type": "amd.com/gpu",
    "trainer_node_selector": {"spot": "true"},
    "trainer_tolerations": SPOT,
    "task_node_selector": {"pool": "cpu"},
    "task_tolerations": TAINTED,
}
WORK = PlannedWork(dataset_id="0" * 16, is_built=False, items=("item", "item 2"), facts={})
NOTHING = FinishedWork(checkpoint_id="", training_id="")


def outputs(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: FinishedWork = NOTHING,
    **changes: Any,
) -> dict[str, str]:
    # A Job's storage cannot be a folder; nothing is written here.
    monkeypatch.setattr("repot.storage.is_local", lambda _: False)
    (folder / "1.jpg").touch()
    values = {**DEFAULTS, "pictures_uri": str(folder), "storage_uri": str(folder / "storage")}
    parameters = check_parameters({**values, "backbone": "efficientnet_lite0", **changes})
    return plan_outputs(parameters, WORK, finished, checkpoint_version="v")


def trainer_pod(texts: dict[str, str]) -> dict[str, str]:
    prefix = "trainer_pod_"
    return {name.removeprefix(prefix): texts[name] for name in texts if name.startswith(prefix)}


def test_pod_that_trains_gets_what_training_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = outputs(tmp_path, monkeypatch, **CHANGES)

    assert trainer_pod(texts) == {
        "image": "gpu-image",
        "cpu": "4",
        "memory": "16Gi",
        "accelerator_type": "amd.com/gpu",
        "accelerator_count": "2",
        "node_selector": '{"spot": "true"}',
        "tolerations": json.dumps(SPOT),
    }
    assert texts["trainer_job"] == "null"


def test_pod_that_follows_a_job_is_like_every_other_small_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = outputs(tmp_path, monkeypatch, trainer_mode="job", **CHANGES)

    assert trainer_pod(texts) == {
        "image": "cpu-image",
        "cpu": texts["task_cpu"],
        "memory": texts["task_memory"],
        "accelerator_type": "amd.com/gpu",
        "accelerator_count": "0",
        "node_selector": texts["task_node_selector"],
        "tolerations": texts["task_tolerations"],
    }
    assert (texts["task_node_selector"], texts["task_tolerations"]) == (
        '{"pool": "cpu"}',
        '[{"operator": "Exists"}]',
    )
    assert JobSettings.from_text(texts["trainer_job"]).accelerator_count == 2


def test_every_output_of_the_component_is_there_and_none_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = outputs(tmp_path, monkeypatch)

    declared = set(plan.component_spec.outputs or {}) - {"Output", "dataset", "used_settings"}
    assert set(texts) == declared
    assert all(texts.values())  # KFP rejects empty quantities and selectors
    assert GateSettings.from_text(texts["gate_settings"]) == GateSettings()


def test_run_without_finished_work_does_all_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = outputs(tmp_path, monkeypatch, fetcher_memory="3Gi")

    assert (texts["steps"], texts["finished_training_id"]) == ("all", "none")
    assert texts["first_item"] == "item"
    assert texts["fetcher_memory"] == "3Gi"


def test_finished_training_needs_only_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = FinishedWork(checkpoint_id="c", training_id="t")

    texts = outputs(tmp_path, monkeypatch, finished)

    assert (texts["steps"], texts["finished_training_id"]) == ("gate", "t")


def test_stored_checkpoint_is_found_by_a_small_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = FinishedWork(checkpoint_id="c", training_id="")

    texts = outputs(tmp_path, monkeypatch, finished)

    assert texts["steps"] == "all"
    assert (texts["fetcher_cpu"], texts["fetcher_memory"]) == (
        texts["task_cpu"],
        texts["task_memory"],
    )
