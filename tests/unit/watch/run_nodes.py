"""Workflow nodes of runs of repot's pipeline, as kfp.Client returns them."""

import datetime
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from repot_pipelines.compiled import find_compiled, read_pipeline
from tests.integration.kfp_api.workflow import Node, Progress, make_nodes, task_details

PIPELINE = read_pipeline(find_compiled())
WORKFLOW = "repot-finetune-abcde"

_RECORDED_RUNS = Path(__file__).parent / "recorded_runs"
"""Answers of KFP 2.17.0 with Argo 4, with their real times and ids."""


def recorded_nodes(name: str) -> list[Any]:
    """Return the nodes of a recorded run."""
    unset = "0001-01-01T00:00:00Z"
    run = json.loads((_RECORDED_RUNS / f"{name}.json").read_text())
    defaults: dict[str, Any] = {
        "display_name": None,
        "state": None,
        "start_time": unset,
        "end_time": unset,
        "child_tasks": [],
    }
    return as_objects([{**defaults, **row} for row in run["run_details"]["task_details"]])


def simulated_nodes(
    phases: dict[str, str], *, num_items: int = 3, is_retried: bool = True
) -> tuple[list[Any], list[Node]]:
    """Return the nodes of a run with these task phases, as the client has them and as Argo does."""
    progress = Progress(phases, num_items=num_items, is_retried=is_retried)
    nodes = make_nodes(PIPELINE, WORKFLOW, progress)
    return as_objects(task_details(nodes, WORKFLOW)), nodes


def as_objects(rows: list[dict[str, Any]]) -> list[Any]:
    """Return the server's JSON rows as the client's objects."""
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
