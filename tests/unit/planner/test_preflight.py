from pathlib import Path
from typing import Any

import pytest

from repot.errors import UsageError
from repot.planner.preflight import Parameters, check_parameters


def check(folder: Path, **changes: Any) -> Parameters:
    (folder / "1.jpg").touch()
    job = {"image": "i", "accelerator_count": "0", "num_workers": 1}
    job |= {
        name: changes.pop(name)
        for name in list(changes)
        if name in ("accelerator_count", "num_workers", "cpu")
    }
    facts: dict[str, Any] = {
        "pictures_uri": str(folder),
        "storage_uri": str(folder / "storage"),
        "labels_file_uri": "",
        "dataset": {},
        "training": {"backbone": "efficientnet_lite0", "batch_size": 8},
        "gate": {},
        "trainer_mode": "pod",
        "job": job,
        "checkpoint": {"source": "default", "sha256": "", "values": "auto"},
        "builder_pods": 1,
        "model_name": "m",
    }
    return check_parameters(**{**facts, **changes})


def test_job_settings_come_out_with_numbers(tmp_path: Path) -> None:
    parameters = check(tmp_path, accelerator_count="2")

    assert (parameters.trainer_mode, parameters.job.accelerator_count) == ("pod", 2)


@pytest.mark.parametrize("nothing", ["none", "", " "])
def test_nothing_is_said_by_a_word_or_an_empty_field(nothing: str, tmp_path: Path) -> None:
    checkpoint = {"source": "default", "sha256": nothing, "values": "auto"}
    job = {
        "image": "i",
        "accelerator_count": "0",
        "num_workers": 1,
        "queue": nothing,
        "priority_class": nothing,
    }

    parameters = check(tmp_path, labels_file_uri=nothing, checkpoint=checkpoint, job=job)

    assert parameters.labels_file_uri == parameters.job.queue == parameters.job.priority_class == ""
    assert len(parameters.checkpoint.sha256) == 64


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"trainer_mode": "Job"}, "trainer_mode must be one of pod, job; got trainer_mode='Job'."),
        (
            {"num_workers": 2},
            "num_workers must be 1 with trainer_mode=pod; got num_workers=2. Use trainer_mode=job.",
        ),
        ({"accelerator_count": "two"}, "accelerator_count must be a whole number as text"),
        ({"accelerator_count": "9"}, "batch_size must be at least one for each of the 9"),
        ({"cpu": "many"}, "trainer_cpu must be a Kubernetes quantity"),
        ({"trainer_mode": "job"}, "storage_uri must be in an object store with trainer_mode=job"),
    ],
)
def test_bad_placement_is_refused(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check(tmp_path, **changes)

    (only,) = caught.value.problems
    assert problem in only


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check(
            tmp_path,
            trainer_mode="x",
            cpu="many",
            builder_pods=0,
            model_name="",
            gate={"min_precision": 2},
        )

    assert len(caught.value.problems) == 5


def test_missing_pictures_are_said_together_with_bad_parameters(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check(tmp_path, model_name="", pictures_uri=str(tmp_path / "nowhere"))

    assert [problem.split(" must ")[0] for problem in caught.value.problems] == [
        "model_name",
        "The pictures' folder",
    ]
