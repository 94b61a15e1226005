"""Progress events of a running task, for the program that displays them: one JSON object per line.

`repot run` names a file in the environment variable REPOT_EVENTS and reads it. Every task, and
every process that a task starts, appends events to that file. If the variable is not set, as in a
pod, results go to the log only.

Every event has `process`, because several processes can work on one task. Events, by `event`:
    started   task
    progress  task, done, total, unit, note
    finished  task, seconds
    notice    task, text, is_warning: a line for the user
    result    any values that the caller of the whole pipeline needs
    failed    task, message, exit_code, traceback
"""

import contextlib
import json
import logging
import os
import secrets
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repot.errors import EXIT_FAILED, RepotError

EVENTS_VARIABLE = "REPOT_EVENTS"
REPORT_INTERVAL_SECONDS = 0.2

PROCESS = secrets.token_hex(4)
"""Unique id of this process. A process number is not unique: each container counts from 1."""

_log = logging.getLogger(__name__)


def emit(event: str, **fields: Any) -> None:
    """Append one event, in a single write so that several processes can append at the same time."""
    path = os.environ.get(EVENTS_VARIABLE)
    if not path:
        return
    line = json.dumps({"event": event, "process": PROCESS, **fields}) + "\n"
    with Path(path).open("ab", buffering=0) as file:
        file.write(line.encode())


def report(task: str, done: int, total: int, *, unit: str = "", note: str = "") -> None:
    """Report that `done` of `total` units of a task are done; total 0 means unknown."""
    emit("progress", task=task, done=done, total=total, unit=unit, note=note)


def notice(task: str, text: str, *, is_warning: bool = False) -> None:
    """Show one line to the user: on the terminal of a run, and in the log."""
    emit("notice", task=task, text=text, is_warning=is_warning)
    _log.info("%s: %s%s", task, "warning: " if is_warning else "", text)


def result(**fields: Any) -> None:
    """Report values to the caller of the whole pipeline, and log them in one line."""
    emit("result", **fields)
    _log.info("result: %s", json.dumps(fields, sort_keys=True))


@contextlib.contextmanager
def task(name: str) -> Iterator[None]:
    """Report the start and end of a task, and convert an expected error to an exit message.

    Raises:
        SystemExit: With the message of a RepotError, so that a pod's log ends with the message and
            not with a traceback. All other exceptions pass through unchanged.
    """
    started = time.monotonic()
    emit("started", task=name)
    _log.info("%s: started", name)
    try:
        yield
    except RepotError as err:
        _emit_failed(name, str(err), err.exit_code)
        raise SystemExit(f"{name}: {err}") from err
    except Exception as err:
        _emit_failed(name, f"{type(err).__name__}: {err}", EXIT_FAILED)
        raise
    seconds = time.monotonic() - started
    emit("finished", task=name, seconds=seconds)
    _log.info("%s: finished in %.1f s", name, seconds)


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
        """Add finished units."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._reported_at >= REPORT_INTERVAL_SECONDS or self._done == self._total:
                self._reported_at = now
                self._report()

    def _report(self) -> None:
        report(self._task, self._done, self._total, unit=self._unit)


def _emit_failed(task: str, message: str, exit_code: int) -> None:
    emit(
        "failed",
        task=task,
        message=message,
        exit_code=exit_code,
        traceback=traceback.format_exc(),
    )
