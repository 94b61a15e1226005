"""Counting what is done, and saying so a few times a second."""

import threading
import time

from repot import progress

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
        progress.report(self._task, self._done, self._total, unit=self._unit)
