"""The tasks of a run as a person knows them, from the nodes that the server lists.

A server lists the nodes of the Argo workflow, flat and unordered: for a task `train` there are `train-driver` (which
looks into the cache), `train` and an `executor` (the pod); a task in a loop has them once for each item. A task
whose condition was false is SKIPPED. Where Argo retries, `train(0)` and `executor(0)` stand below.
Source: backend/src/v2/compiler/argocompiler of KFP 2.14 to 2.17.
"""

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

WAITING, STARTING, RUNNING, DONE, SKIPPED = "waiting", "starting", "running", "done", "skipped"
FAILED, STOPPED = "failed", "stopped"

_ACTIVE = ("PENDING", "RUNNING", "PAUSED", "CANCELING")
_FIRST_YEAR = 2000
"""A time that was never set comes as year 1 or 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One task of a pipeline, as the compiled YAML has it.

    Attributes:
        key: Its name in the YAML.
        title: Its name for people.
        branch: Key of the loop or condition that it is in; "" for a task at the top.
    """

    key: str
    title: str
    branch: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskState:
    """How far one task is.

    Attributes:
        step: The task.
        state: waiting, starting, running, done, skipped, failed, or stopped with the whole run.
        num_done, num_all: Of its pods; in a loop there are several.
        seconds: From its first start to its last end, or to now.
    """

    step: Step
    state: str
    num_done: int
    num_all: int
    seconds: float

    @property
    def amount(self) -> str:
        """Return how many of a loop's pods are done, e.g. "3/8"; "" for a task with one pod."""
        return f"{self.num_done}/{self.num_all}" if self.num_all > 1 else ""


def read_steps(pipeline: dict[str, Any]) -> tuple[Step, ...]:
    """Return the tasks of a pipeline spec in the order in which they run, loops and conditions opened."""
    return tuple(_steps(pipeline, pipeline["root"], branch=""))


def read_states(
    steps: Sequence[Step], nodes: Iterable[Any], *, now: datetime.datetime
) -> tuple[TaskState, ...]:
    """Return the state of every task.

    Args:
        steps: What `read_steps` returned.
        nodes: The `task_details` of the server's run.
        now: The time, with a time zone.
    """
    by_name: dict[str, list[Any]] = {}
    for node in nodes:
        # What an earlier failure leaves out is listed too, without a state.
        if node.state is not None:
            by_name.setdefault(node.display_name or "", []).append(node)
    return tuple(_read_state(step, by_name, now) for step in steps)


def _steps(pipeline: dict[str, Any], component: dict[str, Any], *, branch: str) -> Iterable[Step]:
    tasks = component["dag"]["tasks"]
    for key in _in_order(tasks):
        inner = pipeline["components"][tasks[key]["componentRef"]["name"]]
        if "dag" in inner:
            yield from _steps(pipeline, inner, branch=key)
        else:
            yield Step(
                key=key, title=tasks[key].get("taskInfo", {}).get("name") or key, branch=branch
            )


def _in_order(tasks: dict[str, Any]) -> list[str]:
    """Return the names so that each comes after those that it depends on, and alphabetically otherwise."""
    ordered: list[str] = []
    while len(ordered) < len(tasks):
        ready = [
            name
            for name in sorted(tasks)
            if name not in ordered and set(tasks[name].get("dependentTasks", ())) <= set(ordered)
        ]
        ordered += ready or sorted(set(tasks) - set(ordered))
    return ordered


def _read_state(step: Step, by_name: dict[str, list[Any]], now: datetime.datetime) -> TaskState:
    nodes, drivers = by_name.get(step.key, []), by_name.get(f"{step.key}-driver", [])
    branches = by_name.get(step.branch, []) if step.branch else []
    is_skipped = (
        not nodes and bool(branches) and all(branch.state == "SKIPPED" for branch in branches)
    )
    return TaskState(
        step=step,
        state=SKIPPED if is_skipped else _join(nodes, drivers),
        num_done=sum(node.state == "SUCCEEDED" for node in nodes),
        num_all=max(len(nodes), len(drivers)),
        seconds=_seconds([*drivers, *nodes], now),
    )


def _join(nodes: list[Any], drivers: list[Any]) -> str:
    states = [node.state for node in (*nodes, *drivers)]
    if "FAILED" in states or "CANCELED" in states:
        return FAILED
    if not states:
        return WAITING
    if not nodes:
        return STARTING
    if all(node.state == "SKIPPED" for node in nodes):
        return SKIPPED
    return (
        RUNNING
        if len(nodes) < len(drivers) or any(node.state in _ACTIVE for node in nodes)
        else DONE
    )


def _seconds(nodes: list[Any], now: datetime.datetime) -> float:
    starts = [node.start_time for node in nodes if _is_set(node.start_time)]
    if not starts:
        return 0.0
    ends = [
        node.end_time if _is_set(node.end_time) else now
        for node in nodes
        if _is_set(node.start_time)
    ]
    return max(float((max(ends) - min(starts)).total_seconds()), 0.0)


def _is_set(time: datetime.datetime | None) -> bool:
    return time is not None and time.year >= _FIRST_YEAR
