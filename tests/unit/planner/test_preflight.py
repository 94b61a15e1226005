from pathlib import Path
from typing import Any

import pytest

from repot.errors import UsageError
from repot.planner.preflight import Parameters, check_parameters
from repot.settings import DEFAULTS


def check(folder: Path, **changes: Any) -> Parameters:
    (folder / "1.jpg").touch()
    parameters = {
        **DEFAULTS,
        "pictures_uri": str(folder),
        "storage_uri": str(folder / "storage"),
        "backbone": "efficientnet_lite0",
        "batch_size": 8,
        "accelerator_count": 0,
        "builder_pods": 1,
        "model_name": "m",
    }
    return check_parameters({**parameters, **changes})


def test_parameters_become_settings_by_subject(tmp_path: Path) -> None:
    parameters = check(tmp_path, accelerator_count=2, batch_size=16.0)

    assert parameters.task.trainer_mode == "pod"
    assert (parameters.job.accelerator_count, parameters.training.batch_size) == (2, 16)
    assert parameters.run.storage_uri == str(tmp_path / "storage")


@pytest.mark.parametrize("empty", ["none", "", " "])
def test_none_and_blank_text_mean_not_given(empty: str, tmp_path: Path) -> None:
    names = ("checkpoint_sha256", "job_queue", "job_priority_class", "labels_file_uri")

    parameters = check(tmp_path, **dict.fromkeys(names, empty))

    job = parameters.job
    assert parameters.run.labels_file_uri == job.job_queue == job.job_priority_class == ""
    assert len(parameters.checkpoint.sha256) == 64


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"trainer_mode": "Job"}, "trainer_mode must be one of pod, job; got trainer_mode='Job'."),
        (
            {"num_workers": 2},
            "num_workers must be 1 with trainer_mode=pod; got num_workers=2. Use trainer_mode=job.",
        ),
        ({"accelerator_count": 9}, "batch_size must be at least one for each of the 9"),
        ({"trainer_cpu": "many"}, "trainer_cpu must be a number of CPUs"),
        ({"builder_memory": "many"}, "builder_memory must be an amount of memory"),
        ({"trainer_mode": "job"}, "storage_uri must be in an object store with trainer_mode=job"),
        ({"backbone": "effientnet_lite0"}, "Did you mean efficientnet_lite0?"),
        ({"checkpoint_sha256": "abc"}, "checkpoint_sha256 must be 64 hex digits"),
        ({"labels_file_uri": "/no/such/file"}, "The labels file must exist"),
        ({"imagenet_metadata_file_uri": "/no/such/file"}, "The metadata file must exist"),
        ({"corrections_file_uri": "/no/such/file"}, "The corrections file must exist"),
        ({"bounding_box_file_uri": "/no/such/folder"}, "The bounding boxes must exist"),
        ({"storage_uri": ""}, "storage_uri must be given"),
        ({"storage_uri": "default"}, "set STORAGE_URI in the ConfigMap repot-settings"),
    ],
)
def test_bad_parameter_is_one_problem(
    changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        check(tmp_path, **changes)

    (only,) = caught.value.problems
    assert problem in only


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    wrong = {
        "trainer_mode": "x",
        "trainer_cpu": "many",
        "builder_pods": 0,
        "model_name": "",
        "min_precision": 2,
    }
    files = {
        "labels_file_uri": "The labels file",
        "imagenet_metadata_file_uri": "The metadata file",
        "bounding_box_file_uri": "The bounding boxes",
        "corrections_file_uri": "The corrections file",
    }

    with pytest.raises(UsageError) as caught:
        check(tmp_path, **wrong, **dict.fromkeys(files, "/no/such/place"))

    named = [problem.split(" must ")[0] for problem in caught.value.problems]
    assert sorted(named) == sorted([*wrong, *files.values()])


@pytest.mark.parametrize("name", ["boxes.csv", "boxes/n01440764/1.xml"])
def test_boxes_may_be_a_file_or_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    location = tmp_path / name.split("/", maxsplit=1)[0]

    parameters = check(tmp_path, bounding_box_file_uri=f"{location}/")

    assert parameters.inputs.bounding_box_file_uri == str(location)


def test_missing_pictures_are_reported_together_with_bad_parameters(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check(tmp_path, model_name="", pictures_uri=str(tmp_path / "nowhere"))

    assert [problem.split(" must ")[0] for problem in caught.value.problems] == [
        "model_name",
        "The pictures folder",
    ]


@pytest.mark.parametrize(("learning_rate", "num_warnings"), [(0.0, 0), (3e-5, 0), (0.001, 1)])
def test_learning_rate_far_above_the_recipes_own_gives_a_warning(
    learning_rate: float, num_warnings: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "repot.progress")

    check(tmp_path, recipe="fine_tune", learning_rate=learning_rate)

    start = "plan: warning: learning_rate should be at most 0.0003 with recipe=fine_tune"
    assert sum(message.startswith(start) for message in caplog.messages) == num_warnings


@pytest.mark.parametrize("in_pod", [False, True])
def test_credentials_that_a_server_has_stored_give_a_warning(
    *,
    in_pod: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "repot.progress")
    if in_pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv("KFP_POD_NAME", "plan")

    check(tmp_path, checkpoint="https://user:planted@host/w.h5")

    start = "plan: warning: checkpoint contains credentials (a user name or password)"
    assert sum(message.startswith(start) for message in caplog.messages) == in_pod
    assert "planted" not in caplog.text
