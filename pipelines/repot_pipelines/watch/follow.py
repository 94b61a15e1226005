"""Follow a run to its end and show the states of its tasks as they change."""

import collections
import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from repot_pipelines import defaults
from repot_pipelines.cluster.client import ClusterClient
from repot_pipelines.compiled import find_compiled, read_pipeline
from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.errors import (
    AccessDeniedError,
    MissingObjectError,
    ServerError,
    UnreachableError,
)
from repot_pipelines.kfp_server.runs import (
    FINAL_STATES,
    SUCCEEDED,
    get_pipeline_spec,
    get_run,
    terminate_run,
)
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.watch.pod_logs import PodLogFollower, ShownLogs
from repot_pipelines.watch.run_result import RunResult, read_run_result, was_terminated
from repot_pipelines.watch.start_watch import StartLimit, StartTimeoutError, StartWatch
from repot_pipelines.watch.task_view import TaskView
from repot_pipelines.watch.tasks import (
    FAILED,
    RUNNING,
    SKIPPED,
    STARTING,
    STOPPED,
    WAITING,
    PipelineTask,
    TaskStatus,
    read_statuses,
    read_tasks,
)
from repot_pipelines.watch.waiting_pods import WaitingPod, WaitingPods

_Answer = TypeVar("_Answer")

UNREACHABLE_TIMEOUT_SECONDS = 300.0
"""Stop following a run after the server has not answered for this long; the run continues."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FollowOptions:
    """How to follow a run.

    Attributes:
        start_limit: How long a pod may wait to start.
        open_cluster: Connects to the Kubernetes API, which knows best why pods wait; None without
            one. Called once, when a pod waits.
        poll_seconds: Interval between two requests for the state of the run.
        logs: Which lines of the pods' logs the view also shows.
    """

    start_limit: StartLimit
    open_cluster: Callable[[], ClusterClient | None]
    poll_seconds: float = defaults.POLL_SECONDS
    logs: ShownLogs = "none"


def follow_run(server: Server, run_id: str, view: TaskView, options: FollowOptions) -> RunResult:
    """Wait for a run to end and return its result.

    Args:
        server: The server.
        run_id: Id of the run.
        view: Shows the tasks in the meantime.
        options: How to follow it.

    Raises:
        MissingObjectError: There is no such run, or it was deleted in the meantime.
        ServerError: The server was unreachable for UNREACHABLE_TIMEOUT_SECONDS, or no longer
            accepts the credentials.
        StartTimeoutError: A pod did not start in time.
    """
    waiter = _ServerWait(run_id=run_id, view=view, poll_seconds=options.poll_seconds)
    try:
        run = waiter.answer(lambda: get_run(server, run_id))
    except MissingObjectError as err:
        raise MissingObjectError(
            f"{err} Check the id, which the UI shows on the run's page, and the server's address."
        ) from err
    tasks = waiter.answer(lambda: _read_tasks(server, run))
    pods = WaitingPods(server, run_id, tasks, options.open_cluster)
    starts = StartWatch(limit=options.start_limit)
    pod_logs = PodLogFollower(server, run_id, options.logs)
    while True:
        nodes = list((run.run_details and run.run_details.task_details) or ())
        statuses = _read_statuses(tasks, run, nodes)
        waiting = pods.find(run, statuses) if run.state not in FINAL_STATES else []
        view.show(_mark_waiting(statuses, waiting))
        for line in pod_logs.new_lines(statuses, nodes):
            view.print_line(line)
        if run.state in FINAL_STATES:
            return read_run_result(server, run, statuses, nodes)
        try:
            for line in _start_lines(starts, waiting, statuses, pods):
                view.print_line(line)
        except StartTimeoutError as err:
            outcome = _end_wait(server, run_id, options.start_limit)
            raise StartTimeoutError(f"{err} {outcome}") from err
        time.sleep(options.poll_seconds)
        try:
            run = waiter.answer(lambda: get_run(server, run_id))
        except MissingObjectError as err:
            message = f"The run {run_id} was deleted while it was followed."
            raise MissingObjectError(message) from err


@dataclass(frozen=True, kw_only=True, slots=True)
class _ServerWait:
    """Waits for a server that restarts while a run is followed.

    Attributes:
        run_id: Id of the run.
        view: Shows that the server does not answer.
        poll_seconds: Interval between two attempts.
    """

    run_id: str
    view: TaskView
    poll_seconds: float

    def answer(self, ask: Callable[[], _Answer]) -> _Answer:
        """Return what the server answers.

        Raises:
            ServerError: The server was unreachable for UNREACHABLE_TIMEOUT_SECONDS, or the request
                failed in another way.
        """
        unreachable_since = time.monotonic()
        while True:
            try:
                return ask()
            except AccessDeniedError as err:
                raise AccessDeniedError(f"{err} {_run_continues(self.run_id)}") from err
            except UnreachableError as err:
                if time.monotonic() - unreachable_since > UNREACHABLE_TIMEOUT_SECONDS:
                    raise ServerError(f"{err} {_run_continues(self.run_id)}") from err
                self.view.print_line(f"{err} Trying again.")
            time.sleep(self.poll_seconds)


def _read_tasks(server: Server, run: ApiObject) -> tuple[PipelineTask, ...]:
    try:
        return read_tasks(get_pipeline_spec(server, run))
    except (MissingObjectError, AccessDeniedError):
        # The version was deleted, or belongs to others: the pipeline of this installation must do.
        return read_tasks(read_pipeline(find_compiled()))


def _read_statuses(
    tasks: Sequence[PipelineTask], run: ApiObject, nodes: Sequence[ApiObject]
) -> tuple[TaskStatus, ...]:
    statuses = read_statuses(tasks, nodes, now=datetime.datetime.now(datetime.UTC))
    if run.state == SUCCEEDED:
        # Tasks that depend on a skipped one are listed without a state.
        return tuple(
            replace(status, state=SKIPPED) if status.state == WAITING else status
            for status in statuses
        )
    if not was_terminated(run):
        return statuses
    # Argo reports the tasks of a terminated workflow as failed.
    return tuple(
        replace(status, state=STOPPED) if status.state == FAILED else status for status in statuses
    )


def _mark_waiting(
    statuses: Sequence[TaskStatus], waiting: Sequence[WaitingPod]
) -> tuple[TaskStatus, ...]:
    """Return the statuses with STARTING for tasks of which no pod has started yet."""
    num_waiting = collections.Counter(pod.title for pod in waiting)
    return tuple(
        replace(status, state=STARTING)
        if status.state == RUNNING and num_waiting[status.task.title] >= status.num_pods
        else status
        for status in statuses
    )


def _start_lines(
    starts: StartWatch,
    waiting: Sequence[WaitingPod],
    statuses: Sequence[TaskStatus],
    pods: WaitingPods,
) -> Iterator[str]:
    """Yield the lines about pods that wait or have started.

    Raises:
        StartTimeoutError: A pod has waited for too long.
    """
    ended = [status.task.title for status in statuses if status.state in (FAILED, STOPPED)]
    lines = starts.report(waiting, time.monotonic(), ended=ended)
    yield from lines
    # It matters only to someone who has just read that a pod waits.
    if lines and waiting and (blind_spot := pods.take_blind_spot()):
        yield blind_spot


def _end_wait(server: Server, run_id: str, limit: StartLimit) -> str:
    """Terminate the run if asked to, and return what becomes of it."""
    if not limit.terminate:
        return (
            f"The run itself continues: follow it again with `repot submit --attach {run_id}`, "
            "with a longer --start-timeout if it only needs time; --terminate-on-timeout ends it."
        )
    try:
        terminate_run(server, run_id)
    except ServerError as err:
        return f"The run could not be terminated: {err}"
    return f"The run {run_id} was terminated."


def _run_continues(run_id: str) -> str:
    return f"The run itself continues; follow it again with `repot submit --attach {run_id}`."
