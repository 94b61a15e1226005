"""`repot submit`: start the pipeline on a Kubeflow Pipelines server, and follow it if asked."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repot.errors import UsageError
from repot_pipelines.commands.options import debug_option
from repot_pipelines.commands.pipeline_options import pipeline_options
from repot_pipelines.commands.run import GATE_SAID_NO
from repot_pipelines.commands.server_options import (
    connect_as_told,
    connection_options,
    start_options,
)
from repot_pipelines.presets import PRESETS

if TYPE_CHECKING:
    from rich.console import Console

    from repot_pipelines.kfp_server.registry import PipelineVersion
    from repot_pipelines.kfp_server.server import Server
    from repot_pipelines.kfp_server.submission import StartOptions
    from repot_pipelines.run_request import Request

STOPPED = 130


@click.command("submit")
@click.argument("pictures_uri", required=False)
@click.option("--storage-uri", help="Where everything is kept: gs:// or s3://BUCKET/PATH.")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="cluster",
    show_default=True,
    help="Set of defaults.",
)
@pipeline_options
@start_options
@click.option(
    "--run-name", default="", help="Name of the run; the model's name and the time, if not given."
)
@click.option("--no-cache", is_flag=True, help="Do every task again.")
@click.option(
    "--wait",
    is_flag=True,
    help=f"Follow the run to its end; exit 1 when it fails, {GATE_SAID_NO} when the gate says no.",
)
@click.option(
    "--attach", metavar="RUN_ID", help="Follow a run that is there already; starts nothing."
)
@click.option(
    "--logs",
    "show_logs",
    is_flag=True,
    help="With --wait or --attach: show what the pods log, too.",
)
@click.option(
    "--poll-seconds",
    type=click.FloatRange(min=0.05),
    default=5.0,
    show_default=True,
    help="Between two looks at the run.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show what would run, and what it would take; contacts nobody."
)
@click.option(
    "--num-pictures",
    type=click.IntRange(min=0),
    default=0,
    help="Pictures, for the estimate of --dry-run.",
)
@click.option(
    "--prices",
    "prices_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Table of prices for --dry-run.",
)
@connection_options
@debug_option
def submit_command(
    *,
    pictures_uri: str | None,
    storage_uri: str | None,
    preset: str,
    assignments: tuple[str, ...],
    parameter_file: Path | None,
    no_cache: bool,
    wait: bool,
    attach: str | None,
    show_logs: bool,
    poll_seconds: float,
    dry_run: bool,
    num_pictures: int,
    prices_file: Path | None,
    **given: Any,
) -> int:
    """Fine-tune on the pictures at PICTURES_URI, on the cluster behind a Kubeflow Pipelines server.

    All parameters are checked before anybody is contacted. The compiled pipeline is uploaded once for each version.
    Ctrl-C while --wait follows the run leaves the run alone.
    """
    from rich.console import Console

    from repot_pipelines.run_request import read_request

    console = Console()
    if attach is not None:
        if not attach.strip():
            raise UsageError(
                "--attach must name a run; got nothing. `repot submit` without --attach starts one."
            )
        if pictures_uri:
            raise UsageError(
                "--attach follows a run that is there already: leave PICTURES_URI out."
            )
        return _follow(
            console, connect_as_told(given), attach, poll_seconds=poll_seconds, show_logs=show_logs
        )
    options = _take_start_options(given, use_cache=not no_cache)
    parameters = {name: given.pop(name) for name in list(given) if name in PRESETS[preset]}
    request = read_request(
        preset=preset,
        parameter_file=parameter_file,
        options={**parameters, "pictures_uri": pictures_uri, "storage_uri": storage_uri},
        assignments=assignments,
    )
    if dry_run:
        _show_plan(console, request, options, num_pictures=num_pictures, prices_file=prices_file)
        return 0
    server = connect_as_told(given)
    run_id = _start(console, server, request, options)
    return (
        _follow(console, server, run_id, poll_seconds=poll_seconds, show_logs=show_logs)
        if wait
        else 0
    )


def _take_start_options(given: dict[str, Any], *, use_cache: bool) -> "StartOptions":
    from repot_pipelines.kfp_server.submission import StartOptions

    return StartOptions(
        experiment=given.pop("experiment"),
        run_name=given.pop("run_name"),
        pipeline_name=given.pop("pipeline_name") or "",
        version_name=given.pop("version_name"),
        service_account=given.pop("service_account"),
        pipeline_root=given.pop("pipeline_root"),
        use_cache=use_cache,
    )


def _start(
    console: "Console", server: "Server", request: "Request", options: "StartOptions"
) -> str:
    from repot_pipelines.kfp_server.submission import submit

    submitted = submit(server, request, options)
    for line in (
        f"version  {_version_line(submitted.version)}",
        f"run      {submitted.name}, {submitted.run_id}",
        f"look     {server.link('runs', submitted.run_id)}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return submitted.run_id


def _version_line(version: "PipelineVersion | None") -> str:
    if version is None:
        return "none: without the cache the run carries its pipeline with it"
    return f"{version.name} ({'uploaded' if version.is_new else 'there already'})"


def _show_plan(
    console: "Console",
    request: "Request",
    options: "StartOptions",
    *,
    num_pictures: int,
    prices_file: Path | None,
) -> None:
    from repot_pipelines.estimate.dry_run import print_dry_run
    from repot_pipelines.estimate.prices import DEFAULT_PRICES_PATH, read_prices
    from repot_pipelines.estimate.run_cost import estimate_run
    from repot_pipelines.kfp_server.registry import default_version_name

    prices = read_prices(prices_file or DEFAULT_PRICES_PATH)
    estimate = estimate_run(request.pipeline, request.values, prices, num_pictures=num_pictures)
    print_dry_run(
        console,
        request,
        estimate,
        prices,
        pipeline_name=options.pipeline_name or request.pipeline_name,
        version_name=options.version_name or default_version_name(request.path),
        experiment=options.experiment,
    )


def _follow(
    console: "Console", server: "Server", run_id: str, *, poll_seconds: float, show_logs: bool
) -> int:
    from repot_pipelines.watch.follow import follow_run
    from repot_pipelines.watch.run_result import print_run_result
    from repot_pipelines.watch.task_view import make_task_view

    try:
        with make_task_view(console) as view:
            result = follow_run(
                server, run_id, view, poll_seconds=poll_seconds, show_logs=show_logs
            )
    except KeyboardInterrupt:
        click.echo(
            f"The run goes on. Follow it again with `repot submit --attach {run_id}`.", err=True
        )
        return STOPPED
    print_run_result(console, result)
    return GATE_SAID_NO if result.gate is not None and result.gate.is_rejected else 0
