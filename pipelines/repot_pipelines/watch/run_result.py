"""Result of a finished run: its failed tasks with the ends of their logs, or the gate's verdict."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from repot.errors import EXIT_FAILED
from repot.evaluator.verdict import exit_code_of
from repot.progress import find_failure
from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.errors import ServerError
from repot_pipelines.kfp_server.runs import (
    CANCELED,
    CANCELING,
    SUCCEEDED,
    WorkflowPod,
    list_workflow_pods,
)
from repot_pipelines.kfp_server.runs import FAILED as FAILED_RUN
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.task_logs import log_tail
from repot_pipelines.watch.gate_result import GateResult, print_gate_result, read_gate_result
from repot_pipelines.watch.pod_logs import read_pod_log
from repot_pipelines.watch.pod_names import failed_pods
from repot_pipelines.watch.tasks import FAILED, TaskStatus

_KILLED_ADVICE = (
    "The process was killed, most likely for lack of memory: "
    "raise trainer_memory, builder_memory or evaluator_memory."
)
_ATTEMPT = re.compile(r"\(\d+\)")
_KILLED_MESSAGE = re.compile(r"OOMKilled|exit code 137")
# `inferFailedReason` in workflow/controller/operator.go of Argo: how the container ended, and its
# termination message, in which a task of repot gives its reason.
_ARGO_MESSAGE = re.compile(r"main: (?P<how>\w+ \(exit code \d+\))(?:: (?P<reason>.*))?", re.DOTALL)

_LOST_CACHE = re.compile(r"cachedMLMDExecutionID|MLMDOutputArtifactsByName|from cache: ")
"""In the log of KFP's driver: backend/src/v2/driver/cache.go of KFP 2.14 to 2.17."""
_LOST_CACHE_ADVICE = (
    "KFP's metadata store has lost the result that KFP's cache has for this task. "
    "Start the run again with --no-cache."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFailure:
    """One failed task.

    Attributes:
        title: Display name of the task.
        log_tail: The reason that the task reported, or else the last lines of its pod's log and
            what Argo says; "" if nothing is known.
    """

    title: str
    log_tail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        run_id: Id of the run.
        state: SUCCEEDED, FAILED, CANCELED (terminated by a user) or SKIPPED.
        failures: The failed tasks.
        gate: Result of the gate; None if the run did not succeed or its pipeline has no gate.
    """

    run_id: str
    state: str
    failures: tuple[TaskFailure, ...]
    gate: GateResult | None

    @property
    def exit_code(self) -> int:
        """Return the exit code of a command that waited for the run."""
        if self.state != SUCCEEDED:
            return EXIT_FAILED
        return exit_code_of(self.gate.verdict if self.gate else None)


def read_run_result(
    server: Server, run: ApiObject, statuses: Sequence[TaskStatus], nodes: Sequence[ApiObject]
) -> RunResult:
    """Return the result of a finished run.

    Args:
        server: The server.
        run: The run in its final state.
        statuses: Final statuses of its tasks.
        nodes: The run's `task_details`.
    """
    is_success = run.state == SUCCEEDED
    state = CANCELED if not is_success and was_terminated(run) else run.state
    workflow_pods = functools.cache(lambda: _failed_workflow_pods(server, run.run_id))
    failures = [
        TaskFailure(
            title=status.task.title,
            log_tail=_failure_reason(server, run.run_id, status, nodes, workflow_pods),
        )
        for status in statuses
        if status.state == FAILED
    ]
    if not failures and state == FAILED_RUN:
        # What KFP itself runs before the tasks, such as the driver of the whole pipeline.
        failures = [
            TaskFailure(
                title=_ATTEMPT.sub("", pod.path.partition(".")[2]),
                log_tail=_pod_reason(server, run.run_id, pod.name, workflow_pods),
            )
            for pod in workflow_pods().values()
        ]
    return RunResult(
        run_id=run.run_id,
        state=state,
        failures=tuple(failures),
        gate=read_gate_result(server, run, statuses, nodes) if is_success else None,
    )


def was_terminated(run: ApiObject) -> bool:
    """Return whether a user terminated the run.

    The final state alone does not show it: Argo reports a terminated workflow as failed.
    """
    return run.state == CANCELED or any(
        entry.state in (CANCELED, CANCELING) for entry in run.state_history or ()
    )


def print_run_result(console: Console, result: RunResult) -> None:
    """Print the gate's verdict of a run that succeeded.

    Raises:
        ServerError: The run did not succeed; the message has the failed tasks and their log tails.
    """
    if result.state != SUCCEEDED:
        raise ServerError(_failure_message(result))
    console.print("The run succeeded.", markup=False, highlight=False, soft_wrap=True)
    if result.gate is not None:
        print_gate_result(console, result.gate)


def _failure_reason(
    server: Server,
    run_id: str,
    status: TaskStatus,
    nodes: Sequence[ApiObject],
    workflow_pods: Callable[[], Mapping[str, WorkflowPod]],
) -> str:
    """Return why a task failed, from the log of its pod and from Argo; "" if neither knows."""
    pods = failed_pods(status.task.key, nodes)
    reasons = (_pod_reason(server, run_id, pod, workflow_pods) for pod in pods)
    return next(filter(None, reasons), "")


def _failed_workflow_pods(server: Server, run_id: str) -> dict[str, WorkflowPod]:
    """Return the pods that failed according to Argo, by name; none if that is not visible."""
    return {
        pod.name: pod
        for pod in list_workflow_pods(server, run_id)
        if pod.phase in ("Failed", "Error")
    }


def _pod_reason(
    server: Server,
    run_id: str,
    pod: str,
    workflow_pods: Callable[[], Mapping[str, WorkflowPod]],
) -> str:
    """Return why a pod failed; "" if neither its log nor Argo shows it."""
    log = read_pod_log(server, run_id, pod)
    if reason := find_failure(log):
        return reason
    tail = log_tail(log)
    message = workflow_pods()[pod].message if pod in workflow_pods() else ""
    argo = _ARGO_MESSAGE.fullmatch(message)
    reason = (argo["reason"] or "" if argo else message).strip()
    lines = [tail, *([reason] if reason not in tail else [])]
    if tail.endswith("Killed") or _KILLED_MESSAGE.search(message):
        lines.append(_KILLED_ADVICE)
    if _LOST_CACHE.search(tail):
        lines.append(_LOST_CACHE_ADVICE)
    return "\n".join(filter(None, lines))


def _failure_message(result: RunResult) -> str:
    if result.state == CANCELED:
        return f"The run {result.run_id} was terminated before its end."
    if not result.failures:
        return (
            f"The run {result.run_id} failed, and the server does not report which task failed. "
            "Check the run in the UI."
        )
    lines = [f"The run {result.run_id} failed."]
    for failure in result.failures:
        no_log = "" if failure.log_tail else " failed; its log is not available here, see the UI."
        lines.append(f"{failure.title}:{no_log}")
        lines += [f"  {line}" for line in failure.log_tail.splitlines()]
    return "\n".join(line.rstrip() for line in lines)
