import inspect
from typing import Any

import pytest

from repot.errors import UsageError
from repot.job_settings import JobSettings
from repot.planner.trainer_pod import choose_task_pod
from repot.settings import given

SPOT = [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]


def test_json_keeps_everything() -> None:
    settings = JobSettings(
        image="i", node_selector={"a": "b"}, tolerations=SPOT, num_workers=3, queue="q"
    )

    assert JobSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("num_workers", 0, "num_workers"),
        ("num_workers", 65, "num_workers"),
        ("accelerator_count", -1, "accelerator_count"),
        ("deadline_hours", 0, "job_deadline_hours"),
        ("cpu", "", "trainer_cpu"),
        ("cpu", "four", "trainer_cpu"),
        ("cpu", "0.0", "trainer_cpu"),
        ("memory", "16 Gi", "trainer_memory"),
        ("image", " ", "trainer_image"),
        ("queue", "My Queue", "job_queue"),
        ("service_account", "", "job_service_account"),
        ("s3_secret_name", "", "s3_secret_name"),
        ("accelerator_type", "nvidia-l4", "accelerator_type"),
        ("node_selector", {"gpu": True}, "trainer_node_selector"),
        ("tolerations", [{"effect": "NoScedule"}], r"trainer_tolerations\[0\]"),
        ("tolerations", [{"kye": "spot"}], r"trainer_tolerations\[0\]"),
        ("tolerations", ["spot"], r"trainer_tolerations\[0\]"),
    ],
)
def test_bad_value_is_named_as_the_user_knows_it(field: str, value: Any, name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} must|got {name}="):
        JobSettings(**{"image": "i", field: value})


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        JobSettings(image="", cpu="x", num_workers=0, queue="Q")

    assert len(caught.value.problems) == 4


def test_bounds_are_allowed() -> None:
    JobSettings(
        image="i", num_workers=64, accelerator_count=0, deadline_hours=1, cpu="500m", memory="1.5Gi"
    )


def test_task_that_only_follows_a_job_asks_for_no_gpu_and_no_spot_node() -> None:
    settings = JobSettings(
        image="gpu-image", accelerator_count=2, node_selector={"spot": "true"}, tolerations=SPOT
    )

    pod = choose_task_pod("job", settings, cpu_image="cpu-image")
    assert (pod.image, pod.accelerator_count, pod.node_selector, pod.tolerations) == (
        "cpu-image",
        "0",
        {},
        [],
    )
    assert (pod.cpu, pod.memory) == ("250m", "1Gi")

    pod = choose_task_pod("pod", settings, cpu_image="cpu-image")
    assert (pod.image, pod.accelerator_count, pod.node_selector) == (
        "gpu-image",
        "2",
        {"spot": "true"},
    )
    assert (pod.cpu, pod.memory, pod.tolerations) == ("4", "16Gi", SPOT)


def test_defaults_agree_with_the_pipelines() -> None:
    from repot_pipelines.finetune import finetune

    pipeline = {
        name: each.default
        for name, each in inspect.signature(finetune.pipeline_func).parameters.items()
    }
    settings = JobSettings(image=pipeline["trainer_image"])
    assert settings.accelerator_count == int(pipeline["accelerator_count"])
    for name in (
        "accelerator_type",
        "num_workers",
        "settings_config_map",
        "s3_secret_name",
        "google_secret_name",
    ):
        assert getattr(settings, name) == pipeline[name]
    for name in ("cpu", "memory", "node_selector", "tolerations"):
        assert getattr(settings, name) == pipeline[f"trainer_{name}"]
    for name in ("service_account", "deadline_hours"):
        assert getattr(settings, name) == pipeline[f"job_{name}"]
    for name in ("queue", "priority_class"):
        assert getattr(settings, name) == given(pipeline[f"job_{name}"])
