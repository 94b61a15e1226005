"""`repot submit`: start the pipeline on a Kubeflow Pipelines server, and follow the run."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from repot.errors import EXIT_GATE_REJECTED, EXIT_INTERRUPTED, UsageError
from repot_pipelines.commands.connection import connect_to_server, open_cluster, warn_about_nodes
from repot_pipelines.commands.help_sections import SectionedCommand
from repot_pipelines.commands.option_types import RUN_NAME
from repot_pipelines.commands.options import (
    RequestOptions,
    connection_options,
    debug_option,
    logs_options,
    poll_option,
    request_options,
    start_limit_options,
    start_options,
)
from repot_pipelines.kfp_server.access import ConnectionOptions

if TYPE_CHECKING:
    from rich.console import Console

    from repot_pipelines.kfp_server.registry import PipelineVersion
    from repot_pipelines.kfp_server.server import Server
    from repot_pipelines.kfp_server.submission import StartOptions
    from repot_pipelines.run_request import RunRequest
    from repot_pipelines.watch.follow import FollowOptions
    from repot_pipelines.watch.pod_logs import ShownLogs
    from repot_pipelines.watch.start_watch import StartLimit

MAX_NUM_PICTURES = 10**9
"""More than any public dataset of labelled pictures has."""


@click.command("submit", cls=SectionedCommand)
@request_options
@start_options
@click.option(
    "--run-name",
    type=RUN_NAME,
    default="",
    help="Name of the run; default: the model's name and the time.",
)
@click.option("--no-cache", is_flag=True, help="Run every task again.")
@click.option(
    "--wait",
    is_flag=True,
    help="Follow the run to its end; exit with 1 if it fails, with "
    f"{EXIT_GATE_REJECTED} if the gate rejects the model or is undecided.",
)
@click.option("--attach", metavar="RUN_ID", help="Follow an existing run; starts nothing.")
@logs_options
@poll_option
@start_limit_options
@click.option(
    "--dry-run", is_flag=True, help="Show what would run and what it would cost; sends nothing."
)
@click.option(
    "--num-pictures",
    type=click.IntRange(min=0, max=MAX_NUM_PICTURES),
    default=0,
    help="Number of pictures, for the estimate of --dry-run.",
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
    request_options: RequestOptions,
    start: "StartOptions",
    run_name: str,
    no_cache: bool,
    wait: bool,
    attach: str | None,
    logs: "ShownLogs",
    poll_seconds: float,
    start_limit: "StartLimit",
    dry_run: bool,
    num_pictures: int,
    prices_file: Path | None,
    connection: ConnectionOptions,
) -> int:
    """Fine-tune on the pictures at PICTURES_URI, on a cluster with Kubeflow Pipelines.

    All parameters are checked before anything is sent. The compiled pipeline is uploaded once per
    version. Ctrl-C during --wait does not stop the run.
    """
    from rich.console import Console

    console = Console()

    def follow(server: "Server", run_id: str) -> int:
        from repot_pipelines.watch.follow import FollowOptions

        options = FollowOptions(
            start_limit=start_limit,
            open_cluster=lambda: open_cluster(connection),
            poll_seconds=poll_seconds,
            logs=logs,
        )
        return _follow(console, server, run_id, options)

    if attach is not None:
        _check_attach(attach, request_options)
        return follow(connect_to_server(connection), attach)
    if logs != "none" and not (wait or dry_run):
        raise UsageError(
            "--logs and --all-logs must be given with --wait or --attach, which follow the run. "
            "Add --wait."
        )
    start = replace(start, run_name=run_name, use_cache=not no_cache)
    request = request_options.read(service_account=start.service_account)
    if dry_run:
        _print_dry_run(console, request, start, num_pictures=num_pictures, prices_file=prices_file)
        return 0
    server = connect_to_server(connection)
    warn_about_nodes(connection, server, request)
    run_id = _start(console, server, request, start)
    if not wait:
        return 0
    return follow(server, run_id)


def _check_attach(attach: str, request: RequestOptions) -> None:
    if not attach.strip():
        raise UsageError(
            "--attach must name a run; got an empty name. Without --attach, `repot submit` starts "
            "a run."
        )
    if "pictures_uri" in request.parameters:
        raise UsageError("--attach follows an existing run: leave PICTURES_URI out.")


def _start(
    console: "Console", server: "Server", request: "RunRequest", start: "StartOptions"
) -> str:
    from repot_pipelines.kfp_server.submission import submit

    submitted = submit(server, request, start)
    for line in (
        f"version  {_version_line(submitted.version)}",
        f"run      {submitted.name}, {submitted.run_id}",
        f"link     {server.link('runs', submitted.run_id)}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return submitted.run_id


def _version_line(version: "PipelineVersion | None") -> str:
    if version is None:
        return "none: without the cache, the run carries its own copy of the pipeline"
    return f"{version.name} ({'uploaded' if version.is_new else 'already there'})"


def _print_dry_run(
    console: "Console",
    request: "RunRequest",
    start: "StartOptions",
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
        pipeline_name=start.pipeline_name or request.pipeline_name,
        version_name=start.version_name or default_version_name(request.path),
        experiment=start.experiment,
    )


def _follow(console: "Console", server: "Server", run_id: str, options: "FollowOptions") -> int:
    from repot_pipelines.watch.follow import follow_run
    from repot_pipelines.watch.run_result import print_run_result
    from repot_pipelines.watch.task_view import make_task_view

    try:
        with make_task_view(console) as view:
            result = follow_run(server, run_id, view, options)
    except KeyboardInterrupt:
        click.echo(
            f"The run continues. Follow it again with `repot submit --attach {run_id}`.", err=True
        )
        return EXIT_INTERRUPTED
    print_run_result(console, result)
    return result.exit_code
