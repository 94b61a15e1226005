"""The file that `repot predict --output` writes, and continues after an interruption.

    FILE             one line per picture (jsonl), or a header and rows (csv), in order
    FILE.run.json    which model and options it belongs to; written first, kept

A process that is killed leaves complete lines and at most one that is cut off, which the next start
removes. It then compares the pictures of the complete lines with its own, one by one, and continues
with the first that has no line. So the file never mixes models, options or lists.
"""

import csv
import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from repot.errors import StorageError, UsageError, join_names
from repot.json_record import JsonRecord, read_record, write_record

OUTPUT_FORMATS = ("csv", "jsonl")
"""Formats of the file; a table cannot be read back."""

_RUN_SUFFIX = ".run.json"
# File names that are not UTF-8 are written and read back unchanged.
_ERRORS = "surrogateescape"
_MAX_CELL = 1 << 24
_ADVICE = "Name another file, or delete this one to start again."


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionRun(JsonRecord):
    """What the lines of a file depend on besides the pictures.

    Attributes:
        model: Folder of the model.
        model_digest: See `repot.predictor.model_digest`.
        output_format: "csv" or "jsonl".
        top: Number of labels per picture, at most those of the model.
    """

    model: str
    model_digest: str
    output_format: str
    top: int


class _Record(NamedTuple):
    """The lines of one picture.

    Attributes:
        picture: Its name.
        has_problem: Whether it cannot be used.
        num_labels: Number of labels.
        end: Offset of the byte after its last line.
    """

    picture: str
    has_problem: bool
    num_labels: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionFile:
    """An open file of predictions.

    Attributes:
        file: Where lines are appended.
        has_header: Whether the file begins with the header of its format already.
        num_pictures: Pictures in it.
        num_problems: Those of them that cannot be used.
    """

    file: BinaryIO
    has_header: bool
    num_pictures: int
    num_problems: int

    def write(self, line: str) -> None:
        """Append one line, or the rows of one line that has line breaks in quotes."""
        self.file.write(f"{line}\n".encode(errors=_ERRORS))


@contextmanager
def open_prediction_file(
    path: Path, run: PredictionRun, pictures: Iterator[str]
) -> Iterator[PredictionFile]:
    """Open a file for the predictions of a run; continue it if the same run began it.

    Args:
        path: The file.
        run: The run.
        pictures: All pictures of the run; those that the file has already are taken from it.

    Raises:
        UsageError: The file belongs to something else, or another process writes it.
        StorageError: It cannot be written.
    """
    run_path = path.with_name(path.name + _RUN_SUFFIX)
    try:
        with path.open("a+b") as file:
            _lock(file, path)
            if file.tell() or run_path.exists():
                _check_run(path, run_path, run)
            else:
                write_record(str(run_path.absolute()), run)
            file.seek(0)
            opened, end = _read_back(file, run, path, pictures)
            file.truncate(end)
            file.seek(end)
            yield opened
    except OSError as err:
        reason = err.strerror or type(err).__name__
        raise StorageError(
            f"--output must be a file that can be written; {path}: {reason}. Name another file, or "
            "make room for it."
        ) from err


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"--output must be written by one process; another one is writing {path}. Wait for it, "
            "or name another file."
        ) from None


def _check_run(path: Path, run_path: Path, run: PredictionRun) -> None:
    """Check that a file belongs to a run."""
    if not run_path.exists():
        raise UsageError(
            "--output must be a new file, or one that `repot predict --output` began; "
            f"{path} exists, and {run_path.name} beside it does not. {_ADVICE}"
        )
    earlier = read_record(str(run_path.absolute()), PredictionRun, error=UsageError, advice=_ADVICE)
    before, now = earlier.to_json(), run.to_json()
    if earlier.model_digest == run.model_digest:
        # The same model may have been moved.
        before["model"] = now["model"]
    names = [name for name, value in now.items() if before[name] != value]
    if names:
        raise UsageError(
            f"--output must be a file of the same model and options to be continued; {path} has "
            f"{join_names(f'{name}={before[name]!r}' for name in names)}, this run "
            f"{join_names(f'{name}={now[name]!r}' for name in names)}. {_ADVICE}"
        )


def _read_back(
    file: BinaryIO, run: PredictionRun, path: Path, pictures: Iterator[str]
) -> tuple[PredictionFile, int]:
    """Take the pictures of all complete records from the list.

    Returns:
        What the file has, and the offset of the byte after its last complete record.
    """
    is_csv = run.output_format == "csv"
    records = _csv_records(file, run.top) if is_csv else _json_records(file)
    end = next(records).end
    has_header = end > 0
    num_pictures, num_problems = 0, 0
    for record in records:
        num_pictures += 1
        picture = next(pictures, None)
        if picture != record.picture:
            listed = "the list ends before" if picture is None else f"the list has {picture!r}"
            raise UsageError(
                f"--output must be a file of the same pictures to be continued; picture "
                f"{num_pictures} of {path} is {record.picture!r}, but {listed}. {_ADVICE}"
            )
        num_problems += record.has_problem
        end = record.end
    opened = PredictionFile(
        file=file, has_header=has_header, num_pictures=num_pictures, num_problems=num_problems
    )
    return opened, end


def _json_records(file: BinaryIO) -> Iterator[_Record]:
    """Yield an empty record in place of a header, then every complete record."""
    yield _Record("", has_problem=False, num_labels=0, end=0)
    end = 0
    for line in file:
        end += len(line)
        try:
            value = json.loads(line)
            record = _Record(value["picture"], "problem" in value, len(value.get("names", ())), end)
        except (ValueError, KeyError, TypeError):
            return
        if not line.endswith(b"\n"):
            return
        yield record


def _csv_records(file: BinaryIO, top: int) -> Iterator[_Record]:
    """Yield the header as a record, then every complete record: all rows of a picture."""
    end = 0
    is_cut_off = False
    pending: _Record | None = None

    def lines() -> Iterator[str]:
        nonlocal end, is_cut_off
        for line in file:
            end += len(line)
            is_cut_off = not line.endswith(b"\n")
            yield line.decode(errors=_ERRORS)

    csv.field_size_limit(_MAX_CELL)
    rows = csv.reader(lines(), strict=True)
    # What a killed process wrote last may end within quotes.
    try:
        header = next(rows, [])
        if not header or is_cut_off:
            yield _Record("", has_problem=False, num_labels=0, end=0)
            return
        yield _Record("", has_problem=False, num_labels=0, end=end)
        rank, problem = header.index("rank"), header.index("problem")
        for row in rows:
            if is_cut_off or len(row) != len(header):
                break
            # The first row of a picture completes the one before.
            if row[rank] in ("", "1") and pending is not None:
                yield pending
            number = int(row[rank] or 0)
            pending = _Record(row[0], has_problem=bool(row[problem]), num_labels=number, end=end)
    except (csv.Error, ValueError):
        pass
    if pending is not None and (pending.has_problem or pending.num_labels == top):
        yield pending
