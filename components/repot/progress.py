"""Progress events of a running task, and the reason of a failed one where people look for it.

`repot run` names a file in the environment variable REPOT_EVENTS and reads it. Every task, and
every process that a task starts, appends events to that file: one JSON object per line. If the
variable is not set, as in a pod, results go to the log only.

A task that fails prints its reason last, in a block of short lines (`format_failure`), and writes
it to the container's termination message, which Kubernetes and Argo show as the reason of the pod.
KFP 2.17 shows it in the log only: its API has a field for the error of a task, but never fills it.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repot.errors import EXIT_FAILED, RepotError
from repot.json_record import JsonRecord, RecordError
from repot.masking import mask, read_secrets
from repot.memory import describe_out_of_memory, is_out_of_memory

EVENTS_VARIABLE = "REPOT_EVENTS"
REPORT_INTERVAL_SECONDS = 0.2

PROCESS = secrets.token_hex(4)
"""Unique id of this process. A process number is not unique: each container counts from 1."""

TERMINATION_LOG_VARIABLE = "REPOT_TERMINATION_LOG"
"""Names the file for the container's termination message, if it is not TERMINATION_LOG."""
TERMINATION_LOG = Path("/dev/termination-log")
"""Kubernetes' default, which KFP leaves as it is; missing outside of a pod."""
_MAX_TERMINATION_BYTES = 4096  # Kubernetes drops the rest

MAX_FAILURE_COLUMNS = 70
"""KFP's log view, beside the graph in a window of 1400 pixels, cuts longer lines off."""
_HEADING = "=== {} failed ==="
_FAILURE = re.compile(r"^=== .+ failed ===\n((?:.*\S.*\n?)+)", re.MULTILINE)
_CONTINUATION = "    "
"""In front of the rest of a wrapped line; lines of messages are indented less."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskStarted(JsonRecord):
    """A process started to work on a task; several processes can work on one task."""

    process: str
    task: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskProgress(JsonRecord):
    """`done` of `total` units of a process's share are done; total 0 means unknown."""

    process: str
    task: str
    done: int
    total: int
    unit: str
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFinished(JsonRecord):
    """A process finished its share of a task."""

    process: str
    task: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskNotice(JsonRecord):
    """A line for the user."""

    process: str
    task: str
    text: str
    is_warning: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult(JsonRecord):
    """Values for the caller of the whole pipeline, by name."""

    process: str
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFailed(JsonRecord):
    """A task failed.

    Attributes:
        process: The process.
        task: The task.
        message: The reason.
        exit_code: Exit code for the caller of the whole pipeline.
        traceback: Python's traceback.
    """

    process: str
    task: str
    message: str
    exit_code: int
    traceback: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessExited(JsonRecord):
    """The process of a task ended with this exit status; sent by the process that started it."""

    process: str
    status: int


Event = (
    TaskStarted | TaskProgress | TaskFinished | TaskNotice | TaskResult | TaskFailed | ProcessExited
)

_EVENT_TYPES: dict[str, type[Event]] = {
    "started": TaskStarted,
    "progress": TaskProgress,
    "finished": TaskFinished,
    "notice": TaskNotice,
    "result": TaskResult,
    "failed": TaskFailed,
    "exited": ProcessExited,
}
_EVENT_NAMES = {kind: name for name, kind in _EVENT_TYPES.items()}


def emit(event: Event) -> None:
    """Append one event, in a single write so that several processes can append at the same time."""
    path = os.environ.get(EVENTS_VARIABLE)
    if not path:
        return
    line = json.dumps({"event": _EVENT_NAMES[type(event)], **event.to_json()}) + "\n"
    with Path(path).open("ab", buffering=0) as file:
        file.write(line.encode())


def parse_event(line: bytes) -> Event:
    """Return the event that `emit` wrote as a line.

    Raises:
        RecordError: The line is not an event.
    """
    try:
        fields = json.loads(line)
        kind = _EVENT_TYPES[fields.pop("event")]
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise RecordError(
            f"an event must be a JSON object with a known `event`; got {err}"
        ) from err
    return kind.from_json(fields)


def report(task: str, done: int, total: int, *, unit: str = "", note: str = "") -> None:
    """Report that `done` of `total` units of a task are done; total 0 means unknown."""
    emit(TaskProgress(process=PROCESS, task=task, done=done, total=total, unit=unit, note=note))


def notice(task: str, text: str, *, is_warning: bool = False) -> None:
    """Show one line to the user: on the terminal of a run, and in the log."""
    emit(TaskNotice(process=PROCESS, task=task, text=text, is_warning=is_warning))
    _log.info("%s: %s%s", task, "warning: " if is_warning else "", text)


def result(**values: Any) -> None:
    """Report values to the caller of the whole pipeline, and log them in one line."""
    emit(TaskResult(process=PROCESS, values=values))
    _log.info("result: %s", json.dumps(values, sort_keys=True))


@contextlib.contextmanager
def task(name: str) -> Iterator[None]:
    """Report the start and end of a task; a failed one ends this process.

    Raises:
        SystemExit: The task raised an error. The reason is reported already, as the last thing that
            this process prints, and the code is the error's exit code.
    """
    started = time.monotonic()
    emit(TaskStarted(process=PROCESS, task=name))
    _log.info("%s: started", name)
    try:
        yield
    except RepotError as err:
        _report_failure(name, str(err), err.exit_code)
        raise SystemExit(err.exit_code) from err
    except Exception as err:
        sys.stderr.write(_masked(traceback.format_exc()))
        message = (
            describe_out_of_memory(err) if is_out_of_memory(err) else f"{type(err).__name__}: {err}"
        )
        _report_failure(name, message, EXIT_FAILED)
        raise SystemExit(EXIT_FAILED) from err
    seconds = time.monotonic() - started
    emit(TaskFinished(process=PROCESS, task=name, seconds=seconds))
    _log.info("%s: finished in %.1f s", name, seconds)


def format_failure(task: str, message: str) -> str:
    """Return the reason of a failed task as a block of short lines, with blank lines around it.

    Args:
        task: Name of the task.
        message: The reason; each of its lines, one per problem, begins a new line.
    """
    lines = [_HEADING.format(task)]
    for problem in message.splitlines():
        lines += textwrap.wrap(
            problem,
            width=MAX_FAILURE_COLUMNS,
            subsequent_indent=_CONTINUATION,
            # A URI or path must stay in one piece.
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n" + "\n".join(lines) + "\n\n"


def find_failure(log: str) -> str:
    """Return the last reason that `format_failure` wrote into a log, unwrapped; "" without one."""
    blocks = _FAILURE.findall(log)
    return blocks[-1].strip().replace(f"\n{_CONTINUATION}", " ") if blocks else ""


def write_termination_message(message: str) -> None:
    """Write the reason that Kubernetes shows for this container; outside of a pod, do nothing."""
    named = os.environ.get(TERMINATION_LOG_VARIABLE)
    path = Path(named) if named else TERMINATION_LOG
    if not named and not path.is_file():
        return
    text = message.encode()[:_MAX_TERMINATION_BYTES].decode(errors="ignore")
    # A container without the permission must not fail for another reason than the one it reports.
    with contextlib.suppress(OSError):
        path.write_text(text, encoding="utf-8")


class ProgressCounter:
    """Counts finished units and reports them at most every 0.2 s; thread-safe.

    Args:
        task: Name of the task.
        total: Number of units in total.
        unit: Name of the unit, in the plural.
        done: Number of units that were done before.
    """

    def __init__(self, task: str, total: int, *, unit: str, done: int = 0) -> None:
        self._task, self._total, self._unit, self._done = task, total, unit, done
        self._lock = threading.Lock()
        self._reported_at = time.monotonic()
        self._report()

    def add(self, count: int = 1) -> None:
        """Add finished units; adding none reports nothing."""
        if not count:
            return
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._reported_at >= REPORT_INTERVAL_SECONDS or self._done == self._total:
                self._reported_at = now
                self._report()

    def _report(self) -> None:
        report(self._task, self._done, self._total, unit=self._unit)


def _report_failure(task: str, unmasked_message: str, exit_code: int) -> None:
    message = _masked(unmasked_message)
    emit(
        TaskFailed(
            process=PROCESS,
            task=task,
            message=message,
            exit_code=exit_code,
            traceback=_masked(traceback.format_exc()),
        )
    )
    write_termination_message(f"{task}: {message}")
    # Standard output has a buffer, whose rest Python would write after this block.
    sys.stdout.flush()
    sys.stderr.write(format_failure(task, message))
    sys.stderr.flush()


def _masked(text: str) -> str:
    return mask(text, read_secrets(os.environ))
