"""Result of a run's gate, from the states of its tasks and the log of the gate's pod.

The KFP API does not return the outputs of a task. The state of the `promote` task shows whether the
model was promoted; whether it was rejected or unchanged is only in the gate's log, which may be
gone.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from repot.evaluator.verdict import Verdict
from repot.json_record import RecordError
from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.watch.pod_logs import read_pod_log
from repot_pipelines.watch.pod_names import task_pods
from repot_pipelines.watch.tasks import DONE, TaskStatus

PROMOTED, REJECTED, UNCHANGED, UNKNOWN = "promote", "reject", "unchanged", "unknown"
_GATE_TASK, _PROMOTE_TASK = "gate", "promote"

_HEADLINES = {
    PROMOTED: "Promoted.",
    REJECTED: "Not promoted.",
    UNCHANGED: "Unchanged: the model is the champion already.",
    UNKNOWN: "Not promoted, reason unknown: the gate's log is gone, or the server does not return "
    "logs. See the gate's report in the UI.",
}
"""Printed if the gate's own headline cannot be read."""

_RESULT_LINE = re.compile(r"result: (\{.*\})\s*$")
"""What `repot.progress.result` logs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """What the gate of a run decided.

    Attributes:
        verdict: PROMOTED, REJECTED, UNCHANGED, or UNKNOWN if no gate ran or its log is gone.
        headline: The scores in one line; "" if the log is gone.
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

    @property
    def is_rejected(self) -> bool:
        """Return whether the model was not promoted, unless it is known to be unchanged."""
        return self.verdict in (REJECTED, UNKNOWN)


def read_gate_result(
    server: Server,
    run_id: str,
    statuses: Sequence[TaskStatus],
    nodes: Sequence[ApiObject],
) -> GateResult | None:
    """Return the gate's result of a finished run; None if the pipeline has no gate.

    Args:
        server: The server.
        run_id: Id of the run.
        statuses: Final statuses of the tasks.
        nodes: The run's `task_details`.
    """
    states = {status.task.key: status.state for status in statuses}
    if _GATE_TASK not in states:
        return None
    logged = _read_logged_result(server, run_id, nodes)
    verdict = logged.get("verdict") or {}
    was_promoted = states.get(_PROMOTE_TASK) == DONE
    return GateResult(
        verdict=PROMOTED if was_promoted else verdict.get("decision", UNKNOWN),
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


def _parse_record(verdict: object) -> Verdict | None:
    try:
        return Verdict.from_json(verdict)
    except RecordError:
        return None


def _read_logged_result(server: Server, run_id: str, nodes: Sequence[ApiObject]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for pod in task_pods(_GATE_TASK, nodes):
        for line in read_pod_log(server, run_id, pod).splitlines():
            match = _RESULT_LINE.search(line)
            if match is not None:
                try:
                    result.update(json.loads(match[1]))
                except ValueError:
                    continue
    return result
