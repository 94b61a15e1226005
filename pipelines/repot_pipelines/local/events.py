"""Read the events that running tasks append to a file (written by `repot.progress`)."""

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from repot.progress import EVENTS_VARIABLE

POLL_SECONDS = 0.05

Event = dict[str, Any]
"""One parsed JSON line; `repot.progress` lists the keys."""


def follow_events(stream: IO[bytes], has_ended: Callable[[], bool]) -> Iterator[Event]:
    """Yield events as they arrive, until the writers have ended and every line is read.

    Args:
        stream: The file of events, open for reading.
        has_ended: Whether all writers have ended; called before each read.
    """
    incomplete_line = b""
    while True:
        ended = has_ended()
        *lines, incomplete_line = (incomplete_line + stream.read()).split(b"\n")
        for line in lines:
            yield json.loads(line)
        if ended:
            return
        if not lines:
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def forward_events(on_event: Callable[[Event], None]) -> Iterator[None]:
    """Call `on_event` for each event of this process and its subprocesses during the block."""
    done = threading.Event()
    with tempfile.TemporaryDirectory(prefix="repot-") as folder:
        path = Path(folder) / "events.jsonl"
        path.touch()
        with path.open("rb") as stream:
            thread = threading.Thread(
                target=_forward, args=(follow_events(stream, done.is_set), on_event)
            )
            previous = os.environ.get(EVENTS_VARIABLE)
            os.environ[EVENTS_VARIABLE] = str(path)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()
                if previous is None:
                    del os.environ[EVENTS_VARIABLE]
                else:
                    os.environ[EVENTS_VARIABLE] = previous


def _forward(events: Iterator[Event], on_event: Callable[[Event], None]) -> None:
    for event in events:
        on_event(event)
