"""`repot schedule`: recurring runs on a Kubeflow Pipelines server, each known by its name."""

import datetime
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from repot_pipelines.commands.connection import connect_to_server
from repot_pipelines.commands.help_sections import SectionedCommand
from repot_pipelines.commands.option_types import SCHEDULE_NAME
from repot_pipelines.commands.options import (
    RequestOptions,
    connection_options,
    debug_option,
    request_options,
    start_options,
)
from repot_pipelines.kfp_server.access import ConnectionOptions

if TYPE_CHECKING:
    from repot_pipelines.kfp_server.server import Server
    from repot_pipelines.kfp_server.submission import StartOptions
    from repot_pipelines.run_request import RunRequest
    from repot_pipelines.schedules.apply import ApplyResult, ScheduleSpec
    from repot_pipelines.schedules.cron import Cron

_NUM_NEXT_TIMES = 3
_STATES = {"ENABLED": "enabled", "DISABLED": "paused"}
"""State of a schedule, by its status on the server."""

_id_option = click.option(
    "--id", "schedule_id", default="", help="Id of the schedule, if several have the name."
)


@click.group("schedule")
def schedule_group() -> None:
    """Manage recurring runs, identified by name."""


@schedule_group.command("apply", cls=SectionedCommand)
@click.argument("name", type=SCHEDULE_NAME)
@click.option(
    "--cron",
    "cron_text",
    required=True,
    help='Five fields, such as "0 2 * * *" for every night at two, or @daily.',
)
@click.option(
    "--follow-latest",
    is_flag=True,
    help="Always run the latest version of the pipeline, not the current one.",
)
@request_options
@start_options
@connection_options
@debug_option
def apply_command(
    *,
    name: str,
    cron_text: str,
    follow_latest: bool,
    request_options: RequestOptions,
    start: "StartOptions",
    connection: ConnectionOptions,
) -> None:
    """Create or update the schedule NAME; applying it twice changes nothing.

    A changed schedule replaces the old one; a run in progress continues. Runs do not overlap, and
    missed runs are skipped. A paused schedule stays paused.
    """
    from repot_pipelines.schedules.apply import apply_schedule
    from repot_pipelines.schedules.cron import parse_cron

    cron = parse_cron(cron_text)
    request = request_options.read(service_account=start.service_account)
    server = connect_to_server(connection)
    spec = _schedule_spec(server, request, cron, name, start=start, follow_latest=follow_latest)
    _print_applied(server, apply_schedule(server, spec), spec)


@schedule_group.command("list")
@connection_options
@debug_option
def list_command(*, connection: ConnectionOptions) -> None:
    """List every schedule."""
    from repot_pipelines.schedules.cron import without_seconds
    from repot_pipelines.schedules.lookup import list_schedules, replaced_ids

    server = connect_to_server(connection)
    schedules = list_schedules(server)
    replaced = replaced_ids(schedules)
    rows = [("NAME", "STATE", "CRON", "VERSION", "ID")]
    for schedule in schedules:
        is_replaced = schedule.recurring_run_id in replaced
        cron = (
            schedule.trigger
            and schedule.trigger.cron_schedule
            and schedule.trigger.cron_schedule.cron
        )
        rows.append(
            (
                schedule.display_name,
                "replaced"
                if is_replaced
                else _STATES.get(schedule.status, str(schedule.status).lower()),
                without_seconds(cron) if cron else "no cron",
                _version_label(server, schedule.pipeline_version_reference),
                schedule.recurring_run_id,
            )
        )
    _print_table(rows)


@schedule_group.command("pause")
@click.argument("name")
@_id_option
@connection_options
@debug_option
def pause_command(*, name: str, schedule_id: str, connection: ConnectionOptions) -> None:
    """Stop starting runs of the schedule NAME; a run in progress continues."""
    _set_enabled(name, schedule_id, connection, enabled=False)


@schedule_group.command("resume")
@click.argument("name")
@_id_option
@connection_options
@debug_option
def resume_command(*, name: str, schedule_id: str, connection: ConnectionOptions) -> None:
    """Resume the schedule NAME; missed runs are skipped."""
    _set_enabled(name, schedule_id, connection, enabled=True)


@schedule_group.command("delete")
@click.argument("name")
@_id_option
@connection_options
@debug_option
def delete_command(*, name: str, schedule_id: str, connection: ConnectionOptions) -> None:
    """Delete the schedule NAME; a run in progress continues."""
    from repot_pipelines.schedules.actions import delete_schedule

    delete_schedule(connect_to_server(connection), name, schedule_id)
    click.echo(f"{name}: deleted")


@schedule_group.command("run-now")
@click.argument("name")
@_id_option
@connection_options
@debug_option
def run_now_command(*, name: str, schedule_id: str, connection: ConnectionOptions) -> None:
    """Start a run of the schedule NAME immediately."""
    from repot_pipelines.kfp_server.submission import timestamped_name
    from repot_pipelines.schedules.actions import run_now
    from repot_pipelines.schedules.lookup import find_schedule

    server = connect_to_server(connection)
    schedule = find_schedule(server, name, schedule_id)
    run_id = run_now(server, schedule, name=timestamped_name(name))
    click.echo(f"run   {run_id}\nlink  {server.link('runs', run_id)}")


def _schedule_spec(
    server: "Server",
    request: "RunRequest",
    cron: "Cron",
    name: str,
    *,
    start: "StartOptions",
    follow_latest: bool,
) -> "ScheduleSpec":
    from repot_pipelines.kfp_server.registry import (
        PipelineVersion,
        ensure_experiment,
        ensure_version,
    )
    from repot_pipelines.schedules.apply import ScheduleSpec

    version = ensure_version(
        server,
        request.path,
        pipeline_name=start.pipeline_name or request.pipeline_name,
        name=start.version_name,
    )
    return ScheduleSpec(
        name=name,
        cron=cron,
        version=PipelineVersion(pipeline_id=version.pipeline_id, version_id="", name="latest")
        if follow_latest
        else version,
        values=request.sent,
        experiment_id=ensure_experiment(server, start.experiment),
        pipeline_root=start.pipeline_root,
        service_account=start.service_account,
    )


def _print_applied(server: "Server", applied: "ApplyResult", spec: "ScheduleSpec") -> None:
    from repot_pipelines.schedules.cron import next_times

    schedule = applied.schedule
    state = "" if schedule.mode == "ENABLE" else ", paused"
    click.echo(f"{spec.name}: {applied.action}{state}")
    click.echo(f"runs     {spec.version.name}, at {spec.cron.text}")
    times = itertools.islice(
        next_times(spec.cron, datetime.datetime.now(datetime.UTC)), _NUM_NEXT_TIMES
    )
    click.echo(f"next     {', '.join(f'{time:%a %Y-%m-%d %H:%M}' for time in times)}")
    click.echo("         in the server's time zone: UTC, unless it sets CRON_SCHEDULE_TIMEZONE")
    click.echo(f"link     {server.link('recurringrun', schedule.recurring_run_id)}")
    for older in applied.not_deleted:
        click.echo(
            f"The replaced schedule {older.recurring_run_id} is paused while its run is in "
            "progress. Apply again after that run to delete it."
        )


def _set_enabled(
    name: str, schedule_id: str, connection: ConnectionOptions, *, enabled: bool
) -> None:
    from repot_pipelines.schedules.actions import set_enabled
    from repot_pipelines.schedules.lookup import find_schedule

    server = connect_to_server(connection)
    set_enabled(server, find_schedule(server, name, schedule_id), enabled=enabled)
    click.echo(f"{name}: {'resumed' if enabled else 'paused'}")


def _version_label(server: "Server", reference: Any) -> str:
    from repot_pipelines.kfp_server.registry import version_label

    if reference is None:
        return "inline"
    if not reference.pipeline_version_id:
        return "latest"
    return version_label(server, reference.pipeline_id, reference.pipeline_version_id)


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )
