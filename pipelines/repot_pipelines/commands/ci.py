"""`repot ci`: check the code, retrain on the cluster, and write the result as a comment."""

import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repot.errors import RepotError
from repot.masking import MaskedStream, mask, read_secrets
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
    from repot_pipelines.ci.job import CiResult
    from repot_pipelines.kfp_server.server import Server
    from repot_pipelines.kfp_server.submission import StartOptions
    from repot_pipelines.run_request import RunRequest
    from repot_pipelines.watch.pod_logs import ShownLogs
    from repot_pipelines.watch.start_watch import StartLimit


class CiFailedError(RepotError):
    """The job failed; secrets are masked in message and traceback."""

    def __init__(self, message: str, *, exit_code: int, details: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.details = details


@click.command("ci", cls=SectionedCommand)
@click.option(
    "--comment-file",
    type=click.Path(path_type=Path),
    help="File for the comment in Markdown; the workflow posts it.",
)
@click.option("--skip-sample", is_flag=True, help="Skip the check on the sample pictures.")
@request_options
@start_options
@click.option(
    "--run-name",
    type=RUN_NAME,
    default="",
    help="Name of the run; default: the model's name and the time.",
)
@click.option("--no-cache", is_flag=True, help="Run every task again.")
@logs_options
@poll_option
@start_limit_options
@connection_options
@debug_option
def ci_command(
    *,
    comment_file: Path | None,
    skip_sample: bool,
    request_options: RequestOptions,
    start: "StartOptions",
    run_name: str,
    no_cache: bool,
    logs: "ShownLogs",
    poll_seconds: float,
    start_limit: "StartLimit",
    connection: ConnectionOptions,
) -> int:
    """Retrain on the pictures at PICTURES_URI from a CI job, and comment on the result.

    First the whole pipeline runs on the sample pictures, on this machine. Then it runs on the
    cluster, as a version named after the commit, and is followed to its end; if neither data nor
    settings changed, nothing is trained. The exit code is 0 for promoted or unchanged, 1 for
    failed, 2 for wrong usage, and 3 if the gate rejects the model or is undecided.
    """
    from rich.console import Console

    from repot_pipelines.ci.comment import unfinished_comment
    from repot_pipelines.ci.job import CiSettings, run_ci
    from repot_pipelines.ci.provider import (
        CommentFiles,
        commit_version,
        read_commit,
        summary_path,
    )
    from repot_pipelines.watch.follow import FollowOptions

    secrets = read_secrets(os.environ, [connection.token_file, connection.cookie_file])

    def clean(text: str) -> str:
        return mask(text, secrets)

    files = CommentFiles(path=comment_file, summary_path=summary_path(os.environ), clean=clean)
    files.open(unfinished_comment())
    version_name = start.version_name or commit_version(read_commit(os.environ, Path.cwd()))
    start = replace(start, run_name=run_name, version_name=version_name, use_cache=not no_cache)
    settings = CiSettings(
        start=start,
        follow=FollowOptions(
            start_limit=start_limit,
            open_cluster=lambda: open_cluster(connection),
            poll_seconds=poll_seconds,
            logs=logs,
        ),
        skip_sample=skip_sample,
        clean=clean,
    )

    def prepare() -> "tuple[RunRequest, Server]":
        request = request_options.read(service_account=start.service_account)
        server = connect_to_server(connection)
        warn_about_nodes(connection, server, request)
        return request, server

    stream: Any = MaskedStream(sys.stdout, secrets)
    result = run_ci(prepare, settings, Console(file=stream))
    return _finish(result, files.write(result.comment), secrets)


def _finish(result: "CiResult", problems: list[str], secrets: frozenset[str]) -> int:
    """Return the exit code, or raise what went wrong with its secrets masked."""
    if result.error is None and not problems:
        return result.exit_code
    message = "\n".join([*([str(result.error)] if result.error else []), *problems])
    details = "".join(traceback.format_exception(result.error)) if result.error else ""
    raise CiFailedError(
        mask(message, secrets), exit_code=result.exit_code or 1, details=mask(details, secrets)
    ) from None
