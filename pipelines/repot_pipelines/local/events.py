"""Read the events that running tasks append to a file (written by `repot.progress`)."""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO

from repot.json_record import RecordError
from repot.progress import EVENTS_VARIABLE, Event, parse_event
from repot_pipelines.local.scratch import scratch_folder

POLL_SECONDS = 0.05


def follow_events(stream: IO[bytes], has_ended: Callable[[], bool]) -> Iterator[Event]:
    """Yield events as they arrive, until the writers have ended and every line is read.

    Args:
        stream: The file of events, open for reading.
        has_ended: Whether all writers have ended; called before each read.
    """
    for line in follow_lines(stream, has_ended):
        # On a full disk a writer can leave half a line.
        with contextlib.suppress(RecordError):
            yield parse_event(line)


def follow_lines(stream: IO[bytes], has_ended: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the complete lines of a growing file as they arrive; see `follow_events`."""
    incomplete_line = b""
    while True:
        ended = has_ended()
        *lines, incomplete_line = (incomplete_line + stream.read()).split(b"\n")
        yield from lines
        if ended:
            return
        if not lines:
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def forward_events(on_event: Callable[[Event], None]) -> Iterator[None]:
    """Call `on_event` for each event of this process and its subprocesses during the block.

    Their temporary files are in one folder, which the next run removes if this process is killed.
    """
    done = threading.Event()
    with scratch_folder() as scratch:
        path = scratch.path / "events.jsonl"
        path.touch()
        with path.open("rb") as stream:
            thread = threading.Thread(
                target=_forward, args=(follow_events(stream, done.is_set), on_event)
            )
            thread.start()
            try:
                with _environment({EVENTS_VARIABLE: str(path), "TMPDIR": str(scratch.path)}):
                    yield
            finally:
                done.set()
                thread.join()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block."""
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    tempfile.tempdir = None  # read TMPDIR again
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        tempfile.tempdir = None


def _forward(events: Iterator[Event], on_event: Callable[[Event], None]) -> None:
    for event in events:
        on_event(event)
