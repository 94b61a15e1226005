"""What the gate said in a run: promoted or not from the states of the tasks, the reasons from the gate's log.

A server tells nobody the outputs of a task. That `promote` ran is seen from outside; whether a run that was not
promoted was rejected or unchanged is only in what the gate's pod logged, and that can be gone.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from repot_pipelines.kfp_server.server import Server
from repot_pipelines.watch.pod_log import read_log, task_pods
from repot_pipelines.watch.tasks import DONE, TaskState

PROMOTED, REJECTED, UNCHANGED, UNKNOWN = "promote", "reject", "unchanged", "unknown"
GATE, PROMOTION = "gate", "promote"

_RESULT = re.compile(r"result: (\{.*\})\s*$")


@dataclass(frozen=True, kw_only=True, slots=True)
class GateVerdict:
    """What the gate said.

    Attributes:
        verdict: promote, reject, unchanged, or "unknown" where no gate ran or its log is gone.
        headline: The scores in one line; "" where the log is gone.
        reasons: Plain sentences.
        report_uri: The report; "" where the log is gone.
        facts: The whole of the gate's verdict as JSON, with its numbers; empty where the log is gone.
    """

    verdict: str
    headline: str = ""
    reasons: tuple[str, ...] = ()
    report_uri: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def said_no(self) -> bool:
        """Return whether the new version is not in production and the gate is not known to have been content."""
        return self.verdict in (REJECTED, UNKNOWN)


def read_verdict(
    server: Server, run_id: str, states: Sequence[TaskState], nodes: Sequence[Any]
) -> GateVerdict | None:
    """Return what the gate of a finished run said; None where the pipeline has no gate.

    Args:
        server: The server.
        run_id: The run.
        states: The tasks' states at its end.
        nodes: The `task_details` that they were read from.
    """
    ended = {state.step.key: state.state for state in states}
    if GATE not in ended:
        return None
    facts = _logged_results(server, run_id, nodes)
    told = facts.get("verdict") or {}
    was_promoted = ended.get(PROMOTION) == DONE
    return GateVerdict(
        verdict=PROMOTED if was_promoted else told.get("verdict", UNKNOWN),
        headline=told.get("headline", ""),
        reasons=tuple(told.get("reasons", ())),
        report_uri=facts.get("report_uri", ""),
        facts=told,
    )


def _logged_results(server: Server, run_id: str, nodes: Sequence[Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for pod in task_pods(GATE, nodes):
        for line in read_log(server, run_id, pod).splitlines():
            match = _RESULT.search(line)
            if match is not None:
                try:
                    facts.update(json.loads(match[1]))
                except ValueError:
                    continue
    return facts
