"""How long the pods of a run take one after another, computed from the compiled pipeline.

KFP runs a driver pod before every task, and two more for a loop; one starts the whole run. Argo
looks at a workflow again DEFAULT_REQUEUE_TIME (10 s) after something happened to one of its pods:
a pod that ends sooner takes those 10 s, and one that runs longer takes 10 s more.

Sources: backend/src/v2/compiler/argocompiler/dag.go of KFP 2.17 and
workflow/controller/rate_limiters.go of Argo 4.0.5. The seconds of the pods are those of a run that
was recorded with KFP 2.17 on one node with the images present, see tests/unit/watch.
"""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from repot.planner.finished import ALL_STEPS, GATE_ONLY
from repot_pipelines.compiled import find_compiled, read_pipeline

PIPELINE = read_pipeline(find_compiled())
RECORDED = Path(__file__).parent.parent / "watch" / "recorded_runs" / "success.json"
DRIVER_SECONDS = 4.0
NOTICE_SECONDS = 1.5
"""Argo hears of the end of a pod this much later."""
# Of the sample, as recorded, with one builder. The gate, without TensorFlow, took 5 s.
POD_SECONDS = {
    "plan": 6.0,
    "build-shards": 5.0,
    "build-shards-2": 5.0,
    "merge": 6.0,
    "fetch-checkpoint": 9.0,
    "train": 16.0,
    "evaluate": 14.0,
    "evaluate-2": 6.0,
    "gate": 6.0,
    "promote": 6.0,
}
NO_ITEMS = 0


def task(*after: str, condition: str = "") -> dict[str, Any]:
    trigger = {"triggerPolicy": {"condition": f"x == '{condition}'"}} if condition else {}
    return {"dependentTasks": list(after), **trigger}


def loop_around(component: str) -> dict[str, Any]:
    return {"dag": {"tasks": {component: task()}}}


FORMER_PIPELINE: dict[str, Any] = {
    "root": {
        "dag": {
            "tasks": {
                "plan": task(),
                "for-loop-1": {**task("plan"), "parameterIterator": {}},
                "merge": task("for-loop-1"),
                "fetch-checkpoint": task("plan"),
                "train": task("merge", "fetch-checkpoint"),
                "evaluate": task("train"),
                "gate": task("evaluate"),
                "condition-2": task("gate", condition="promote"),
            }
        }
    },
    "components": {
        "comp-for-loop-1": loop_around("build-shards"),
        "comp-condition-2": loop_around("promote"),
    },
}
"""The graph of the recorded run."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a pipeline.

    Attributes:
        values: What the conditions of this run compare with: those that are true.
        num_items: Number of items of every loop.
        cached: Tasks that end with their driver.
    """

    values: tuple[str, ...]
    num_items: int = 1
    cached: frozenset[str] = frozenset()


def longest_path(pipeline: Mapping[str, Any], run: Run, requeue_seconds: float) -> list[str]:
    """Return the pods on the longest path through a run, by the seconds that they take."""
    return ["root-driver", *_through(pipeline, pipeline["root"], run, requeue_seconds)]


def seconds(path: list[str], requeue_seconds: float) -> float:
    """Return how long the pods of a path take one after another."""
    return sum(_pod_seconds(pod, requeue_seconds) for pod in path)


def _through(
    pipeline: Mapping[str, Any], component: Mapping[str, Any], run: Run, requeue: float
) -> list[str]:
    tasks = component["dag"]["tasks"]
    ends: dict[str, list[str]] = {}
    omitted: set[str] = set()
    while len(ends) + len(omitted) < len(tasks):
        for key, each in tasks.items():
            before = each.get("dependentTasks", [])
            if key in ends or key in omitted or not set(before) <= ends.keys() | omitted:
                continue
            if omitted & set(before):
                omitted.add(key)
                continue
            start = max(
                (ends[name] for name in before), key=lambda path: seconds(path, requeue), default=[]
            )
            pods, is_skipped = _pods_of(pipeline, key, each, run, requeue)
            if is_skipped:
                # Its driver runs, and nothing that depends on it.
                omitted.add(key)
                ends[f"{key} (skipped)"] = [*start, *pods]
                tasks = {**tasks, f"{key} (skipped)": {}}
            else:
                ends[key] = [*start, *pods]
    return max(ends.values(), key=lambda path: seconds(path, requeue))


def _pods_of(
    pipeline: Mapping[str, Any], key: str, each: Mapping[str, Any], run: Run, requeue: float
) -> tuple[list[str], bool]:
    driver = f"{key}-driver"
    condition = each.get("triggerPolicy", {}).get("condition", "")
    if condition and not any(f"== '{value}'" in condition for value in run.values):
        return [driver], True
    inner = pipeline["components"].get(each.get("componentRef", {}).get("name", f"comp-{key}"), {})
    if "parameterIterator" in each and not run.num_items:
        return [driver], False
    if "dag" in inner:
        iteration = ["iteration-driver"] if "parameterIterator" in each else []
        return [driver, *iteration, *_through(pipeline, inner, run, requeue)], False
    return [driver] if key in run.cached else [driver, key], False


def _pod_seconds(pod: str, requeue: float) -> float:
    own = DRIVER_SECONDS if pod.endswith("-driver") else POD_SECONDS[pod]
    return requeue if own + NOTICE_SECONDS < requeue else own + requeue


FORMER_FIRST = Run(values=("promote",))
FORMER_UNCHANGED = Run(
    values=(),
    cached=frozenset({"build-shards", "merge", "fetch-checkpoint", "train", "evaluate"}),
)
FIRST = Run(values=(ALL_STEPS,), num_items=NO_ITEMS)
UNCHANGED = Run(values=(GATE_ONLY,), num_items=NO_ITEMS)


def test_recorded_run_took_what_its_pods_add_up_to() -> None:
    run = json.loads(RECORDED.read_text())
    times = {
        node.get("display_name"): [
            datetime.datetime.fromisoformat(node[name]) for name in ("start_time", "end_time")
        ]
        for node in run["run_details"]["task_details"]
    }
    # The driver of the root waited for its image in this run.
    measured = (times["promote"][1] - times["plan-driver"][0]).total_seconds()

    path = longest_path(FORMER_PIPELINE, FORMER_FIRST, 10)

    assert len(path) == 18
    assert seconds(path[1:], 10) == pytest.approx(measured, rel=0.05)


def test_former_pipeline_had_twelve_sequential_pods_without_changes() -> None:
    path = longest_path(FORMER_PIPELINE, FORMER_UNCHANGED, 10)

    assert len(path) == 12
    # Measured: 121 s.
    assert seconds(path, 10) == pytest.approx(121, rel=0.02)


def test_first_run_has_nine_sequential_pods() -> None:
    path = longest_path(PIPELINE, FIRST, 10)

    assert path == [
        "root-driver",
        "plan-driver",
        "plan",
        "fetch-checkpoint-driver",
        "fetch-checkpoint",
        "train-driver",
        "train",
        "evaluate-driver",
        "evaluate",
    ]
    assert seconds(path, 10) <= 130
    assert seconds(longest_path(PIPELINE, FIRST, 1), 1) <= 90


def test_unchanged_run_has_five_sequential_pods_whatever_is_cached() -> None:
    path = longest_path(PIPELINE, UNCHANGED, 10)

    assert path == ["root-driver", "plan-driver", "plan", "evaluate-2-driver", "evaluate-2"]
    assert seconds(path, 10) <= 60
    assert seconds(longest_path(PIPELINE, UNCHANGED, 1), 1) <= 35


def test_loop_costs_a_large_dataset_two_more_pods() -> None:
    many = Run(values=(ALL_STEPS,), num_items=7)

    assert len(longest_path(PIPELINE, many, 10)) == 11
