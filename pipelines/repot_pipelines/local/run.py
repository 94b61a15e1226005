"""Run the compiled pipeline on this machine, and collect its report, metrics and model."""

import csv
import errno
import io
import itertools
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import IO, Any

from rich.console import Console

from repot import layout, storage
from repot.errors import EXIT_FAILED, EXIT_USAGE, RepotError, StorageError, UsageError, printable
from repot.evaluation_record import EvaluationRecord
from repot.evaluator.verdict import IN_PRODUCTION, Verdict
from repot.json_record import read_record
from repot.layout import (
    DATA_PAGE_NAME,
    EVALUATION_FOLDER,
    METRICS_NAME,
    MODEL_FOLDER,
    MODEL_RECORD_NAME,
    REPORT_NAME,
    SUSPECTS_TABLE_NAME,
)
from repot_pipelines.compiled import find_compiled, pipeline_for
from repot_pipelines.local.docker import check_docker, pull_images
from repot_pipelines.local.events import follow_lines
from repot_pipelines.local.process import ProcessResult, run_in_process
from repot_pipelines.local.progress_view import make_view
from repot_pipelines.local.scratch import scratch_folder
from repot_pipelines.task_logs import LocalLogFilter

SAMPLE_FOLDER = Path(__file__).parent.parent / "sample" / "pictures"
LOG_NAME = "pipeline.log"
NUM_EARLIER_LOGS = 4
"""Logs of earlier runs that an output folder keeps, as pipeline.log.1 (the latest) and so on."""

_SIGNALS = {signal.value: signal.name for signal in Signals}
_DISK_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_LOG_TAIL_BYTES = 2**16


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
        output_path: The output folder: report.html, data.html, suspects.csv, metrics.json,
            model/.
        version_uri: The published version under the storage URI.
        kept_path: Where an edited suspects.csv is that this run did not use; None without one.
    """

    evaluation: EvaluationRecord
    verdict: Verdict
    output_path: Path
    version_uri: str
    kept_path: Path | None = None

    @property
    def is_promoted(self) -> bool:
        """Return whether the version is in production now."""
        return self.verdict.decision in IN_PRODUCTION

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
    show_logs: bool = False,
    runner: str = "subprocess",
) -> RunOutcome:
    """Run the compiled pipeline, and put reports, metrics and model into the output folder.

    Args:
        arguments: Settings by name, including `pictures_uri` and `storage_uri`.
        output_path: Folder for report, metrics and model; created if missing.
        console: Where progress is shown.
        verbose: Print the output of KFP and the tasks to stderr instead of the log file.
        show_logs: Print what the tasks write into the log file; not used with `verbose`.
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
        scratch_folder() as scratch,
        _open_log(output_path, verbose) as log,
        make_view(console) as view,
        _shown_log(output_path / LOG_NAME, console) if show_logs and not verbose else nullcontext(),
    ):
        result = run_in_process(
            pipeline_for(arguments) if runner == "docker" else find_compiled(),
            arguments,
            runner=runner,
            scratch=scratch,
            log=log,
            on_event=view.show,
        )
    _raise_if_failed(result, None if verbose else output_path / LOG_NAME)
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
        with os.fdopen(os.dup(sys.stderr.fileno()), "wb") as log:
            yield log
    else:
        path = output_path / LOG_NAME
        _keep_earlier_logs(path)
        # The log can contain URIs and paths that others must not read.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as log:
            yield log


@contextmanager
def _shown_log(path: Path, console: Console) -> Iterator[None]:
    """Print the lines that tasks write into the log during the block."""
    ended = threading.Event()
    log_filter = LocalLogFilter()

    def show() -> None:
        with path.open("rb") as stream:
            for line in follow_lines(stream, ended.is_set):
                for text in log_filter.read([line.decode(errors="replace")]):
                    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    thread = threading.Thread(target=show, name="log")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _keep_earlier_logs(path: Path) -> None:
    """Rename pipeline.log to pipeline.log.1, that to pipeline.log.2, and so on; drop the oldest."""
    names = [path, *(path.with_name(f"{path.name}.{i}") for i in range(1, NUM_EARLIER_LOGS + 1))]
    for older, newer in itertools.pairwise(reversed(names)):
        with suppress(FileNotFoundError):
            newer.chmod(0o600)
            newer.replace(older)


def _raise_if_failed(result: ProcessResult, log_path: Path | None) -> None:
    """Raise the error of a failed run; `log_path` is None if its output went to the terminal."""
    failure = result.failure
    if failure is not None:
        # Wrong options are the user's input, not a fault of the task that checks them.
        where = "" if failure.exit_code == EXIT_USAGE else f"{failure.task}: "
        message = failure.message
        if any(reason in message for reason in _DISK_FULL) and "TMPDIR" not in message:
            message = f"{message}. {_free_space_advice()}"
        raise PipelineFailedError(
            f"{where}{message}",
            exit_code=failure.exit_code,
            details=failure.traceback,
        )
    if result.return_code != 0:
        raise PipelineFailedError(" ".join(_explain_ending(result, log_path)))


def _explain_ending(result: ProcessResult, log_path: Path | None) -> Iterator[str]:
    """Yield sentences about a process that ended without a message: how, why, and what to do."""
    name = f"The task {result.task}" if result.task else "The local pipeline runner"
    # A shell reports a signal as 128 plus its number, Python as the negative number.
    signal = -result.status if result.status < 0 else result.status - 128
    tail = _log_tail(log_path)
    if signal in _SIGNALS:
        yield f"{name} was ended by the signal {_SIGNALS[signal]}, before it could report a reason."
    else:
        yield f"{name} ended with status {result.status} and reported no reason."
    if any(reason in tail for reason in _DISK_FULL):
        yield f"A disk is full. {_free_space_advice()}"
    elif signal == Signals.SIGKILL:
        yield (
            "Most likely the memory ran out. Close other programs, choose a smaller --batch-size "
            "or --backbone, or use a machine with more memory."
        )
    elif signal in (Signals.SIGTERM, Signals.SIGINT, Signals.SIGHUP):
        yield "Another process ended it. Run the same command again to continue."
    elif signal in _SIGNALS:
        yield "A library failed in native code. Run `repot doctor`, and run the command again."
    if log_path is None:
        yield "See the output above."
    else:
        last_line = next((line for line in reversed(tail.splitlines()) if line.strip()), "")
        yield f"Its log ends with {last_line.strip()!r}." if last_line else "Its log is empty."
        yield f"See the end of {log_path}, or run again with --verbose."


def _free_space_advice() -> str:
    return (
        "Free some space where the output, the storage and temporary files are; the environment "
        f"variable TMPDIR moves temporary files, now in {tempfile.gettempdir()}, to another disk."
    )


def _log_tail(log_path: Path | None) -> str:
    if log_path is None or not log_path.is_file():
        return ""
    with log_path.open("rb") as file:
        file.seek(max(0, log_path.stat().st_size - _LOG_TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace")


def _collect(result: ProcessResult, arguments: dict[str, Any], output_path: Path) -> RunOutcome:
    verdict = Verdict.from_json(result.results["verdict"])
    version_uri = layout.model_uri(
        arguments["storage_uri"], arguments["model_name"], verdict.version
    )
    storage_uri = arguments["storage_uri"]
    evaluation_uri = storage.join(layout.run_uri(storage_uri, verdict.version), EVALUATION_FOLDER)
    table_uri = storage.join(evaluation_uri, SUSPECTS_TABLE_NAME)
    outcome = RunOutcome(
        evaluation=read_record(storage.join(version_uri, METRICS_NAME), EvaluationRecord),
        verdict=verdict,
        output_path=output_path,
        version_uri=version_uri,
        kept_path=_keep_edits(output_path / SUSPECTS_TABLE_NAME, table_uri),
    )
    _replace_folder(output_path / MODEL_FOLDER, version_uri)
    (output_path / REPORT_NAME).write_bytes(storage.read_bytes(result.results["report_uri"]))
    dataset_uri = layout.dataset_uri(storage_uri, outcome.evaluation.dataset_id)
    for folder_uri, name in ((dataset_uri, DATA_PAGE_NAME), (evaluation_uri, SUSPECTS_TABLE_NAME)):
        uri = storage.join(folder_uri, name)
        (output_path / name).unlink(missing_ok=True)
        if storage.exists(uri):  # A dataset or a run of an earlier version has none.
            (output_path / name).write_bytes(storage.read_bytes(uri))
    (output_path / METRICS_NAME).write_text(outcome.metrics_text(), encoding="utf-8")
    return outcome


def _keep_edits(path: Path, new_uri: str) -> Path | None:
    """Rename a suspects.csv that a person has edited, unless the new one has all its edits.

    The new one begins with the corrections of this run, so with those of an edited file that this
    run was given.
    """
    if not path.is_file():
        return None
    new = _edits(storage.read_text(new_uri)) if storage.exists(new_uri) else set()
    if _edits(path.read_text(encoding="utf-8-sig", errors="replace")) <= new:
        return None
    number = 1
    while (kept := path.with_name(f"{path.stem}-edited-{number}{path.suffix}")).exists():
        number += 1
    return path.rename(kept)


def _edits(text: str) -> set[tuple[str, str]]:
    """Return path and new label of the rows of a suspects.csv that have a new label."""
    # Where the comma separates decimals, spreadsheet programs write semicolons.
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    # Strict: otherwise a quote without its partner makes one cell of the rest of the file.
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    unreadable = {("", text)}  # A person has changed it beyond recognition.
    try:
        if not {"path", "new_label"} <= set(rows.fieldnames or ()):
            return unreadable
        cells = [(str(row["path"]), str(row["new_label"] or "").strip()) for row in rows]
    except csv.Error:
        return unreadable
    removals = ("-", "'-")
    return {(path, "remove" if label in removals else label) for path, label in cells if label}


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
