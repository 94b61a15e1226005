"""Follow a run to its end: the state of its tasks as it changes, why one failed, what the gate said."""

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from repot_pipelines.compiled import find_compiled
from repot_pipelines.kfp_server.errors import (
    MissingError,
    RefusedError,
    ServerError,
    UnreachableError,
)
from repot_pipelines.kfp_server.runs import CANCELED, FINAL_STATES, SUCCEEDED, get_run, read_spec
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.parameters import read_pipeline
from repot_pipelines.watch.gate_result import GateVerdict, read_verdict
from repot_pipelines.watch.pod_log import LogStream, failed_pods, last_words, read_log
from repot_pipelines.watch.task_view import TaskView
from repot_pipelines.watch.tasks import FAILED, STOPPED, Step, TaskState, read_states, read_steps

POLL_SECONDS = 5.0
PATIENCE_SECONDS = 300.0
"""A server that does not answer for this long is given up on; the run goes on."""

_KILLED = "It was killed, most likely for lack of memory: raise trainer_memory, builder_memory or evaluator_memory."
_STOPPING = (CANCELED, "CANCELING")


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One failed task.

    Attributes:
        title: Its name for people.
        words: The end of its pod's log; "" where that is gone.
    """

    title: str
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEnd:
    """How a run ended.

    Attributes:
        run_id: The run.
        state: SUCCEEDED, FAILED, CANCELED (somebody terminated it) or SKIPPED.
        failures: The tasks that failed.
        verdict: What the gate said; None where the run did not succeed, or its pipeline has no gate.
    """

    run_id: str
    state: str
    failures: tuple[Failure, ...]
    verdict: GateVerdict | None


def follow(
    server: Server,
    run_id: str,
    view: TaskView,
    *,
    poll_seconds: float = POLL_SECONDS,
    show_logs: bool = False,
) -> RunEnd:
    """Return how a run ended, once it has.

    Args:
        server: The server.
        run_id: The run.
        view: Draws the tasks meanwhile.
        poll_seconds: Time between two questions.
        show_logs: Whether the view also shows what the pods log.

    Raises:
        MissingError: There is no such run, or somebody deleted it meanwhile.
        ServerError: The server did not answer for PATIENCE_SECONDS, or does not take the credentials any more.
    """
    run = get_run(server, run_id)
    steps = _steps(server, run)
    stream = LogStream(server, run_id)
    while True:
        nodes = _nodes(run)
        states = read_states(steps, nodes, now=datetime.datetime.now(datetime.UTC))
        if _was_stopped(run):
            states = tuple(
                replace(state, state=STOPPED) if state.state == FAILED else state
                for state in states
            )
        view.show(states)
        if show_logs:
            for line in stream.new_lines(states, nodes):
                view.say(line)
        if run.state in FINAL_STATES:
            return _read_end(server, run, states, nodes)
        time.sleep(poll_seconds)
        run = _ask_again(server, run_id, view, poll_seconds)


def _steps(server: Server, run: Any) -> tuple[Step, ...]:
    try:
        return read_steps(read_spec(server, run))
    except MissingError:  # somebody deleted the version that the run was started from
        return read_steps(read_pipeline(find_compiled()))


def _ask_again(server: Server, run_id: str, view: TaskView, poll_seconds: float) -> Any:
    """Read a run that was there a moment ago; a server that restarts is waited for."""
    silent_since = time.monotonic()
    while True:
        try:
            return get_run(server, run_id)
        except MissingError as err:
            raise MissingError(f"The run {run_id} was deleted while it was followed.") from err
        except RefusedError as err:
            raise RefusedError(f"{err} {_goes_on(run_id)}") from err
        except UnreachableError as err:
            if time.monotonic() - silent_since > PATIENCE_SECONDS:
                raise ServerError(f"{err} {_goes_on(run_id)}") from err
            view.say(f"{err} Trying again.")
        time.sleep(poll_seconds)


def _goes_on(run_id: str) -> str:
    return f"The run itself goes on; follow it again with `repot submit --attach {run_id}`."


def _read_end(
    server: Server, run: Any, states: Sequence[TaskState], nodes: Sequence[Any]
) -> RunEnd:
    failures = [
        Failure(title=state.step.title, words=_why(server, run.run_id, state, nodes))
        for state in states
        if state.state == FAILED
    ]
    return RunEnd(
        run_id=run.run_id,
        # Argo ends a terminated workflow as failed; the history knows better.
        state=CANCELED if run.state != SUCCEEDED and _was_stopped(run) else run.state,
        failures=tuple(failures),
        verdict=read_verdict(server, run.run_id, states, nodes) if run.state == SUCCEEDED else None,
    )


def _was_stopped(run: Any) -> bool:
    return run.state == CANCELED or any(
        status.state in _STOPPING for status in run.state_history or ()
    )


def _why(server: Server, run_id: str, state: TaskState, nodes: Sequence[Any]) -> str:
    for pod in failed_pods(state.step.key, nodes):
        words = last_words(read_log(server, run_id, pod))
        if words:
            return f"{words}\n{_KILLED}" if words.endswith("Killed") else words
    return ""


def _nodes(run: Any) -> list[Any]:
    return list((run.run_details and run.run_details.task_details) or ())
