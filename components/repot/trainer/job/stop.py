"""How a worker learns that it is to stop: SIGTERM, or the task that waits for it is gone.

SIGTERM is blocked and waited for in a thread: Python runs a handler only between two steps, which may be long, or wait
for another worker forever. It also keeps a process that is PID 1, for which the default of SIGTERM is to do nothing.
"""

import logging
import os
import signal
import threading
import time

from repot.trainer.job.heartbeat import SILENCE_SECONDS, HeartbeatWatch

GRACE_SECONDS = 120
"""What Kubernetes leaves between SIGTERM and SIGKILL."""

_MARGIN_SECONDS = 10.0
_LOOK_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Stop:
    """Whether this process was asked to stop, and the exit code to do it with; safe in threads."""

    def __init__(self) -> None:
        self.exit_code = START_AGAIN
        self._asked = threading.Event()

    def is_asked(self) -> bool:
        """Return whether it was asked to."""
        return self._asked.is_set()

    def pause(self, seconds: float) -> None:
        """Return after so many seconds, or as soon as it is asked to stop."""
        self._asked.wait(seconds)

    def ask(self, reason: str, exit_code: int) -> None:
        """Ask to stop; a process that does not within the grace period is ended."""
        if self._asked.is_set():
            return
        _log.warning("stopping after this step: %s", reason)
        self.exit_code = exit_code
        self._asked.set()
        end = threading.Timer(GRACE_SECONDS - _MARGIN_SECONDS, os._exit, [exit_code])
        end.daemon = True
        end.start()

    def listen(self) -> None:
        """Take SIGTERM from now on; to be called in the main thread, before any other is started."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._wait_for_signal, name="sigterm", daemon=True).start()

    def watch(self, heartbeat_uri: str, silence_seconds: float = SILENCE_SECONDS) -> None:
        """Ask to stop once the task's sign of life does not change any more."""
        watch = HeartbeatWatch(heartbeat_uri, time.monotonic())
        threading.Thread(
            target=self._look, args=[watch, silence_seconds], name="watch", daemon=True
        ).start()

    def _wait_for_signal(self) -> None:
        signal.sigwait({signal.SIGTERM})
        self.ask("SIGTERM", START_AGAIN)

    def _look(self, watch: HeartbeatWatch, silence_seconds: float) -> None:
        pause = min(_LOOK_SECONDS, silence_seconds / 4)
        while not self._asked.wait(pause):
            if watch.silent_seconds(time.monotonic()) > silence_seconds:
                self.ask(
                    f"the task that waits for this Job is silent for {silence_seconds:.0f} s",
                    WILL_NOT_HELP,
                )


WILL_NOT_HELP = 2
"""Starting again changes nothing: the Job fails."""

START_AGAIN = 75
"""Stopped from outside, or another worker is gone: the pod is replaced, however often. (75 is EX_TEMPFAIL.)"""

FAILED = 1
"""Everything else: replaced, but not more than a few times."""
