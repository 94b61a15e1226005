"""A CI job from start to end: sample check, run on the cluster, gate, comment."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from repot.errors import EXIT_INTERRUPTED, RepotError
from repot.evaluator.verdict import NO_CHAMPION
from repot.settings import CLUSTER_DEFAULT
from repot_pipelines.ci.comment import (
    StartedRun,
    failure_comment,
    no_gate_comment,
    stopped_comment,
    verdict_comment,
)
from repot_pipelines.ci.lineage import Lineage, read_lineage
from repot_pipelines.kfp_server.registry import PipelineVersion, ensure_experiment
from repot_pipelines.kfp_server.runs import find_active_run
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.kfp_server.submission import StartOptions, ensure_request_version, submit
from repot_pipelines.local.run import SAMPLE_FOLDER, run_pipeline
from repot_pipelines.local.scratch import scratch_folder
from repot_pipelines.presets import PRESETS
from repot_pipelines.run_request import RunRequest
from repot_pipelines.watch.follow import FollowOptions, follow_run
from repot_pipelines.watch.gate_result import GateResult
from repot_pipelines.watch.run_result import RunResult, print_run_result
from repot_pipelines.watch.task_view import make_task_view

_NUM_LOG_LINES = 30


class SampleCheckError(RepotError):
    """The pipeline fails on the sample: the code is broken, or this machine cannot run it."""


class JobStoppedError(RepotError):
    """The job was stopped by Ctrl-C or SIGTERM; its run on the cluster continues."""

    exit_code = EXIT_INTERRUPTED

    def __init__(self, run_id: str) -> None:
        super().__init__(
            "The job was stopped while it waited; the run continues. Start the job again to follow "
            f"the same run, or follow it with `repot submit --attach {run_id}`."
            if run_id
            else "The job was stopped before it started a run on the cluster."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CiSettings:
    """Settings of a CI job.

    Attributes:
        start: How the run is started.
        follow: How the run is followed.
        skip_sample: Whether to leave out the check on the sample pictures.
        clean: Masks secrets in a text; applied before the text is escaped as Markdown.
    """

    start: StartOptions
    follow: FollowOptions
    skip_sample: bool = False
    clean: Callable[[str], str] = str


@dataclass(frozen=True, kw_only=True, slots=True)
class CiResult:
    """Result of a CI job.

    Attributes:
        exit_code: 0 promoted or unchanged, 1 failed, 2 wrong usage, 3 rejected by the gate or
            undecided, 130 stopped.
        comment: The comment in Markdown.
        error: What went wrong; None if nothing did.
    """

    exit_code: int
    comment: str
    error: RepotError | None = None


def run_ci(
    prepare: Callable[[], tuple[RunRequest, Server]], settings: CiSettings, console: Console
) -> CiResult:
    """Run the whole job; the result has a comment even if a step fails.

    Args:
        prepare: Checks the parameters and connects to the server. If it raises, nothing runs.
        settings: Settings of the job.
        console: Where progress is printed.
    """
    run: StartedRun | None = None
    try:
        request, server = prepare()
        if not settings.skip_sample:
            _print(console, f"sample   {check_sample(console)}")
        run = _start(console, server, request, settings)
        with make_task_view(console) as view:
            run_result = follow_run(server, run.run_id, view, settings.follow)
        print_run_result(console, run_result)
        return _result(run, run_result, str(request.values["storage_uri"]), settings.clean)
    except RepotError as err:
        return CiResult(
            exit_code=err.exit_code,
            comment=failure_comment(settings.clean(str(err)), run),
            error=err,
        )
    except KeyboardInterrupt:
        stopped = JobStoppedError(run.run_id if run else "")
        return CiResult(exit_code=stopped.exit_code, comment=stopped_comment(run), error=stopped)


def check_sample(console: Console) -> str:
    """Run the whole pipeline on the built-in sample, on this machine, and return its score as text.

    Everything is written to a temporary folder and deleted.

    Args:
        console: Where progress is printed.

    Raises:
        SampleCheckError: A task failed; the message ends with the log if no task gave a reason.
    """
    with scratch_folder() as scratch:
        output_path = scratch.path / "output"
        arguments = {
            **PRESETS["laptop"],
            "pictures_uri": str(SAMPLE_FOLDER),
            "storage_uri": str(scratch.path / "storage"),
        }
        try:
            outcome = run_pipeline(
                arguments, output_path=output_path, console=console, verbose=False
            )
        except RepotError as err:
            raise SampleCheckError(_sample_failure(str(err), output_path / "pipeline.log")) from err
    evaluation = outcome.evaluation
    return f"precision@1 {evaluation.precision_at_1:.3f} on {evaluation.num_examples} pictures"


def _sample_failure(reason: str, log_path: Path) -> str:
    """Return the error message, with the end of the log if the reason refers to that file.

    The log is deleted with the temporary folder.
    """
    lines = [
        f"The check on the sample pictures failed, and nothing was sent to the cluster. {reason}"
    ]
    if str(log_path) in reason and log_path.is_file():
        log = log_path.read_text(encoding="utf-8", errors="replace")
        lines += log.splitlines()[-_NUM_LOG_LINES:]
    return "\n".join(lines)


def _start(
    console: Console, server: Server, request: RunRequest, settings: CiSettings
) -> StartedRun:
    """Start the run, or take over the unfinished run of an earlier job."""
    start = settings.start
    version = ensure_request_version(server, request, start) if start.use_cache else None
    earlier = _find_earlier_run(server, version, request, start.experiment)
    if version is not None:
        state = "uploaded" if version.is_new else "already there"
        _print(console, f"version  {version.name} ({state})")
    if earlier is None:
        submitted = submit(server, request, start, version=version)
        run_id, name = submitted.run_id, submitted.name
    else:
        run_id = str(earlier.run_id)
        name = f"{earlier.display_name} (started by an earlier job)"
    url = server.link("runs", run_id)
    _print(console, f"run      {name}, {run_id}")
    _print(console, f"link     {url}")
    return StartedRun(
        run_id=run_id,
        url=settings.clean(url),
        version_name=version.name if version else "",
        model_name=str(request.values["model_name"]),
    )


def _find_earlier_run(
    server: Server, version: PipelineVersion | None, request: RunRequest, experiment: str
) -> Any | None:
    """Return the unfinished run that an earlier job started for the same commit, or None."""
    if version is None or version.is_new:
        return None
    return find_active_run(
        server, version, request.sent, experiment_id=ensure_experiment(server, experiment)
    )


def _result(
    run: StartedRun, run_result: RunResult, storage_uri: str, clean: Callable[[str], str]
) -> CiResult:
    gate = run_result.gate
    if gate is None:
        return CiResult(exit_code=run_result.exit_code, comment=no_gate_comment(run))
    reasons = tuple(map(clean, gate.reasons))
    gate = replace(gate, headline=clean(gate.headline), reasons=reasons)
    return CiResult(
        exit_code=run_result.exit_code,
        comment=verdict_comment(run, gate, _lineage(storage_uri, gate)),
    )


def _lineage(storage_uri: str, gate: GateResult) -> Lineage:
    record = gate.record
    if record is None or record.version == record.champion_version:
        return Lineage()
    if storage_uri == CLUSTER_DEFAULT:
        return Lineage(problem="it is the cluster's own; this job sets no --storage-uri.")
    return read_lineage(
        storage_uri,
        version=record.version,
        champion_version="" if record.champion_version == NO_CHAMPION else record.champion_version,
    )


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
