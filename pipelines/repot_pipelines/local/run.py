"""Run the compiled pipeline on this machine, and collect its report, metrics and model."""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from repot import layout, storage
from repot.errors import EXIT_FAILED, EXIT_USAGE, RepotError, StorageError, UsageError
from repot.evaluation_record import EvaluationRecord
from repot.evaluator.verdict import Verdict
from repot.json_record import read_record
from repot.layout import METRICS_NAME, MODEL_FOLDER, MODEL_RECORD_NAME, REPORT_NAME
from repot_pipelines.compiled import find_compiled
from repot_pipelines.local.docker import check_docker, pull_images
from repot_pipelines.local.process import ProcessResult, run_in_process
from repot_pipelines.local.progress_view import make_view

SAMPLE_FOLDER = Path(__file__).parent.parent / "sample" / "pictures"
LOG_NAME = "pipeline.log"


class PipelineFailedError(RepotError):
    """A task of the local run failed.

    Args:
        message: The task's error message.
        exit_code: The task's exit code.
        details: The task's traceback; "" if there is none.
    """

    def __init__(self, message: str, *, exit_code: int = EXIT_FAILED, details: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.details = details


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """The results of a finished run.

    Attributes:
        evaluation: Scores of the version.
        verdict: The gate's verdict.
        output_path: The output folder: report.html, metrics.json, model/.
        version_uri: The published version under the storage URI.
    """

    evaluation: EvaluationRecord
    verdict: Verdict
    output_path: Path
    version_uri: str

    @property
    def is_promoted(self) -> bool:
        """Return whether the version is in production now."""
        return self.verdict.decision in ("promote", "unchanged")

    def metrics_text(self) -> str:
        """Return the output folder's metrics.json: the scores and the gate's decision."""
        metrics = {
            **self.evaluation.to_json(),
            "promoted": self.is_promoted,
            "verdict": self.verdict.decision,
        }
        return json.dumps(metrics, indent=2, sort_keys=True) + "\n"


def run_pipeline(
    arguments: dict[str, Any],
    *,
    output_path: Path,
    console: Console,
    verbose: bool,
    runner: str = "subprocess",
) -> RunOutcome:
    """Run the compiled pipeline, and put report, metrics and model into the output folder.

    Args:
        arguments: Pipeline parameters by name, including `pictures_uri` and `storage_uri`.
        output_path: Folder for report, metrics and model; created if missing.
        console: Where progress is shown.
        verbose: Print the output of KFP and the tasks to stderr instead of the log file.
        runner: "subprocess" or "docker"; see `run_in_process`.

    Raises:
        PipelineFailedError: A task failed.
        UsageError: The output folder cannot be used.
        KeyboardInterrupt: Ctrl-C; by then all processes of the run have ended.
    """
    _check_output(output_path, arguments["pictures_uri"])
    if runner == "docker":
        check_docker()
        pull_images([arguments["cpu_image"], arguments["trainer_image"]], console)
    with (
        tempfile.TemporaryDirectory(prefix="repot-") as work_folder,
        _open_log(output_path, verbose) as log,
        make_view(console) as view,
    ):
        result = run_in_process(
            find_compiled(),
            arguments,
            runner=runner,
            work_folder=Path(work_folder),
            log=log,
            on_event=view.show,
        )
    _raise_if_failed(result, output_path)
    return _collect(result, arguments, output_path)


def _check_output(output_path: Path, pictures_uri: str) -> None:
    """Create the output folder.

    Raises:
        UsageError: It is inside the pictures' folder, not writable, or its `model` was not created
            by repot.
    """
    if f"{storage.normalise(output_path)}/".startswith(f"{pictures_uri}/"):
        raise UsageError(
            "The output folder must not lie inside the pictures' folder, where the next run would "
            f"treat it as a label; got {output_path} in {pictures_uri}. Choose another --output."
        )
    try:
        storage.check_writable(storage.normalise(output_path))
    except StorageError as err:
        raise UsageError(f"The output folder must be writable; {err}") from err
    model = output_path / MODEL_FOLDER
    if model.exists() and not (model / MODEL_RECORD_NAME).is_file():
        raise UsageError(
            f"{model} exists and is not a repot model. Choose another --output, or move it away."
        )


@contextmanager
def _open_log(output_path: Path, verbose: bool) -> Iterator[IO[bytes]]:
    if verbose:
        yield sys.stderr.buffer
    else:
        with (output_path / LOG_NAME).open("wb") as log:
            yield log


def _raise_if_failed(result: ProcessResult, output_path: Path) -> None:
    failure = result.failure
    if failure is not None:
        # Wrong options are the user's input, not a fault of the task that checks them.
        where = "" if failure["exit_code"] == EXIT_USAGE else f"{failure['task']}: "
        raise PipelineFailedError(
            f"{where}{failure['message']}",
            exit_code=failure["exit_code"],
            details=failure["traceback"],
        )
    if result.return_code != 0:
        log_path = output_path / LOG_NAME
        last_line = _last_line(log_path)
        output = f"its log ends with {last_line!r}" if last_line else "its log is empty"
        raise PipelineFailedError(
            f"The local pipeline runner ended with status {result.return_code}, and no task "
            f"reported a reason; {output}. "
            f"See the end of {log_path}, or run again with --verbose."
        )


def _last_line(log_path: Path) -> str:
    lines = (
        log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        if log_path.is_file()
        else []
    )
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _collect(result: ProcessResult, arguments: dict[str, Any], output_path: Path) -> RunOutcome:
    version_uri = layout.model_uri(
        arguments["storage_uri"], arguments["model_name"], result.results["training_id"]
    )
    outcome = RunOutcome(
        evaluation=read_record(storage.join(version_uri, METRICS_NAME), EvaluationRecord),
        verdict=Verdict.from_json(result.results["verdict"]),
        output_path=output_path,
        version_uri=version_uri,
    )
    _replace_folder(output_path / MODEL_FOLDER, version_uri)
    (output_path / REPORT_NAME).write_bytes(storage.read_bytes(result.results["report_uri"]))
    (output_path / METRICS_NAME).write_text(outcome.metrics_text(), encoding="utf-8")
    return outcome


def _replace_folder(folder: Path, source_uri: str) -> None:
    """Replace a local folder by a copy of a stored one; the folder is complete at any moment."""
    new_folder = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new_folder, ignore_errors=True)
    storage.download_folder(source_uri, new_folder)
    old_folder = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old_folder, ignore_errors=True)
    if folder.exists():
        folder.rename(old_folder)
    new_folder.rename(folder)
    shutil.rmtree(old_folder, ignore_errors=True)
