"""Result of a run's gate, from the log of its pod or from the storage.

The KFP API does not return the outputs of a task. The gate's log has its verdict, but may be gone;
then the champion's history in the storage shows whether the run has promoted its model.
"""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from repot import layout, storage
from repot.errors import RepotError
from repot.evaluator.verdict import Verdict
from repot.json_record import RecordError, read_record
from repot.layout import REPORT_NAME
from repot.model_registry import read_champion
from repot.settings import CLUSTER_DEFAULT, PARAMETERS
from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.watch.pod_logs import read_pod_log
from repot_pipelines.watch.pod_names import task_pods
from repot_pipelines.watch.tasks import TaskStatus

PROMOTED, REJECTED, UNDECIDED = "promote", "reject", "undecided"
UNCHANGED, UNKNOWN = "unchanged", "unknown"
_GATE_TASKS = ("evaluate", "evaluate-2")
"""The tasks that contain a gate; one of them runs."""

_HEADLINES = {
    PROMOTED: "Promoted.",
    REJECTED: "Not promoted.",
    UNDECIDED: "Undecided: the pictures do not show which model is better; the champion stays.",
    UNCHANGED: "Unchanged: the model is the champion already.",
    UNKNOWN: "The verdict is unknown: the gate's log is gone, or the server does not return logs. "
    "See the report of Evaluate and gate in the UI.",
}
"""Printed if the gate's own headline cannot be read."""

_log = logging.getLogger(__name__)

_RESULT_LINE = re.compile(r"result: (\{.*\})\s*$")
"""What `repot.progress.result` logs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """What the gate of a run decided.

    Attributes:
        verdict: PROMOTED, REJECTED, UNDECIDED, UNCHANGED, or UNKNOWN if no gate ran or its log is
            gone and the storage does not show that the run has promoted its model.
        headline: The verdict in one sentence; "" if the log is gone.
        reasons: The gate's reasons, one sentence each.
        report_uri: URI of the gate's report; "" if the log is gone.
        record: The gate's full verdict; None if the log is gone or another version of repot with
            other fields wrote it.
    """

    verdict: str
    headline: str = ""
    reasons: tuple[str, ...] = ()
    report_uri: str = ""
    record: Verdict | None = None


def read_gate_result(
    server: Server,
    run: ApiObject,
    statuses: Sequence[TaskStatus],
    nodes: Sequence[ApiObject],
) -> GateResult | None:
    """Return the gate's result of a finished run; None if the pipeline has no gate.

    Args:
        server: The server.
        run: The run.
        statuses: Final statuses of the tasks.
        nodes: The run's `task_details`.
    """
    if not any(status.task.key in _GATE_TASKS for status in statuses):
        return None
    logged = _read_logged_result(server, run.run_id, nodes)
    verdict = logged.get("verdict")
    if not verdict:
        return _find_promotion(run) or GateResult(verdict=UNKNOWN)
    return GateResult(
        verdict=verdict.get("decision", UNKNOWN),
        headline=logged.get("headline", ""),
        reasons=tuple(verdict.get("reasons", ())),
        report_uri=logged.get("report_uri", ""),
        record=_parse_record(verdict),
    )


def print_gate_result(console: Console, result: GateResult) -> None:
    """Print headline, reasons and the report's URI."""
    lines = [result.headline or _HEADLINES.get(result.verdict, result.verdict)]
    lines += [f"  {reason}" for reason in result.reasons]
    if result.report_uri:
        lines.append(f"report  {result.report_uri}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _find_promotion(run: ApiObject) -> GateResult | None:
    """Return the result of a run that is in the champion's history; None if it is not to be seen.

    A user may follow runs without access to their storage.
    """
    parameters = (run.runtime_config and run.runtime_config.parameters) or {}
    storage_uri = str(parameters.get("storage_uri", ""))
    model_name = str(parameters.get("model_name", PARAMETERS["model_name"].default))
    if storage_uri in ("", CLUSTER_DEFAULT):
        return None
    try:
        champion = read_champion(layout.champion_uri(storage_uri, model_name)).champion
        for change in champion.history if champion else ():
            if change.run_id == run.run_id:
                verdict_uri = storage.join(storage_uri, change.verdict)
                verdict = read_record(verdict_uri, Verdict)
                return GateResult(
                    verdict=verdict.decision,
                    headline=verdict.headline,
                    reasons=verdict.reasons,
                    report_uri=storage.join(verdict_uri.rpartition("/")[0], REPORT_NAME),
                    record=verdict,
                )
    except RepotError as err:
        _log.info("the storage of run %s cannot be read: %s", run.run_id, err)
    return None


def _parse_record(verdict: object) -> Verdict | None:
    try:
        return Verdict.from_json(verdict)
    except RecordError:
        return None


def _read_logged_result(server: Server, run_id: str, nodes: Sequence[ApiObject]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for pod in (pod for key in _GATE_TASKS for pod in task_pods(key, nodes)):
        for line in read_pod_log(server, run_id, pod).splitlines():
            match = _RESULT_LINE.search(line)
            if match is not None:
                try:
                    result.update(json.loads(match[1]))
                except ValueError:
                    continue
    return result
