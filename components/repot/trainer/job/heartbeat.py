"""The sign of life of the task that waits for a Job: a file that it rewrites, and the workers watch.

Kubeflow gives a terminated task about a second. Should it not manage to delete its Job, the workers stop by themselves.
Only the changes of the file count, by the watcher's own clock: no two clocks are compared.
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

_log = logging.getLogger(__name__)


class Heartbeat:
    """Rewrites a file from `with` to its end, in a thread.

    Args:
        uri: The file.
        seconds: Between two writes.
    """

    def __init__(self, uri: str, seconds: float = BEAT_SECONDS) -> None:
        self._uri = uri
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

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

    def _beat(self) -> None:
        writer, number = uuid.uuid4().hex, 0
        while True:
            number += 1
            try:
                storage.write_json(self._uri, {"writer": writer, "number": number})
            except StorageError as err:
                _log.warning(
                    "no sign of life was written, the next follows in %.0f s: %s",
                    self._seconds,
                    err,
                )
            if self._ended.wait(self._seconds):
                return


class HeartbeatWatch:
    """Tells how long a heartbeat has been silent.

    Args:
        uri: The file.
        now: Seconds on any clock that only goes forward, as at every later call.
    """

    def __init__(self, uri: str, now: float) -> None:
        self._uri = uri
        self._version: str | None = None
        self._changed_at = now

    def silent_seconds(self, now: float) -> float:
        """Look once, and return the seconds since the last change; 0 while the storage cannot be read."""
        try:
            found = storage.stat(self._uri)
        except StorageError as err:
            _log.warning("the sign of life cannot be read: %s", err)
            self._changed_at = now
            return 0.0
        version = found.version if found else None
        if version != self._version:
            self._version, self._changed_at = version, now
        return now - self._changed_at
