"""`repot run`: from a folder of pictures to a model and a report, by running the compiled pipeline here."""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from repot import layout, storage
from repot.errors import RepotError, StorageError, UsageError
from repot.evaluation_record import EvaluationRecord
from repot.evaluator.verdict import Verdict
from repot.json_record import read_record
from repot.layout import METRICS_NAME, MODEL_FOLDER, MODEL_RECORD_NAME, REPORT_NAME
from repot_pipelines.compiled import find_compiled
from repot_pipelines.local.docker import check_docker, pull_images
from repot_pipelines.local.parent import LocalRun, run_locally
from repot_pipelines.local.progress_view import make_view

SAMPLE_FOLDER = Path(__file__).parent.parent / "sample" / "pictures"
LOG_NAME = "pipeline.log"


class PipelineFailedError(RepotError):
    """A task of the local run failed; carries the task's own exit code and traceback."""

    def __init__(self, message: str, *, exit_code: int = 1, details: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.details = details


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """What a finished run left behind.

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
    """Run the pipeline that ships and put report, metrics and model into the output folder.

    Args:
        arguments: Pipeline parameters by name, `pictures_uri` and `storage_uri` among them.
        output_path: Folder for what a person looks at; made when it is not there.
        console: Where progress is drawn.
        verbose: Whether kfp's and the tasks' own words are shown too.
        runner: "subprocess" or "docker", see `run_locally`.

    Raises:
        PipelineFailedError: A task failed.
        UsageError: The output folder cannot be used.
        KeyboardInterrupt: Ctrl-C; nothing is left running.
    """
    _check_output(output_path, arguments["pictures_uri"])
    if runner == "docker":
        check_docker()
        pull_images([arguments["cpu_image"], arguments["trainer_image"]], console)
    with tempfile.TemporaryDirectory(prefix="repot-") as scratch, _log(output_path, verbose) as log:
        view = make_view(console)
        with view:
            run = run_locally(
                find_compiled(),
                arguments,
                runner=runner,
                work_folder=Path(scratch),
                log=log,
                on_event=view.show,
            )
    _raise_if_failed(run, output_path)
    return _collect(run, arguments, output_path)


def _check_output(output_path: Path, pictures_uri: str) -> None:
    """Make the output folder, and refuse one among the pictures, or whose `model` is not a repot model."""
    if f"{storage.normalise(output_path)}/".startswith(f"{pictures_uri}/"):
        raise UsageError(
            f"The output folder must not lie inside the pictures' folder, where the next run would take it for a "
            f"label; got {output_path} in {pictures_uri}. Choose another --output."
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
def _log(output_path: Path, verbose: bool) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        yield (
            sys.stderr.buffer
            if verbose
            else stack.enter_context((output_path / LOG_NAME).open("wb"))
        )


def _raise_if_failed(run: LocalRun, output_path: Path) -> None:
    if run.failure is not None:
        failure = run.failure
        # What is wrong with the words of the command line is nothing that a task did.
        where = "" if failure["exit_code"] == UsageError.exit_code else f"{failure['task']}: "
        raise PipelineFailedError(
            f"{where}{failure['message']}",
            exit_code=failure["exit_code"],
            details=failure["traceback"],
        )
    if run.return_code != 0:
        raise PipelineFailedError(
            f"The local pipeline runner ended with status {run.return_code} and no task said why. "
            f"Its last words: {_last_line(output_path / LOG_NAME)} Look at the end of {output_path / LOG_NAME}, "
            "or run again with --verbose."
        )


def _last_line(log_path: Path) -> str:
    lines = (
        log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        if log_path.is_file()
        else []
    )
    return next((line.strip() for line in reversed(lines) if line.strip()), "none.")


def _collect(run: LocalRun, arguments: dict[str, Any], output_path: Path) -> RunOutcome:
    version_uri = layout.model_uri(
        arguments["storage_uri"], arguments["model_name"], run.results["training_id"]
    )
    outcome = RunOutcome(
        evaluation=read_record(storage.join(version_uri, METRICS_NAME), EvaluationRecord),
        verdict=Verdict.from_json(run.results["verdict"]),
        output_path=output_path,
        version_uri=version_uri,
    )
    _replace_folder(output_path / MODEL_FOLDER, version_uri)
    (output_path / REPORT_NAME).write_bytes(storage.read_bytes(run.results["report_uri"]))
    (output_path / METRICS_NAME).write_text(outcome.metrics_text(), encoding="utf-8")
    return outcome


def _replace_folder(folder: Path, source_uri: str) -> None:
    """Put a copy of a folder in another's place; a folder that is there is whole at any moment."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    storage.download_folder(source_uri, fresh)
    outdated = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(outdated, ignore_errors=True)
    if folder.exists():
        folder.rename(outdated)
    fresh.rename(folder)
    shutil.rmtree(outdated, ignore_errors=True)
