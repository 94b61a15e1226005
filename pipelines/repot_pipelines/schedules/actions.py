"""Schedules (KFP's recurring runs): pause, resume, delete, run at once.

Before KFP 2.16, deleting a schedule deletes its running run too. There it stays, paused, until its run is over and
somebody applies or deletes again.
"""

from collections.abc import Iterable
from typing import Any

from repot_pipelines.kfp_server.errors import ServerError
from repot_pipelines.kfp_server.registry import Version
from repot_pipelines.kfp_server.runs import find_open_run, open_runs, start_run
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.schedules.lookup import find_schedule, replaced_by, schedules_named

ENABLED = "ENABLED"


def set_enabled(server: Server, schedule: Any, *, enabled: bool) -> None:
    """Pause or resume a schedule; a run in progress goes on."""
    api = server.client.recurring_runs
    method = (
        api.recurring_run_service_enable_recurring_run
        if enabled
        else api.recurring_run_service_disable_recurring_run
    )
    server.call(
        f"{'resume' if enabled else 'pause'} the schedule {schedule.display_name}",
        method,
        recurring_run_id=schedule.recurring_run_id,
    )


def delete_schedule(server: Server, name: str, schedule_id: str = "") -> None:
    """Delete a schedule, and the older ones that it replaced; a run in progress goes on.

    Raises:
        ServerError: A run is in progress and the server cannot spare it: the schedule is paused instead.
        UsageError: There is none of the name, or there are several.
    """
    current = find_schedule(server, name, schedule_id)
    older = [
        schedule
        for schedule in schedules_named(server, name)
        if schedule.recurring_run_id in replaced_by(current)
    ]
    lingering = take_away(server, [*older, current])
    if lingering:
        runs = ", ".join(
            str(run.run_id) for schedule in lingering for run in open_runs(server, schedule)
        )
        raise ServerError(
            f"The schedule {name} is paused, not deleted: its run {runs} is in progress, and before KFP 2.16 the "
            "server would delete that too. Delete the schedule again when the run is over."
        )


def run_now(server: Server, schedule: Any, *, name: str) -> str:
    """Start a run as the schedule would, and return its id.

    Args:
        server: The server.
        schedule: The server's recurring run.
        name: The run's name, for people.

    Raises:
        ServerError: A run of the schedule, or one like it that was started by hand, is in progress: its concurrency
            is one.
    """
    reference, config = schedule.pipeline_version_reference, schedule.runtime_config
    values = (config and config.parameters) or {}
    version = reference and Version(
        pipeline_id=reference.pipeline_id, version_id=reference.pipeline_version_id or "", name=""
    )
    running = next(open_runs(server, schedule), None)
    if running is None and version:
        running = find_open_run(server, version, values, experiment_id=schedule.experiment_id)
    if running is not None:
        raise ServerError(
            f"The schedule {schedule.display_name} runs now already: {running.run_id}. "
            f"Follow it with `repot submit --attach {running.run_id}`, or try again when it is over."
        )
    return start_run(
        server,
        version or schedule.pipeline_spec,
        values,
        name=name,
        experiment_id=schedule.experiment_id,
        pipeline_root=(config and config.pipeline_root) or "",
        service_account=schedule.service_account or "",
    )


def take_away(server: Server, schedules: Iterable[Any]) -> tuple[Any, ...]:
    """Pause schedules, then delete those whose deletion kills no run; return the others."""
    lingering = []
    for schedule in schedules:
        if schedule.status == ENABLED:
            set_enabled(server, schedule, enabled=False)
        if server.can_orphan or next(open_runs(server, schedule), None) is None:
            _delete(server, schedule)
        else:
            lingering.append(schedule)
    return tuple(lingering)


def _delete(server: Server, schedule: Any) -> None:
    orphan = {"propagation_policy": "ORPHAN"} if server.can_orphan else {}
    server.call(
        f"delete the schedule {schedule.display_name}",
        server.client.recurring_runs.recurring_run_service_delete_recurring_run,
        recurring_run_id=schedule.recurring_run_id,
        **orphan,
    )
