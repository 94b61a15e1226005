from typing import Any

import pytest

from repot_pipelines.compiled import find_compiled
from repot_pipelines.kfp_server.cluster_rules import cluster_problems
from repot_pipelines.kfp_server.parameters import read_parameters, read_pipeline, with_defaults

VALUES = with_defaults(
    {"pictures_uri": "gs://pictures/flowers", "storage_uri": "gs://repot/here"},
    read_parameters(read_pipeline(find_compiled())),
)


def test_defaults_of_the_compiled_pipeline_are_right() -> None:
    assert cluster_problems(VALUES) == []


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("batch_size", 0, "batch_size must lie in 1..65536"),
        ("recipe", "magic", "recipe must be one of"),
        ("min_precision", 1.5, "min_precision must lie in 0..1"),
        ("pictures_uri", "/home/me/pictures", "pictures_uri must be in an object store"),
        ("storage_uri", "repot-storage", "storage_uri must be in an object store"),
        ("labels_file_uri", "labels.txt", "labels_file_uri must be in an object store"),
        ("storage_uri", "ftp://host/x", "storage_uri: "),
        ("accelerator_count", "one", "accelerator_count must be a whole number as text"),
        ("accelerator_count", "-1", "accelerator_count must be a whole number as text"),
        ("accelerator_type", "nvidia-tesla-t4", "accelerator_type must be a resource name"),
        ("accelerator_type", "", "accelerator_type must be a resource name"),
        ("trainer_cpu", "", "trainer_cpu must be a Kubernetes quantity"),
        ("trainer_cpu", "0", "trainer_cpu must be a Kubernetes quantity"),
        ("builder_memory", "4GB", "builder_memory must be a Kubernetes quantity"),
        ("trainer_node_selector", {"spot": True}, "trainer_node_selector must map labels to texts"),
        ("trainer_tolerations", ["gpu"], "trainer_tolerations[0] must be an object of"),
        ("trainer_tolerations", [{"key": "gpu"}, {"kye": "gpu"}], "trainer_tolerations[1] must be an object of"),
    ],
)
def test_a_wrong_value_is_one_problem(name: str, value: Any, rule: str) -> None:
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
        ("trainer_tolerations", [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 3}]),
        ("trainer_node_selector", {"cloud.google.com/gke-spot": "true"}),
    ],
)
def test_a_right_value_is_no_problem(name: str, value: Any) -> None:
    assert cluster_problems({**VALUES, name: value}) == []


def test_without_accelerators_their_type_does_not_matter() -> None:
    assert cluster_problems({**VALUES, "accelerator_count": "0", "accelerator_type": ""}) == []


def test_every_problem_is_told() -> None:
    wrong = {"batch_size": 0, "pictures_uri": "/tmp", "accelerator_count": "x", "trainer_memory": "much"}

    assert len(cluster_problems({**VALUES, **wrong})) == 4
