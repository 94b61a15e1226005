from dataclasses import replace

import pytest

from repot_pipelines.watch.pod_names import failed_pods, task_pods
from tests.integration.kfp_api.workflow import (
    EXECUTOR,
    Node,
    Progress,
    make_nodes,
    pods_by_name,
    task_details,
)
from tests.unit.watch.run_nodes import (
    PIPELINE,
    WORKFLOW,
    as_objects,
    recorded_nodes,
    simulated_nodes,
)


def pods_below(path: str, nodes: list[Node]) -> list[str]:
    """Return the pods of the nodes whose paths end with this, ignoring attempts."""
    pods = pods_by_name(nodes, WORKFLOW).items()
    return sorted(pod for pod, node in pods if node.path.replace("(0)", "").endswith(path))


@pytest.mark.parametrize("is_retried", [False, True])
@pytest.mark.parametrize(
    ("key", "count"), [("train", 1), ("build-shards", 1), ("build-shards-2", 3)]
)
def test_task_pods_are_the_executors_of_the_task(key: str, count: int, is_retried: bool) -> None:
    nodes, tree = simulated_nodes({"plan": "Succeeded", key: "Running"}, is_retried=is_retried)

    expected = pods_below(f".{key}.executor", tree)

    assert len(expected) == count
    assert sorted(task_pods(key, nodes)) == expected


@pytest.mark.parametrize("is_retried", [False, True])
@pytest.mark.parametrize(
    ("phase", "path"), [("Failed", ".root.train.executor"), ("DriverFailed", ".root.train-driver")]
)
def test_failed_pods_are_executors_or_else_drivers(phase: str, path: str, is_retried: bool) -> None:
    nodes, tree = simulated_nodes({"plan": "Succeeded", "train": phase}, is_retried=is_retried)

    assert failed_pods("train", nodes) == pods_below(path, tree) != []


def test_failed_pods_of_a_retried_task_start_with_the_last_attempt() -> None:
    nodes = make_nodes(PIPELINE, WORKFLOW, Progress({"train": "Failed"}))
    (retried,) = [node for node in nodes if node.path.endswith(".train(0).executor")]
    first = retried.children[0]
    second = replace(first, path=f"{retried.path}(1)")
    retried.children.append(second)

    pods = failed_pods("train", as_objects(task_details([*nodes, second], WORKFLOW)))

    assert pods == [f"{WORKFLOW}-{EXECUTOR}-{node.hash}" for node in (second, first)]


def test_failed_pods_without_nodes_are_empty() -> None:
    assert failed_pods("train", []) == []


def test_pods_of_recorded_runs() -> None:
    success, failed_plan = recorded_nodes("success"), recorded_nodes("failed-plan")

    assert task_pods("gate", success) == ["repot-finetune-sztmz-system-container-impl-3584842475"]
    assert task_pods("build-shards", success) == [
        "repot-finetune-sztmz-system-container-impl-3100683305"
    ]
    assert failed_pods("plan", failed_plan) == [
        "repot-finetune-s8rbt-system-container-impl-2014338372"
    ]
