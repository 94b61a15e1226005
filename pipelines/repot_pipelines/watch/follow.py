"""Follow a run to its end and show the states of its tasks as they change."""

import datetime
import time
from collections.abc import Sequence
from dataclasses import replace

from repot_pipelines import defaults
from repot_pipelines.compiled import find_compiled, read_pipeline
from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.errors import (
    AccessDeniedError,
    MissingObjectError,
    ServerError,
    UnreachableError,
)
from repot_pipelines.kfp_server.runs import FINAL_STATES, get_pipeline_spec, get_run
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.watch.pod_logs import PodLogFollower, ShownLogs
from repot_pipelines.watch.run_result import RunResult, read_run_result, was_terminated
from repot_pipelines.watch.task_view import TaskView
from repot_pipelines.watch.tasks import (
    FAILED,
    STOPPED,
    PipelineTask,
    TaskStatus,
    read_statuses,
    read_tasks,
)

UNREACHABLE_TIMEOUT_SECONDS = 300.0
"""Stop following a run after the server has not answered for this long; the run continues."""


def follow_run(
    server: Server,
    run_id: str,
    view: TaskView,
    *,
    poll_seconds: float = defaults.POLL_SECONDS,
    logs: ShownLogs = "none",
) -> RunResult:
    """Wait for a run to end and return its result.

    Args:
        server: The server.
        run_id: Id of the run.
        view: Shows the tasks in the meantime.
        poll_seconds: Interval between two requests.
        logs: Which lines of the pods' logs the view also shows.

    Raises:
        MissingObjectError: There is no such run, or it was deleted in the meantime.
        ServerError: The server was unreachable for UNREACHABLE_TIMEOUT_SECONDS, or no longer
            accepts the credentials.
    """
    run = get_run(server, run_id)
    tasks = _read_tasks(server, run)
    pod_logs = PodLogFollower(server, run_id, logs)
    while True:
        nodes = list((run.run_details and run.run_details.task_details) or ())
        statuses = _read_statuses(tasks, run, nodes)
        view.show(statuses)
        for line in pod_logs.new_lines(statuses, nodes):
            view.print_line(line)
        if run.state in FINAL_STATES:
            return read_run_result(server, run, statuses, nodes)
        time.sleep(poll_seconds)
        run = _poll(server, run_id, view, poll_seconds)


def _read_tasks(server: Server, run: ApiObject) -> tuple[PipelineTask, ...]:
    try:
        return read_tasks(get_pipeline_spec(server, run))
    except MissingObjectError:
        # The run's pipeline version was deleted; the pipeline of this installation has to do.
        return read_tasks(read_pipeline(find_compiled()))


def _read_statuses(
    tasks: Sequence[PipelineTask], run: ApiObject, nodes: Sequence[ApiObject]
) -> tuple[TaskStatus, ...]:
    statuses = read_statuses(tasks, nodes, now=datetime.datetime.now(datetime.UTC))
    if not was_terminated(run):
        return statuses
    # Argo reports the tasks of a terminated workflow as failed.
    return tuple(
        replace(status, state=STOPPED) if status.state == FAILED else status for status in statuses
    )


def _poll(server: Server, run_id: str, view: TaskView, poll_seconds: float) -> ApiObject:
    """Return the run that is being followed; wait for a server that restarts."""
    unreachable_since = time.monotonic()
    while True:
        try:
            return get_run(server, run_id)
        except MissingObjectError as err:
            message = f"The run {run_id} was deleted while it was followed."
            raise MissingObjectError(message) from err
        except AccessDeniedError as err:
            raise AccessDeniedError(f"{err} {_run_continues(run_id)}") from err
        except UnreachableError as err:
            if time.monotonic() - unreachable_since > UNREACHABLE_TIMEOUT_SECONDS:
                raise ServerError(f"{err} {_run_continues(run_id)}") from err
            view.print_line(f"{err} Trying again.")
        time.sleep(poll_seconds)


def _run_continues(run_id: str) -> str:
    return f"The run itself continues; follow it again with `repot submit --attach {run_id}`."
