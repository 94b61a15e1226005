"""`repot ci`: check the code, retrain on the cluster, and write what came out as a comment."""

import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repot.errors import RepotError
from repot_pipelines.commands.options import debug_option
from repot_pipelines.commands.pipeline_options import pipeline_options
from repot_pipelines.commands.server_options import (
    connect_as_told,
    connection_options,
    start_options,
)
from repot_pipelines.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from repot_pipelines.ci.job import CiResult, CiSettings
    from repot_pipelines.kfp_server.server import Server
    from repot_pipelines.run_request import Request


class CiFailedError(RepotError):
    """The job failed; message and traceback hold no secrets any more."""

    def __init__(self, message: str, *, exit_code: int, details: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.details = details


@click.command("ci")
@click.argument("pictures_uri", required=False)
@click.option("--storage-uri", help="Where everything is kept: gs:// or s3://BUCKET/PATH.")
@click.option(
    "--comment-file",
    type=click.Path(path_type=Path),
    help="File for the comment in Markdown; the workflow posts it.",
)
@click.option("--skip-sample", is_flag=True, help="Leave out the check on the sample pictures.")
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
@click.option("--logs", "show_logs", is_flag=True, help="Show what the pods log, too.")
@click.option(
    "--poll-seconds",
    type=click.FloatRange(min=0.05),
    default=5.0,
    show_default=True,
    help="Between two looks at the run.",
)
@connection_options
@debug_option
def ci_command(
    *,
    pictures_uri: str | None,
    storage_uri: str | None,
    comment_file: Path | None,
    preset: str,
    assignments: tuple[str, ...],
    parameter_file: Path | None,
    **given: Any,
) -> int:
    """Retrain on the pictures at PICTURES_URI from a CI job, and comment on what came out.

    First the whole pipeline runs on the sample pictures, on this machine. Then it runs on the cluster, as a version
    named after the commit, and is followed to its end; with neither data nor settings changed that takes no training.
    The exit code is 0 for promoted or unchanged, 1 for failed, 2 for wrong usage, and 3 when the gate says no.
    """
    from rich.console import Console

    from repot_pipelines.ci.comment import unfinished_comment
    from repot_pipelines.ci.job import run_ci
    from repot_pipelines.ci.masking import MaskedStream, mask, read_secrets
    from repot_pipelines.ci.provider import CommentFiles, summary_path
    from repot_pipelines.run_request import read_request

    secrets = read_secrets(os.environ, [given["token_file"], given["cookie_file"]])

    def clean(text: str) -> str:
        return mask(text, secrets)

    files = CommentFiles(path=comment_file, summary_path=summary_path(os.environ), clean=clean)
    files.open(unfinished_comment())
    options = replace(_take_options(given, os.environ), clean=clean)

    def prepare() -> "tuple[Request, Server]":
        parameters = {name: given.pop(name) for name in list(given) if name in PRESETS[preset]}
        request = read_request(
            preset=preset,
            parameter_file=parameter_file,
            options={**parameters, "pictures_uri": pictures_uri, "storage_uri": storage_uri},
            assignments=assignments,
        )
        return request, connect_as_told(given)

    stream: Any = MaskedStream(sys.stdout, secrets)
    end = run_ci(prepare, options, Console(file=stream))
    return _finish(end, files.write(end.comment), secrets)


def _take_options(given: dict[str, Any], environment: "Mapping[str, str]") -> "CiSettings":
    from repot_pipelines.ci.job import CiSettings
    from repot_pipelines.ci.provider import commit_version, read_commit
    from repot_pipelines.kfp_server.submission import StartOptions

    start = StartOptions(
        experiment=given.pop("experiment"),
        run_name=given.pop("run_name"),
        pipeline_name=given.pop("pipeline_name") or "",
        version_name=given.pop("version_name")
        or commit_version(read_commit(environment, Path.cwd())),
        service_account=given.pop("service_account"),
        pipeline_root=given.pop("pipeline_root"),
        use_cache=not given.pop("no_cache"),
    )
    return CiSettings(
        start=start,
        skip_sample=given.pop("skip_sample"),
        poll_seconds=given.pop("poll_seconds"),
        show_logs=given.pop("show_logs"),
    )


def _finish(end: "CiResult", problems: list[str], secrets: frozenset[str]) -> int:
    """Return the exit code, or raise what went wrong without its secrets."""
    from repot_pipelines.ci.masking import mask

    if end.error is None and not problems:
        return end.exit_code
    message = "\n".join([*([str(end.error)] if end.error else []), *problems])
    details = "".join(traceback.format_exception(end.error)) if end.error else ""
    raise CiFailedError(
        mask(message, secrets), exit_code=end.exit_code or 1, details=mask(details, secrets)
    ) from None
