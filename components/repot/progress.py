"""What a running task tells the person who started it: one JSON object a line, in a file.

`repot run` names the file in the environment variable REPOT_EVENTS and draws from it; every task, and every
process that a task starts, appends to it. Without the variable (in a pod) the same facts go to the log only.

Every event has `process`, which tells apart the processes that do one task together. Events, by `event`:
    started   task
    progress  task, done, total, unit, note
    finished  task, seconds
    result    any facts that the caller of the whole pipeline wants to know
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

from repot.errors import RepotError

EVENTS_VARIABLE = "REPOT_EVENTS"
PROCESS = secrets.token_hex(4)
"""This process, unlike any other: containers count their processes from 1."""

_log = logging.getLogger(__name__)


def emit(event: str, **facts: Any) -> None:
    """Append one event; a single write of one line, so that several processes may do it at once."""
    path = os.environ.get(EVENTS_VARIABLE)
    if not path:
        return
    line = json.dumps({"event": event, "process": PROCESS, **facts}) + "\n"
    with Path(path).open("ab", buffering=0) as file:
        file.write(line.encode())


def report(task: str, done: int, total: int, *, unit: str = "", note: str = "") -> None:
    """Say that `done` of `total` units of `task` are done (`total` 0: not known)."""
    emit("progress", task=task, done=done, total=total, unit=unit, note=note)


def result(**facts: Any) -> None:
    """Hand facts to whoever started the whole pipeline; from a pod, by one line of its log."""
    emit("result", **facts)
    _log.info("result: %s", json.dumps(facts, sort_keys=True))


@contextlib.contextmanager
def task(name: str) -> Iterator[None]:
    """Frame one task: say when it starts and ends, and turn an error into a message and an exit code.

    Raises:
        SystemExit: With the message of a RepotError, so that a pod's log ends with the message and not with a
            traceback. Any other exception passes through unchanged.
    """
    started = time.monotonic()
    emit("started", task=name)
    _log.info("%s: started", name)
    try:
        yield
    except RepotError as err:
        emit(
            "failed",
            task=name,
            message=str(err),
            exit_code=err.exit_code,
            traceback=traceback.format_exc(),
        )
        raise SystemExit(f"{name}: {err}") from err
    except Exception as err:
        message = f"{type(err).__name__}: {err}"
        emit("failed", task=name, message=message, exit_code=1, traceback=traceback.format_exc())
        raise
    seconds = time.monotonic() - started
    emit("finished", task=name, seconds=seconds)
    _log.info("%s: finished in %.1f s", name, seconds)


INTERVAL_SECONDS = 0.2


class Meter:
    """A counter that reports its progress, at most every 0.2 s; safe in threads.

    Args:
        task: What is being done.
        total: How many units there are.
        unit: What a unit is, in the plural.
        done: How many units were done before.
    """

    def __init__(self, task: str, total: int, *, unit: str, done: int = 0) -> None:
        self._task, self._total, self._unit, self._done = task, total, unit, done
        self._lock = threading.Lock()
        self._reported_at = time.monotonic()
        self._report()

    def add(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._reported_at >= INTERVAL_SECONDS or self._done == self._total:
                self._reported_at = now
                self._report()

    def _report(self) -> None:
        report(self._task, self._done, self._total, unit=self._unit)
