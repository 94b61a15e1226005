"""States of a run's tasks, from the workflow nodes that the server lists.

The server lists the nodes of the Argo workflow flat and unordered. A task `train` has a node
`train-driver` (KFP's driver, which checks the cache), a node `train` and a node `executor` (the
pod); a task in a loop has them once per item. A task whose condition is false is SKIPPED. If Argo
retries, `train(0)` and `executor(0)` are below.

Source: backend/src/v2/compiler/argocompiler of KFP 2.14 to 2.17.
"""

import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from repot_pipelines.compiled import PipelineSpec
from repot_pipelines.kfp_server.client import ApiObject

WAITING, STARTING, RUNNING, DONE, SKIPPED = "waiting", "starting", "running", "done", "skipped"
FAILED, STOPPED = "failed", "stopped"

_ACTIVE_NODE_STATES = ("PENDING", "RUNNING", "PAUSED", "CANCELING")
_FIRST_REAL_YEAR = 2000
"""The server sends unset times as year 1 or 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineTask:
    """One task of a compiled pipeline.

    Attributes:
        key: Name in the YAML.
        title: Display name.
        parent: Key of the loop or condition around it; "" for a top-level task.
    """

    key: str
    title: str
    parent: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskStatus:
    """State and progress of one task.

    Attributes:
        task: The task.
        state: WAITING, STARTING, RUNNING, DONE, SKIPPED, FAILED, or STOPPED with the whole run.
        num_done: Finished pods.
        num_pods: All pods so far; more than one for a task in a loop.
        seconds: From its first start to its last end, or to now.
    """

    task: PipelineTask
    state: str
    num_done: int
    num_pods: int
    seconds: float

    @property
    def progress(self) -> str:
        """Return the finished pods of a loop, e.g. "3/8"; "" for a task with one pod."""
        return f"{self.num_done}/{self.num_pods}" if self.num_pods > 1 else ""


def read_tasks(pipeline: PipelineSpec) -> tuple[PipelineTask, ...]:
    """Return the tasks of a pipeline in execution order, also those in loops and conditions."""
    return tuple(_tasks_of(pipeline, pipeline["root"], parent=""))


def read_statuses(
    tasks: Sequence[PipelineTask], nodes: Iterable[ApiObject], *, now: datetime.datetime
) -> tuple[TaskStatus, ...]:
    """Return the status of every task.

    Args:
        tasks: The pipeline's tasks.
        nodes: The run's `task_details`.
        now: Current time, with a time zone.
    """
    nodes_by_name: dict[str, list[ApiObject]] = {}
    for node in nodes:
        # Tasks that an earlier failure prevented are listed without a state.
        if node.state is not None:
            nodes_by_name.setdefault(node.display_name or "", []).append(node)
    return tuple(_read_status(task, nodes_by_name, now) for task in tasks)


def _tasks_of(
    pipeline: PipelineSpec, component: dict[str, Any], *, parent: str
) -> Iterator[PipelineTask]:
    tasks = component["dag"]["tasks"]
    for key in _topological_order(tasks):
        inner = pipeline["components"][tasks[key]["componentRef"]["name"]]
        if "dag" in inner:
            yield from _tasks_of(pipeline, inner, parent=key)
        else:
            title = tasks[key].get("taskInfo", {}).get("name") or key
            yield PipelineTask(key=key, title=title, parent=parent)


def _topological_order(tasks: dict[str, Any]) -> list[str]:
    """Return the task names, dependencies first, otherwise in alphabetical order."""
    ordered: list[str] = []
    while len(ordered) < len(tasks):
        ready = [
            name
            for name in sorted(tasks)
            if name not in ordered and set(tasks[name].get("dependentTasks", ())) <= set(ordered)
        ]
        ordered += ready or sorted(set(tasks) - set(ordered))
    return ordered


def _read_status(
    task: PipelineTask, nodes_by_name: dict[str, list[ApiObject]], now: datetime.datetime
) -> TaskStatus:
    nodes = nodes_by_name.get(task.key, [])
    drivers = nodes_by_name.get(f"{task.key}-driver", [])
    parents = nodes_by_name.get(task.parent, []) if task.parent else []
    is_skipped = (
        not nodes and bool(parents) and all(parent.state == "SKIPPED" for parent in parents)
    )
    return TaskStatus(
        task=task,
        state=SKIPPED if is_skipped else _combined_state(nodes, drivers),
        num_done=sum(node.state == "SUCCEEDED" for node in nodes),
        num_pods=max(len(nodes), len(drivers)),
        seconds=_duration_seconds([*drivers, *nodes], now),
    )


def _combined_state(nodes: list[ApiObject], drivers: list[ApiObject]) -> str:
    states = [node.state for node in (*nodes, *drivers)]
    if "FAILED" in states or "CANCELED" in states:
        return FAILED
    if not states:
        return WAITING
    if not nodes:
        return STARTING
    if all(node.state == "SKIPPED" for node in nodes):
        return SKIPPED
    is_active = any(node.state in _ACTIVE_NODE_STATES for node in nodes)
    return RUNNING if is_active or len(nodes) < len(drivers) else DONE


def _duration_seconds(nodes: list[ApiObject], now: datetime.datetime) -> float:
    started = [node for node in nodes if _is_set(node.start_time)]
    if not started:
        return 0.0
    first_start = min(node.start_time for node in started)
    last_end = max(node.end_time if _is_set(node.end_time) else now for node in started)
    return max(float((last_end - first_start).total_seconds()), 0.0)


def _is_set(time: datetime.datetime | None) -> bool:
    return time is not None and time.year >= _FIRST_REAL_YEAR
