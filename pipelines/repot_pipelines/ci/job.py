"""The order of things in a CI job: the sample, the run on the cluster, the gate, the comment."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from repot.errors import RepotError
from repot.evaluator.verdict import NO_CHAMPION
from repot_pipelines.ci.comment import (
    StartedRun,
    failure_comment,
    no_gate_comment,
    stopped_comment,
    verdict_comment,
)
from repot_pipelines.ci.origins import Origins, read_origins
from repot_pipelines.ci.sample_check import check_sample
from repot_pipelines.kfp_server.registry import Version, ensure_experiment
from repot_pipelines.kfp_server.runs import (
    StartOptions,
    ensure_server_version,
    find_open_run,
    submit,
)
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.run_request import Request
from repot_pipelines.watch.follow import RunEnd, follow
from repot_pipelines.watch.gate_result import GateVerdict
from repot_pipelines.watch.run_report import print_end
from repot_pipelines.watch.task_view import make_task_view

GATE_SAID_NO = 3


class JobStoppedError(RepotError):
    """Ctrl-C or SIGTERM; what runs on the cluster goes on."""

    exit_code = 130

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"The job was stopped while it waited; the run goes on. Start the job again and it follows the same run, "
            f"or look with `repot submit --attach {run_id}`."
            if run_id
            else "The job was stopped before a run was started on the cluster."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CiOptions:
    """How a CI job goes.

    Attributes:
        start: How the run is started.
        skip_sample: Whether the check on the sample pictures is left out.
        poll_seconds: Time between two looks at the run.
        show_logs: Whether what the pods log is printed.
        clean: Takes secrets out of a text, before signs in it become Markdown's.
    """

    start: StartOptions
    skip_sample: bool = False
    poll_seconds: float = 5.0
    show_logs: bool = False
    clean: Callable[[str], str] = str


@dataclass(frozen=True, kw_only=True, slots=True)
class CiEnd:
    """How a CI job ended.

    Attributes:
        exit_code: 0 promoted or unchanged, 1 failed, 2 wrong usage, 3 the gate said no, 130 stopped.
        comment: The comment in Markdown.
        error: What went wrong; None where nothing did.
    """

    exit_code: int
    comment: str
    error: RepotError | None = None


def run_ci(
    prepare: Callable[[], tuple[Request, Server]], options: CiOptions, console: Console
) -> CiEnd:
    """Check, retrain, judge; whatever happens there is a comment.

    Args:
        prepare: Checks the parameters and reaches the server: what is wrong there is told before anything runs.
        options: How the job goes.
        console: Where progress goes.
    """
    run: StartedRun | None = None
    try:
        request, server = prepare()
        if not options.skip_sample:
            _say(console, f"sample   {check_sample(console)}")
        run = _start(console, server, request, options)
        with make_task_view(console) as view:
            end = follow(
                server,
                run.run_id,
                view,
                poll_seconds=options.poll_seconds,
                show_logs=options.show_logs,
            )
        print_end(console, end)
        return _judged(run, end, str(request.values["storage_uri"]), options.clean)
    except RepotError as err:
        return CiEnd(
            exit_code=err.exit_code,
            comment=failure_comment(options.clean(str(err)), run),
            error=err,
        )
    except KeyboardInterrupt:
        stopped = JobStoppedError(run.run_id if run else "")
        return CiEnd(exit_code=stopped.exit_code, comment=stopped_comment(run), error=stopped)


def _start(console: Console, server: Server, request: Request, options: CiOptions) -> StartedRun:
    """Start the run, or take the one of an earlier job that is still going on."""
    start = options.start
    version = ensure_server_version(server, request, start) if start.use_cache else None
    going_on = _earlier_run(server, version, request, start.experiment)
    if version is not None:
        _say(
            console,
            f"version  {version.name} ({'uploaded' if version.is_new else 'there already'})",
        )
    if going_on is None:
        submitted = submit(server, request, start)
        run_id, name = submitted.run_id, submitted.name
    else:
        run_id, name = (
            str(going_on.run_id),
            f"{going_on.display_name} (going on since an earlier job)",
        )
    address = server.link("runs", run_id)
    _say(console, f"run      {name}, {run_id}")
    _say(console, f"look     {address}")
    return StartedRun(
        run_id=run_id,
        address=options.clean(address),
        version_name=version.name if version else "",
        model_name=str(request.values["model_name"]),
    )


def _earlier_run(
    server: Server, version: Version | None, request: Request, experiment: str
) -> Any | None:
    """Return the run that an earlier job of the same commit started and that is still going on."""
    if version is None or version.is_new:
        return None
    return find_open_run(
        server, version, request.given, experiment_id=ensure_experiment(server, experiment)
    )


def _judged(run: StartedRun, end: RunEnd, storage_uri: str, clean: Callable[[str], str]) -> CiEnd:
    if end.verdict is None:
        return CiEnd(exit_code=0, comment=no_gate_comment(run))
    reasons = tuple(map(clean, end.verdict.reasons))
    said = replace(end.verdict, headline=clean(end.verdict.headline), reasons=reasons)
    return CiEnd(
        exit_code=GATE_SAID_NO if said.said_no else 0,
        comment=verdict_comment(run, said, _read_origins(storage_uri, said)),
    )


def _read_origins(storage_uri: str, said: GateVerdict) -> Origins:
    version, champion_version = (
        said.facts.get("version", ""),
        said.facts.get("champion_version", NO_CHAMPION),
    )
    if not version or version == champion_version:
        return Origins()
    return read_origins(
        storage_uri,
        version=version,
        champion_version="" if champion_version == NO_CHAMPION else champion_version,
    )


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
