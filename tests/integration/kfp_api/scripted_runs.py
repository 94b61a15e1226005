"""Runs that advance by one scripted stage for each request for their state."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.integration.kfp_api.server import API, KfpApi
from tests.integration.kfp_api.workflow import Progress

_BEFORE_TRAINING = ("plan", "build-shards", "build-shards-2", "fetch-checkpoint")
FINISHED = dict.fromkeys((*_BEFORE_TRAINING, "train", "evaluate"), "Succeeded")
UNCHANGED = {
    "plan": "Succeeded",
    "build-shards": "Skipped",
    "fetch-checkpoint": "Skipped",
    "evaluate-2": "Succeeded",
}
"""A run whose training is finished already; tasks that depend on skipped ones have no nodes."""
TRAINING = {**dict.fromkeys(_BEFORE_TRAINING, "Succeeded"), "train": "Running"}


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        state: State of the run.
        phases: Phases of its tasks.
        logs: Logs of pods as (path, text), with paths such as root.train.executor.
        messages: What Argo says about the pods of a task, by the task's name.
    """

    state: str
    phases: dict[str, str]
    logs: tuple[tuple[str, str], ...] = ()
    messages: Mapping[str, str] = field(default_factory=dict)


def script_runs(api: KfpApi, stages: Sequence[Stage]) -> None:
    """Let every run go through these stages, one per request for it; the last one stays."""
    num_requests: dict[str, int] = {}

    def advance(_: int, method: str, path: str) -> None:
        run_id = path.removeprefix(f"{API}/runs/")
        if method == "GET" and run_id in api.store.runs:
            index = num_requests.get(run_id, 0)
            num_requests[run_id] = index + 1
            if index < len(stages):
                _enter(api, run_id, stages[index])

    api.before = advance


def gate_log(
    decision: str, *, task: str = "evaluate", **fields: Any
) -> tuple[tuple[str, str], ...]:
    """Return the logs of a stage in which the gate has decided.

    Args:
        decision: The gate's decision.
        task: The task that contains the gate.
        **fields: Other fields of its verdict.
    """
    result = json.dumps(
        {
            "verdict": {"decision": decision, "reasons": ["Because."], **fields},
            "headline": f"{decision.capitalize()}: 0.91 on 40 pictures",
            "report_uri": "gs://repot/here/runs/1/gate/none/report.html",
        }
    )
    prefix = "[KFP Executor 2026-03-01 INFO]"
    log = f"I0301 launcher\n{prefix}: gate: started\n{prefix}: result: {result}\n"
    return ((f"root.{task}.executor", log),)


def _enter(api: KfpApi, run_id: str, stage: Stage) -> None:
    progress = Progress(stage.phases, messages=stage.messages)
    api.store.set_run(run_id, stage.state, progress)
    for path, text in stage.logs:
        api.store.set_log(run_id, path, text, progress)
