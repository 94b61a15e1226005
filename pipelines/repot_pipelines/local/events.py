"""Follows the file of events that running tasks append to (`repot.progress` writes them)."""

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


def follow(stream: IO[bytes], has_ended: Callable[[], bool]) -> Iterator[Event]:
    """Yield events as they come until the writers have ended and their last line is read.

    Args:
        stream: The file of events, open for reading.
        has_ended: Whether nobody will write any more; asked before each read.
    """
    pending = b""
    while True:
        ended = has_ended()
        pending += stream.read()
        *lines, pending = pending.split(b"\n")
        for line in lines:
            yield json.loads(line)
        if ended:
            return
        if not lines:
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def watch(on_event: Callable[[Event], None]) -> Iterator[None]:
    """Hand on the events of tasks that run in this process, and in processes that it starts."""
    done = threading.Event()
    with tempfile.TemporaryDirectory(prefix="repot-") as folder:
        path = Path(folder) / "events.jsonl"
        path.touch()
        with path.open("rb") as stream:
            thread = threading.Thread(target=_hand_on, args=(follow(stream, done.is_set), on_event))
            before = os.environ.get(EVENTS_VARIABLE)
            os.environ[EVENTS_VARIABLE] = str(path)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()
                if before is None:
                    del os.environ[EVENTS_VARIABLE]
                else:
                    os.environ[EVENTS_VARIABLE] = before


def _hand_on(events: Iterator[Event], on_event: Callable[[Event], None]) -> None:
    for event in events:
        on_event(event)
