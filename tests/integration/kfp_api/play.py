"""Lets a run of repot's pipeline get on, one stage for each look at it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.integration.kfp_api.server import API, KfpApi
from tests.integration.kfp_api.workflow import Progress

_BEFORE_TRAINING = ("plan", "build-shards", "merge", "fetch-checkpoint")
_TASKS = (*_BEFORE_TRAINING, "train", "evaluate", "gate", "promote")
PROMOTED = dict.fromkeys(_TASKS, "Succeeded")
NOT_PROMOTED = {**PROMOTED, "promote": "Skipped"}
TRAINING = {**dict.fromkeys(_BEFORE_TRAINING, "Succeeded"), "train": "Running"}


@dataclass(frozen=True)
class Stage:
    """What one look at the run finds.

    Attributes:
        state: The run's state.
        phases: The phases of its tasks.
        logs: What the pods at these paths, e.g. root.train.executor, have logged.
    """

    state: str
    phases: dict[str, str]
    logs: tuple[tuple[str, str], ...] = ()


def play(api: KfpApi, stages: Sequence[Stage]) -> None:
    """Let every run go through these stages, the first at the first look; the last one stays."""
    num_looks: dict[str, int] = {}

    def before(_: int, method: str, path: str) -> None:
        run_id = path.removeprefix(f"{API}/runs/")
        if method == "GET" and run_id in api.store.runs:
            index = num_looks.get(run_id, 0)
            num_looks[run_id] = index + 1
            if index < len(stages):
                _enter(api, run_id, stages[index])

    api.before = before


def gate_log(verdict: str, **facts: Any) -> tuple[tuple[str, str], ...]:
    """Return what the gate's pod logs."""
    result = json.dumps(
        {
            "verdict": {"decision": verdict, "reasons": ["Because."], **facts},
            "headline": f"{verdict.capitalize()}: 0.91 on 40 pictures",
            "report_uri": "gs://repot/here/runs/1/gate/none/report.html",
        }
    )
    prefix = "[KFP Executor 2026-03-01 INFO]"
    return (
        (
            "root.gate.executor",
            f"I0301 launcher\n{prefix}: gate: started\n{prefix}: result: {result}\n",
        ),
    )


def _enter(api: KfpApi, run_id: str, stage: Stage) -> None:
    progress = Progress(stage.phases)
    api.store.set_run(run_id, stage.state, progress)
    for path, text in stage.logs:
        api.store.set_log(run_id, path, text, progress)
