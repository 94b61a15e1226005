import datetime
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repot_pipelines.compiled import find_compiled
from repot_pipelines.parameters import read_pipeline
from repot_pipelines.watch.pod_log import failed_pods, last_words, task_pods
from repot_pipelines.watch.tasks import TaskState, read_states, read_steps
from tests.integration.kfp_api.workflow import EXECUTOR, Node, Progress, details, nodes_of, pods_of

PIPELINE = read_pipeline(find_compiled())
STEPS = read_steps(PIPELINE)
NOW = datetime.datetime(2026, 3, 1, 2, 10, tzinfo=datetime.UTC)
WORKFLOW = "repot-finetune-abcde"


ANSWERS = Path(__file__).parent / "answers"
"""Runs of this pipeline as a KFP 2.17.0 with Argo 4 described them; times and ids are its own."""


def recorded(name: str) -> list[Any]:
    """Return the nodes of a recorded run."""
    unset = "0001-01-01T00:00:00Z"
    rows = json.loads((ANSWERS / f"{name}.json").read_text())["run_details"]["task_details"]
    defaults: dict[str, Any] = {
        "display_name": None,
        "state": None,
        "start_time": unset,
        "end_time": unset,
        "child_tasks": [],
    }
    return as_objects([{**defaults, **row} for row in rows])


def as_objects(rows: list[dict[str, Any]]) -> list[Any]:
    """Return the server's JSON as its client hands it on."""
    return [
        SimpleNamespace(
            display_name=row["display_name"],
            state=row["state"],
            start_time=datetime.datetime.fromisoformat(row["start_time"]),
            end_time=datetime.datetime.fromisoformat(row["end_time"]),
            child_tasks=[
                SimpleNamespace(pod_name=child["pod_name"]) for child in row["child_tasks"]
            ],
        )
        for row in rows
    ]


def nodes_after(
    phases: dict[str, str], *, num_items: int = 3, is_retried: bool = True
) -> tuple[list[Any], list[Node]]:
    nodes = nodes_of(
        PIPELINE, WORKFLOW, Progress(phases, num_items=num_items, is_retried=is_retried)
    )
    return as_objects(details(nodes, WORKFLOW)), nodes


def states_after(phases: dict[str, str], *, num_items: int = 3) -> dict[str, TaskState]:
    nodes, _ = nodes_after(phases, num_items=num_items)
    return {state.step.key: state for state in read_states(STEPS, nodes, now=NOW)}


def test_steps_are_in_the_order_in_which_they_run() -> None:
    keys = [step.key for step in STEPS]

    assert keys[0] == "plan"
    assert keys[-3:] == ["evaluate", "gate", "promote"]
    assert keys.index("build-shards") < keys.index("merge") < keys.index("train")
    assert {step.key: step.title for step in STEPS}["gate"] == "Gate: threshold and champion"


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        ("Starting", "starting"),
        ("Pending", "running"),
        ("Running", "running"),
        ("Succeeded", "done"),
        ("Failed", "failed"),
        ("DriverFailed", "failed"),
    ],
)
def test_a_task_has_the_state_of_its_nodes(phase: str, state: str) -> None:
    states = states_after({"plan": phase})

    assert states["plan"].state == state
    assert states["train"].state == "waiting"


def test_a_loop_counts_its_passes() -> None:
    running = states_after({"plan": "Succeeded", "build-shards": "Running"})["build-shards"]
    done = states_after({"plan": "Succeeded", "build-shards": "Succeeded"})["build-shards"]

    assert (running.state, running.amount) == ("running", "0/3")
    assert (done.state, done.amount) == ("done", "3/3")
    assert states_after({"build-shards": "Succeeded"}, num_items=1)["build-shards"].amount == ""


def test_a_task_behind_a_false_condition_is_skipped() -> None:
    assert states_after({"gate": "Succeeded", "promote": "Skipped"})["promote"].state == "skipped"
    assert states_after({"gate": "Succeeded", "promote": "Succeeded"})["promote"].state == "done"


def test_seconds_are_those_of_the_nodes_or_up_to_now() -> None:
    assert states_after({"plan": "Succeeded"})["plan"].seconds == 90
    assert states_after({"plan": "Running"})["plan"].seconds == 600
    assert states_after({})["plan"].seconds == 0


def pods_at(path: str, nodes: list[Node]) -> list[str]:
    """Return the pods of the nodes whose paths end so, attempts left out."""
    pods = pods_of(nodes, WORKFLOW).items()
    return sorted(pod for pod, node in pods if node.path.replace("(0)", "").endswith(path))


@pytest.mark.parametrize("is_retried", [False, True])
@pytest.mark.parametrize(("key", "count"), [("train", 1), ("build-shards", 3)])
def test_task_pods_are_the_pods_of_the_task(key: str, count: int, is_retried: bool) -> None:
    nodes, tree = nodes_after({"plan": "Succeeded", key: "Running"}, is_retried=is_retried)

    expected = pods_at(f".{key}.executor", tree)
    assert len(expected) == count
    assert sorted(task_pods(key, nodes)) == expected


@pytest.mark.parametrize("is_retried", [False, True])
def test_failed_pods_of_a_task_and_of_its_driver(is_retried: bool) -> None:
    nodes, tree = nodes_after({"plan": "Succeeded", "train": "Failed"}, is_retried=is_retried)
    assert failed_pods("train", nodes) == pods_at(".root.train.executor", tree) != []

    nodes, tree = nodes_after({"plan": "Succeeded", "train": "DriverFailed"}, is_retried=is_retried)
    assert failed_pods("train", nodes) == pods_at(".root.train-driver", tree) != []


def test_failed_pods_of_a_retried_task_are_its_attempts_the_last_one_first() -> None:
    nodes = nodes_of(PIPELINE, WORKFLOW, Progress({"train": "Failed"}))
    (retried,) = [node for node in nodes if node.path.endswith(".train(0).executor")]
    first = retried.children[0]
    second = replace(first, path=f"{retried.path}(1)")
    retried.children.append(second)

    pods = failed_pods("train", as_objects(details([*nodes, second], WORKFLOW)))

    assert pods == [f"{WORKFLOW}-{EXECUTOR}-{node.digits}" for node in (second, first)]


def test_recorded_run_that_succeeded() -> None:
    nodes = recorded("success")

    assert {state.state for state in read_states(STEPS, nodes, now=NOW)} == {"done"}
    assert task_pods("gate", nodes) == ["repot-finetune-sztmz-system-container-impl-3584842475"]
    assert task_pods("build-shards", nodes) == [
        "repot-finetune-sztmz-system-container-impl-3100683305"
    ]


def test_recorded_run_whose_plan_failed_ran_nothing_else() -> None:
    nodes = recorded("failed-plan")
    states = {state.step.key: state.state for state in read_states(STEPS, nodes, now=NOW)}

    assert states.pop("plan") == "failed"
    assert set(states.values()) == {"waiting"}
    assert failed_pods("plan", nodes) == ["repot-finetune-s8rbt-system-container-impl-2014338372"]


def test_failed_pods_without_nodes_are_none() -> None:
    assert failed_pods("train", []) == []


def test_last_words_leave_out_what_the_launcher_says() -> None:
    log = """I0301 02:00:00.1 1 launcher_v2.go:151] PipelineRoot defaults
time="2026-03-01" level=info msg="capturing logs"
[KFP Executor 2026-03-01 INFO]: Looking for component `train`
I0301 02:00:00.1 1 launcher_v2.go:151] input: {
  "inputs": {
    "parameterValues": {"seed": 0}
  }
}
train: gs://repot/datasets/1/train-00000 must have the bytes of its receipt; got others.
Build it again: delete the shard.

time=2026-03-01T02:00:01.109Z level=INFO msg="sub-process exited" error="exit status 1" argo=true
Error: exit status 1
F0301 02:00:01.1 1 main.go:54] failed to execute component: exit status 1
"""
    refused = "F0301 02:00:01.1 1 main.go:59] failed to execute component: Failed to open bucket: secrets is forbidden\n"

    assert last_words(log) == (
        "train: gs://repot/datasets/1/train-00000 must have the bytes of its receipt; got others.\n"
        "Build it again: delete the shard."
    )
    assert last_words(log + refused).endswith(
        "Build it again: delete the shard.\n" + refused.strip()
    )
    assert last_words("\n".join(map(str, range(100))), num_lines=2) == "98\n99"
