from typing import Any

import pytest

from repot_pipelines.cluster_rules import account_problems, cluster_problems
from repot_pipelines.compiled import find_compiled, read_pipeline
from repot_pipelines.parameters import with_defaults

VALUES = with_defaults(
    {"pictures_uri": "gs://pictures/flowers", "storage_uri": "gs://repot/here"},
    read_pipeline(find_compiled()),
)


def test_defaults_of_the_compiled_pipeline_are_valid() -> None:
    assert cluster_problems(VALUES) == []


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("batch_size", 0, "batch_size must lie in 1..65536"),
        ("recipe", "magic", "recipe must be one of"),
        ("min_precision", 1.5, "min_precision must lie in 0..1"),
        ("pictures_uri", "/home/me/pictures", "pictures_uri must be in an object store"),
        ("pictures_uri", "", "pictures_uri must be the URI of a folder; it is empty"),
        ("storage_uri", "", "storage_uri must be the URI of a folder; it is empty"),
        ("storage_uri", "repot-storage", "storage_uri must be in an object store"),
        ("labels_file_uri", "labels.txt", "labels_file_uri must be in an object store"),
        *(
            (name, "boxes", f"{name} must be in an object store")
            for name in (
                "imagenet_metadata_file_uri",
                "bounding_box_file_uri",
                "corrections_file_uri",
            )
        ),
        ("storage_uri", "ftp://host/x", "storage_uri: "),
        ("accelerator_count", -1, "accelerator_count must lie in 0..64"),
        ("accelerator_type", "nvidia-tesla-t4", "accelerator_type must be a resource name"),
        ("accelerator_type", "", "accelerator_type must be a resource name"),
        ("trainer_cpu", "", "trainer_cpu must be a number of CPUs"),
        ("trainer_cpu", "0", "trainer_cpu must be a number of CPUs"),
        ("builder_memory", "400m", "builder_memory must lie in 128Mi..64Ti"),
        ("builder_memory", "4GB", "builder_memory must be an amount of memory"),
        (
            "trainer_node_selector",
            {"spot": True},
            "trainer_node_selector must map labels to strings",
        ),
        ("trainer_tolerations", ["gpu"], "trainer_tolerations[0] must be an object with the keys"),
        (
            "trainer_tolerations",
            [{"key": "gpu"}, {"kye": "gpu"}],
            "trainer_tolerations[1] must be an object with the keys",
        ),
        (
            "trainer_tolerations",
            [{"key": 1}],
            "trainer_tolerations[0] must have strings for",
        ),
        (
            "trainer_tolerations",
            [{"value": "gpu"}],
            "trainer_tolerations[0] must have a key",
        ),
        (
            "trainer_tolerations",
            [{"key": "a", "operator": "Exists", "value": "b"}],
            "trainer_tolerations[0] must have no value",
        ),
        (
            "trainer_node_selector",
            {"bad key!": "x"},
            "trainer_node_selector must map node labels",
        ),
        (
            "trainer_node_selector",
            {"pool": "a b"},
            "trainer_node_selector must map node labels",
        ),
        ("cpu_image", " ", "cpu_image must be a container image reference"),
        ("trainer_image", "", "trainer_image must be a container image reference"),
        ("trainer_mode", "jobs", "trainer_mode must be one of pod, job"),
        ("num_workers", 2, "num_workers must be 1 with trainer_mode=pod"),
        ("num_workers", 65, "num_workers must lie in 1..64"),
        ("accelerator_count", 33, "batch_size must be at least one for each of the 33"),
        ("accelerator_count", 65, "accelerator_count must lie in 0..64"),
        ("job_deadline_hours", 0, "job_deadline_hours must lie in"),
        ("job_queue", "Our Queue", "job_queue must be the name of a Kubernetes object"),
        ("s3_secret_name", "", "s3_secret_name must be the name of a Kubernetes object"),
        ("builder_pods", 0, "builder_pods must lie in 1..64"),
        ("builder_pods", 65, "builder_pods must lie in 1..64"),
        ("evaluator_memory", "lots", "evaluator_memory must be an amount of memory"),
        ("builder_cpu", "0m", "builder_cpu must be a number of CPUs"),
        ("model_name", "our flowers", "model_name must be 1 to 63 letters"),
        ("checkpoint", "inception-v3-2016", "checkpoint must be one of"),
        ("checkpoint", "/home/me/weights.h5", "checkpoint must be in an object store"),
        ("checkpoint_sha256", "abc", "checkpoint_sha256 must be 64 hex digits"),
        ("checkpoint_values", "mean", "checkpoint_values must be one of"),
    ],
)
def test_invalid_value_is_one_problem(name: str, value: Any, rule: str) -> None:
    problems = cluster_problems({**VALUES, name: value})

    assert len(problems) == 1
    assert problems[0].startswith(rule)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accelerator_type", "amd.com/gpu"),
        ("accelerator_type", "cloud-tpus.google.com/v5e"),
        ("trainer_cpu", "500m"),
        ("trainer_cpu", "1.5"),
        ("trainer_memory", "1Ti"),
        (
            "trainer_tolerations",
            [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}],
        ),
        ("trainer_tolerations", [{"operator": "Exists"}, {"key": "pool", "value": "spot"}]),
        ("trainer_node_selector", {"cloud.google.com/gke-spot": "true", "pool": ""}),
        ("builder_pods", 64),
        ("checkpoint", "s3://weights/inception.tar.gz"),
        ("checkpoint", "https://example.com/weights.h5"),
        ("checkpoint_sha256", "a" * 64),
    ],
)
def test_valid_value_is_no_problem(name: str, value: Any) -> None:
    assert cluster_problems({**VALUES, name: value}) == []


def test_accelerator_type_is_ignored_without_accelerators() -> None:
    assert cluster_problems({**VALUES, "accelerator_count": 0, "accelerator_type": ""}) == []


def test_storage_of_the_cluster_is_no_problem() -> None:
    assert cluster_problems({**VALUES, "storage_uri": "default"}) == []


def test_job_mode_allows_several_workers() -> None:
    assert (
        cluster_problems(
            {**VALUES, "trainer_mode": "job", "num_workers": 32.0, "job_deadline_hours": 1.0}
        )
        == []
    )


@pytest.mark.parametrize(
    ("mode", "account", "num_problems"),
    [
        ("job", "repot-runner", 1),
        ("job", "repot-job-runner", 0),
        ("job", "own-account", 0),
        ("job", "", 0),
        ("pod", "repot-runner", 0),
        ("pod", "repot-job-runner", 0),
    ],
)
def test_job_mode_needs_an_account_that_may_create_jobs(
    mode: str, account: str, num_problems: int
) -> None:
    problems = account_problems({**VALUES, "trainer_mode": mode}, account)

    assert len(problems) == num_problems
    assert all("Use repot-job-runner" in problem for problem in problems)


def test_absent_parameters_are_not_checked() -> None:
    assert cluster_problems({}) == []
    assert cluster_problems({"accelerator_type": "nvidia.com/gpu", "accelerator_count": 2}) == []


def test_all_problems_are_reported_at_once() -> None:
    wrong = {
        "batch_size": 0,
        "pictures_uri": "/tmp",
        "accelerator_count": 65,
        "trainer_memory": "much",
    }

    assert len(cluster_problems({**VALUES, **wrong})) == 4
    several = {
        "trainer_mode": "jobs",
        "accelerator_type": "l4",
        "builder_pods": 65,
        "checkpoint": "/x.h5",
    }
    assert len(cluster_problems({**VALUES, **several})) == 4
