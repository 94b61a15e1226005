"""Pause, resume, delete and run schedules, which KFP calls recurring runs.

Before KFP 2.16, deleting a schedule also deletes its active run. On such a server the schedule is
paused instead, and deleted by the next apply or delete after the run has ended.
"""

from collections.abc import Iterable

from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.errors import ServerError
from repot_pipelines.kfp_server.registry import PipelineVersion
from repot_pipelines.kfp_server.runs import active_runs_of_schedule, find_active_run, start_run
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.schedules.lookup import find_schedule, replaced_ids, schedules_named

ENABLED = "ENABLED"


def set_enabled(server: Server, schedule: ApiObject, *, enabled: bool) -> None:
    """Resume or pause a schedule; an active run continues."""
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
    """Delete a schedule and the ones that it replaced; an active run continues.

    Raises:
        ServerError: A run is active and the server would delete it too; the schedule is paused.
        UsageError: There is no such schedule, or there are several and `schedule_id` is not set.
    """
    current = find_schedule(server, name, schedule_id)
    replaced = replaced_ids([current])
    older = [
        schedule
        for schedule in schedules_named(server, name)
        if schedule.recurring_run_id in replaced
    ]
    not_deleted = retire_schedules(server, [*older, current])
    if not_deleted:
        runs = ", ".join(
            str(run.run_id)
            for schedule in not_deleted
            for run in active_runs_of_schedule(server, schedule)
        )
        raise ServerError(
            f"The schedule {name} is paused, not deleted: its run {runs} is active, and a server "
            "before KFP 2.16 would delete the run too. Delete the schedule again after the run."
        )


def run_now(server: Server, schedule: ApiObject, *, name: str) -> str:
    """Start the run that the schedule would start, and return its id.

    Args:
        server: The server.
        schedule: The recurring run.
        name: Display name of the run.

    Raises:
        ServerError: A run of the schedule is active, or one like it that was started by hand.
    """
    reference, config = schedule.pipeline_version_reference, schedule.runtime_config
    values = (config and config.parameters) or {}
    version = reference and PipelineVersion(
        pipeline_id=reference.pipeline_id, version_id=reference.pipeline_version_id or "", name=""
    )
    active = next(active_runs_of_schedule(server, schedule), None)
    if active is None and version:
        active = find_active_run(server, version, values, experiment_id=schedule.experiment_id)
    if active is not None:
        raise ServerError(
            f"The schedule {schedule.display_name} is already running: {active.run_id}. "
            f"Follow it with `repot submit --attach {active.run_id}`, or try again after it ends."
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


def retire_schedules(server: Server, schedules: Iterable[ApiObject]) -> tuple[ApiObject, ...]:
    """Pause schedules, delete those whose deletion spares active runs, and return the others."""
    not_deleted = []
    for schedule in schedules:
        if schedule.status == ENABLED:
            set_enabled(server, schedule, enabled=False)
        if server.can_orphan_runs or next(active_runs_of_schedule(server, schedule), None) is None:
            _delete(server, schedule)
        else:
            not_deleted.append(schedule)
    return tuple(not_deleted)


def _delete(server: Server, schedule: ApiObject) -> None:
    orphan = {"propagation_policy": "ORPHAN"} if server.can_orphan_runs else {}
    server.call(
        f"delete the schedule {schedule.display_name}",
        server.client.recurring_runs.recurring_run_service_delete_recurring_run,
        recurring_run_id=schedule.recurring_run_id,
        **orphan,
    )
