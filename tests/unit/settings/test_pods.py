import json
from typing import Any

import pytest

from repot.errors import UsageError
from repot.settings import JobSettings, Settings, TaskSettings, mode_problems

SPOT = [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]


def test_json_round_trip() -> None:
    settings = JobSettings(
        trainer_image="i",
        trainer_node_selector={"a": "b"},
        trainer_tolerations=SPOT,
        num_workers=3,
        job_queue="q",
    )

    assert JobSettings.from_text(settings.to_text()) == settings


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("num_workers", 0, "num_workers"),
        ("num_workers", 65, "num_workers"),
        ("accelerator_count", -1, "accelerator_count"),
        ("job_deadline_hours", 0, "job_deadline_hours"),
        ("job_deadline_hours", 24 * 365 + 1, "job_deadline_hours"),
        ("accelerator_count", 65, "accelerator_count"),
        ("job_priority_class", "High!", "job_priority_class"),
        ("settings_config_map", "", "settings_config_map"),
        ("google_secret_name", "My Secret", "google_secret_name"),
        ("trainer_cpu", "", "trainer_cpu"),
        ("trainer_cpu", "four", "trainer_cpu"),
        ("trainer_cpu", "0.0", "trainer_cpu"),
        ("trainer_memory", "16 Gi", "trainer_memory"),
        ("trainer_memory", "16", "trainer_memory"),
        ("trainer_image", " ", "trainer_image"),
        ("trainer_image", "Repot/Trainer:1", "trainer_image"),
        ("job_queue", "My Queue", "job_queue"),
        ("job_queue", "q" * 64, "job_queue"),
        ("job_service_account", "", "job_service_account"),
        ("s3_secret_name", "", "s3_secret_name"),
        ("accelerator_type", "nvidia-l4", "accelerator_type"),
        ("trainer_node_selector", {"gpu": True}, "trainer_node_selector"),
        ("trainer_tolerations", [{"effect": "NoScedule"}], r"trainer_tolerations\[0\]"),
        ("trainer_tolerations", [{"kye": "spot"}], r"trainer_tolerations\[0\]"),
        ("trainer_tolerations", ["spot"], r"trainer_tolerations\[0\]"),
    ],
)
def test_bad_value_is_reported_by_its_name(field: str, value: Any, name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} must|got {name}="):
        JobSettings(**{"trainer_image": "i", field: value})


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        JobSettings(trainer_image="", trainer_cpu="x", num_workers=0, job_queue="Q")

    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("num_workers", [1, 64]),
        ("accelerator_count", [0, 64]),
        ("job_deadline_hours", [1, 24 * 365]),
        ("trainer_cpu", ["500m", "0.5", "64"]),
        ("trainer_memory", ["1.5Gi", "512Mi"]),
        ("job_queue", ["", "q" * 63]),
        ("job_priority_class", ["", "repot-training"]),
        ("settings_config_map", ["team-a.settings"]),
        ("s3_secret_name", ["a"]),
        ("google_secret_name", ["a" * 253]),
    ],
)
def test_bounds_are_allowed(field: str, values: list[Any]) -> None:
    for value in values:
        assert getattr(JobSettings(**{"trainer_image": "i", field: value}), field) == value


@pytest.mark.parametrize(
    ("settings", "name"), [(TaskSettings, "cpu_image"), (JobSettings, "trainer_image")]
)
def test_images_are_references(settings: type[Settings], name: str) -> None:
    for value in ("repot", "ghcr.io:443/repot/repot-cpu@sha256:" + "0" * 64):
        assert getattr(settings.from_json({name: value}), name) == value
    for value in ("", "https://ghcr.io/repot", "repot cpu", "repot:"):
        with pytest.raises(UsageError, match=f"{name} must be a container image reference"):
            settings.from_json({name: value})


@pytest.mark.parametrize(
    ("name", "quantity"),
    [
        ("builder_cpu", "a number of CPUs"),
        ("evaluator_cpu", "a number of CPUs"),
        ("fetcher_cpu", "a number of CPUs"),
        ("task_cpu", "a number of CPUs"),
        ("builder_memory", "an amount of memory"),
        ("evaluator_memory", "an amount of memory"),
        ("fetcher_memory", "an amount of memory"),
        ("task_memory", "an amount of memory"),
    ],
)
def test_task_resources_must_be_quantities(name: str, quantity: str) -> None:
    with pytest.raises(UsageError, match=f"{name} must be {quantity}"):
        TaskSettings.from_parameters({name: "lots"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("task_node_selector", {"pool": True}), ("task_tolerations", [{"kye": "gpu"}])],
)
def test_placement_of_tasks_is_checked(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{name}.* must "):
        TaskSettings.from_parameters({name: value})


def test_whole_seconds_of_a_pipeline_are_a_number_that_kubernetes_reads() -> None:
    # KFP's JSON has only floats, and Kubernetes rejects 300.0.
    spot = {"key": "spot", "effect": "NoExecute", "tolerationSeconds": 300.0}

    settings = JobSettings.from_parameters({"trainer_tolerations": [spot]})

    assert '"tolerationSeconds": 300}' in json.dumps(settings.trainer_tolerations)


@pytest.mark.parametrize(
    ("mode", "num_workers", "accelerators", "batch_size", "problem"),
    [
        ("pod", 1, 8, 8, ""),
        ("pod", 1, 8, 7, "batch_size must be at least one for each of the 8"),
        ("pod", 2, 0, 32, "num_workers must be 1 with trainer_mode=pod"),
        ("job", 4, 2, 8, ""),
        ("job", 4, 2, 7, "batch_size must be at least one for each of the 8"),
        ("job", 65, 2, 7, ""),  # reported by JobSettings
    ],
)
def test_mode_workers_and_batch_size_must_fit(
    mode: str, num_workers: int, accelerators: int, batch_size: int, problem: str
) -> None:
    problems = mode_problems(
        mode, num_workers=num_workers, accelerator_count=accelerators, batch_size=batch_size
    )

    assert len(problems) == (1 if problem else 0)
    assert problem in "".join(problems)
