"""A file that the waiting task rewrites and the workers watch, so that no Job outlives its task.

Kubeflow gives a terminated task about a second. If the task does not manage to delete its Job in
that time, the workers notice that the heartbeat has stopped and stop by themselves. The watcher
measures with its own clock when the file last changed: the clocks of two machines are never
compared.
"""

import logging
import threading
import uuid
from types import TracebackType
from typing import Self

from repot import storage
from repot.errors import StorageError

BEAT_SECONDS = 15.0
SILENCE_SECONDS = 120.0
"""A task without a heartbeat for this long is considered gone."""

_log = logging.getLogger(__name__)


class Heartbeat:
    """Rewrites a file in a thread for as long as the `with` block runs.

    Args:
        uri: The file.
        seconds: Interval between two writes.
    """

    def __init__(self, uri: str, seconds: float = BEAT_SECONDS) -> None:
        self._uri = uri
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()

    def _run(self) -> None:
        writer, number = uuid.uuid4().hex, 0
        while True:
            number += 1
            try:
                storage.write_json(self._uri, {"writer": writer, "number": number})
            except StorageError as err:
                _log.warning(
                    "cannot write the heartbeat, trying again in %.0f s: %s", self._seconds, err
                )
            if self._ended.wait(self._seconds):
                return


class HeartbeatWatch:
    """Measures for how long a heartbeat has not changed.

    Args:
        uri: The file.
        now: Current time in seconds, on the same monotonic clock as in later calls.
    """

    def __init__(self, uri: str, now: float) -> None:
        self._uri = uri
        self._version: str | None = None
        self._changed_at = now

    def silent_seconds(self, now: float) -> float:
        """Check the file and return the seconds since it changed; 0 if storage is unreadable."""
        try:
            found = storage.stat(self._uri)
        except StorageError as err:
            _log.warning("cannot read the heartbeat: %s", err)
            self._changed_at = now
            return 0.0
        version = found.version if found else None
        if version != self._version:
            self._version, self._changed_at = version, now
        return now - self._changed_at
