import datetime

import pytest

from repot_pipelines.watch.tasks import PipelineTask, TaskStatus, read_statuses, read_tasks
from tests.unit.watch.run_nodes import PIPELINE, recorded_nodes, simulated_nodes

TASKS = read_tasks(PIPELINE)
RECORDED_TASKS = tuple(
    PipelineTask(key=key, title=key, parent=parent)
    for key, parent in {
        "plan": "",
        "build-shards": "for-loop-1",
        "merge": "",
        "fetch-checkpoint": "",
        "train": "",
        "evaluate": "",
        "gate": "",
        "promote": "condition-2",
    }.items()
)
"""The recorded runs are of a pipeline whose gate and promotion were tasks of their own."""
NOW = datetime.datetime(2026, 3, 1, 2, 10, tzinfo=datetime.UTC)


def statuses(phases: dict[str, str], *, num_items: int = 3) -> dict[str, TaskStatus]:
    nodes, _ = simulated_nodes(phases, num_items=num_items)
    return {status.task.key: status for status in read_statuses(TASKS, nodes, now=NOW)}


def recorded_states(name: str) -> dict[str, str]:
    found = read_statuses(RECORDED_TASKS, recorded_nodes(name), now=NOW)
    return {status.task.key: status.state for status in found}


def test_tasks_are_in_execution_order() -> None:
    keys = [task.key for task in TASKS]

    assert keys[0] == "plan"
    assert keys.index("build-shards-2") < keys.index("train") < keys.index("evaluate")
    assert keys.index("build-shards") < keys.index("train")
    assert {task.key: task.title for task in TASKS}["evaluate"] == "Evaluate and gate"


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
def test_state_of_a_task_follows_its_nodes(phase: str, state: str) -> None:
    found = statuses({"plan": phase})

    assert found["plan"].state == state
    assert found["train"].state == "waiting"


def test_progress_of_a_loop_counts_its_items() -> None:
    key = "build-shards-2"
    running = statuses({"plan": "Succeeded", key: "Running"})[key]
    done = statuses({"plan": "Succeeded", key: "Succeeded"})[key]
    one_item = statuses({key: "Succeeded"}, num_items=1)[key]

    assert (running.state, running.progress) == ("running", "0/3")
    assert (done.state, done.progress) == ("done", "3/3")
    assert one_item.progress == ""


def test_task_with_a_false_condition_is_skipped() -> None:
    nodes = recorded_nodes("success")
    nodes = [node for node in nodes if not (node.display_name or "").startswith("promote")]
    for node in nodes:
        if node.display_name == "condition-2":
            node.state = "SKIPPED"

    found = read_statuses(RECORDED_TASKS, nodes, now=NOW)

    assert {status.state for status in found if status.task.key == "promote"} == {"skipped"}


def test_seconds_run_to_the_last_end_or_to_now() -> None:
    assert statuses({"plan": "Succeeded"})["plan"].seconds == 90
    assert statuses({"plan": "Running"})["plan"].seconds == 600
    assert statuses({})["plan"].seconds == 0


def test_recorded_run_that_succeeded_has_only_done_tasks() -> None:
    assert set(recorded_states("success").values()) == {"done"}


def test_recorded_run_with_a_failed_plan_has_only_waiting_tasks_after_it() -> None:
    states = recorded_states("failed-plan")

    assert states.pop("plan") == "failed"
    assert set(states.values()) == {"waiting"}
