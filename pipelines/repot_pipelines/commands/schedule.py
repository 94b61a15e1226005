"""`repot schedule`: runs at fixed times on a Kubeflow Pipelines server, kept by name."""

import datetime
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repot.errors import UsageError
from repot_pipelines.commands.options import debug_option
from repot_pipelines.commands.pipeline_options import pipeline_options
from repot_pipelines.commands.server_options import (
    connect_as_told,
    connection_options,
    start_options,
)
from repot_pipelines.presets import PRESETS

if TYPE_CHECKING:
    from repot_pipelines.kfp_server.server import Server
    from repot_pipelines.run_request import Request
    from repot_pipelines.schedules.apply import ApplyResult, ScheduleSpec
    from repot_pipelines.schedules.cron import Cron

_NUM_NEXT = 3

_id_option = click.option(
    "--id", "schedule_id", default="", help="Which one, where several have the name."
)


@click.group("schedule")
def schedule_group() -> None:
    """Run the pipeline at fixed times; a schedule is known by its name."""


@schedule_group.command("apply")
@click.argument("name")
@click.argument("pictures_uri", required=False)
@click.option(
    "--cron",
    "cron_text",
    required=True,
    help='Five fields, "0 2 * * *" for every night at two, or @daily.',
)
@click.option("--storage-uri", help="Where everything is kept: gs:// or s3://BUCKET/PATH.")
@click.option(
    "--follow-latest",
    is_flag=True,
    help="Run the latest version of the pipeline each time, not this one.",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="cluster",
    show_default=True,
    help="Set of defaults.",
)
@pipeline_options
@start_options
@connection_options
@debug_option
def apply_command(
    *,
    name: str,
    pictures_uri: str | None,
    cron_text: str,
    storage_uri: str | None,
    follow_latest: bool,
    preset: str,
    assignments: tuple[str, ...],
    parameter_file: Path | None,
    **given: Any,
) -> None:
    """Make the schedule NAME what the options say; applied twice it is one schedule.

    A changed schedule takes the place of the old one, and a run in progress goes on. One run at a time, and times
    that were missed are not made up for. A schedule that is paused stays paused.
    """
    from repot_pipelines.run_request import read_request
    from repot_pipelines.schedules.apply import apply_schedule
    from repot_pipelines.schedules.cron import parse_cron

    if not name.strip():
        raise UsageError(f"A schedule's name must have something in it; got {name!r}.")
    cron = parse_cron(cron_text)
    parameters = {option: given.pop(option) for option in list(given) if option in PRESETS[preset]}
    request = read_request(
        preset=preset,
        parameter_file=parameter_file,
        options={**parameters, "pictures_uri": pictures_uri, "storage_uri": storage_uri},
        assignments=assignments,
    )
    server = connect_as_told(given)
    spec = _schedule_spec(server, request, cron, name, follow_latest=follow_latest, given=given)
    _print_applied(server, apply_schedule(server, spec), spec)


@schedule_group.command("list")
@connection_options
@debug_option
def list_command(**given: Any) -> None:
    """List every schedule."""
    from repot_pipelines.schedules.cron import without_seconds
    from repot_pipelines.schedules.lookup import list_schedules, replaced_ids

    server = connect_as_told(given)
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
                "replaced" if is_replaced else str(schedule.status).lower(),
                without_seconds(cron) if cron else "not by cron",
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
def pause_command(*, name: str, schedule_id: str, **given: Any) -> None:
    """Start no more runs of the schedule NAME; one in progress goes on."""
    _set_enabled(name, schedule_id, given, enabled=False)


@schedule_group.command("resume")
@click.argument("name")
@_id_option
@connection_options
@debug_option
def resume_command(*, name: str, schedule_id: str, **given: Any) -> None:
    """Let the schedule NAME start runs again; times that were missed are not made up for."""
    _set_enabled(name, schedule_id, given, enabled=True)


@schedule_group.command("delete")
@click.argument("name")
@_id_option
@connection_options
@debug_option
def delete_command(*, name: str, schedule_id: str, **given: Any) -> None:
    """Delete the schedule NAME; a run in progress goes on."""
    from repot_pipelines.schedules.actions import delete_schedule

    delete_schedule(connect_as_told(given), name, schedule_id)
    click.echo(f"{name}: deleted")


@schedule_group.command("run-now")
@click.argument("name")
@_id_option
@connection_options
@debug_option
def run_now_command(*, name: str, schedule_id: str, **given: Any) -> None:
    """Start a run as the schedule NAME would, at once."""
    from repot_pipelines.kfp_server.submission import timestamped_name
    from repot_pipelines.schedules.actions import run_now
    from repot_pipelines.schedules.lookup import find_schedule

    server = connect_as_told(given)
    schedule = find_schedule(server, name, schedule_id)
    run_id = run_now(server, schedule, name=timestamped_name(name))
    click.echo(f"run   {run_id}\nlook  {server.link('runs', run_id)}")


def _schedule_spec(
    server: "Server",
    request: "Request",
    cron: "Cron",
    name: str,
    *,
    follow_latest: bool,
    given: dict[str, Any],
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
        pipeline_name=given["pipeline_name"] or request.pipeline_name,
        name=given["version_name"],
    )
    return ScheduleSpec(
        name=name,
        cron=cron,
        version=PipelineVersion(pipeline_id=version.pipeline_id, version_id="", name="the latest")
        if follow_latest
        else version,
        values=request.given,
        experiment_id=ensure_experiment(server, given["experiment"]),
        pipeline_root=given["pipeline_root"],
        service_account=given["service_account"],
    )


def _print_applied(server: "Server", applied: "ApplyResult", spec: "ScheduleSpec") -> None:
    from repot_pipelines.schedules.cron import next_times

    schedule = applied.schedule
    state = "" if schedule.mode == "ENABLE" else ", and it is paused"
    click.echo(f"{spec.name}: {applied.action}{state}")
    click.echo(f"runs     {spec.version.name}, at {spec.cron.text}")
    times = itertools.islice(next_times(spec.cron, datetime.datetime.now(datetime.UTC)), _NUM_NEXT)
    click.echo(f"next     {', '.join(f'{time:%a %Y-%m-%d %H:%M}' for time in times)}")
    click.echo(
        "         in the server's time zone: UTC, unless its CRON_SCHEDULE_TIMEZONE says otherwise"
    )
    click.echo(f"look     {server.link('recurringrun', schedule.recurring_run_id)}")
    for older in applied.not_deleted:
        click.echo(
            f"The schedule that it replaces, {older.recurring_run_id}, is paused until its run is over: "
            "apply again then, and it goes."
        )


def _set_enabled(name: str, schedule_id: str, given: dict[str, Any], *, enabled: bool) -> None:
    from repot_pipelines.schedules.actions import set_enabled
    from repot_pipelines.schedules.lookup import find_schedule

    server = connect_as_told(given)
    set_enabled(server, find_schedule(server, name, schedule_id), enabled=enabled)
    click.echo(f"{name}: {'resumed' if enabled else 'paused'}")


def _version_label(server: "Server", reference: Any) -> str:
    from repot_pipelines.kfp_server.registry import version_label

    if reference is None:
        return "its own"
    if not reference.pipeline_version_id:
        return "the latest"
    return version_label(server, reference.pipeline_id, reference.pipeline_version_id)


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )
