"""How a training ends early: what SIGTERM does in the task and in a worker, and exit codes.

In the pipeline task, SIGTERM deletes the Job (`delete_job_on_sigterm`). In a worker, SIGTERM or a
task without a heartbeat asks the training to stop (`StopRequest`): it saves its state after the
current step and exits with a code that tells the Job whether to start a new pod.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from repot.errors import TrainingError
from repot.trainer.job.heartbeat import SILENCE_SECONDS, HeartbeatWatch

if TYPE_CHECKING:
    from repot.trainer.job.api import JobApi

EXIT_FAILED = 1
"""Any other failure: the pod is replaced a few times."""
EXIT_PERMANENT = 2
"""The same failure would happen again: the Job fails."""
EXIT_RESTART = 75
"""Stopped from outside, or another worker was lost: always replaced. 75 is EX_TEMPFAIL."""

GRACE_SECONDS = 120
"""Time that Kubernetes leaves a worker between SIGTERM and SIGKILL."""

_EXIT_MARGIN_SECONDS = 10.0
_WATCH_SECONDS = 10.0
_DELETE_SECONDS = 0.8
_STDERR = 2

_log = logging.getLogger(__name__)


class StopRequest:
    """Tells a worker's training to stop, and the exit code to stop with; thread-safe.

    SIGTERM is blocked and received in a thread. Python would run a signal handler only between two
    training steps, and a step may be long or wait indefinitely for another worker. Receiving it
    also makes SIGTERM work in a process that is PID 1, where the default action is to ignore it.
    """

    def __init__(self) -> None:
        self.exit_code = EXIT_RESTART
        self._requested = threading.Event()

    def is_set(self) -> bool:
        """Return whether a stop was requested."""
        return self._requested.is_set()

    def wait(self, seconds: float) -> None:
        """Return after this many seconds, or earlier when a stop is requested."""
        self._requested.wait(seconds)

    def set(self, reason: str, exit_code: int) -> None:
        """Request a stop; a process that still runs near the end of the grace period is ended."""
        if self._requested.is_set():
            return
        _log.warning("stopping after this step: %s", reason)
        self.exit_code = exit_code
        self._requested.set()
        timer = threading.Timer(GRACE_SECONDS - _EXIT_MARGIN_SECONDS, os._exit, [exit_code])
        timer.daemon = True
        timer.start()

    def listen_for_sigterm(self) -> None:
        """Receive SIGTERM from now on; call this in the main thread, before other threads start."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._receive_sigterm, name="sigterm", daemon=True).start()

    def watch_heartbeat(self, uri: str, silence_seconds: float = SILENCE_SECONDS) -> None:
        """Request a stop when the task's heartbeat has not changed for silence_seconds."""
        watch = HeartbeatWatch(uri, time.monotonic())
        threading.Thread(
            target=self._watch, args=[watch, silence_seconds], name="watch", daemon=True
        ).start()

    def _receive_sigterm(self) -> None:
        signal.sigwait({signal.SIGTERM})
        self.set("received SIGTERM", EXIT_RESTART)

    def _watch(self, watch: HeartbeatWatch, silence_seconds: float) -> None:
        pause_seconds = min(_WATCH_SECONDS, silence_seconds / 4)
        while not self._requested.wait(pause_seconds):
            if watch.silent_seconds(time.monotonic()) > silence_seconds:
                self.set(
                    f"the waiting task sent no heartbeat for {silence_seconds:.0f} s",
                    EXIT_PERMANENT,
                )


@contextlib.contextmanager
def delete_job_on_sigterm(api: "JobApi", name: str, *, keep: type[BaseException]) -> Iterator[None]:
    """Delete a Job if this process receives SIGTERM in the block, or if the block raises.

    Must be used in the main thread.

    Args:
        api: A connection without retries that no other code uses: the thread interrupted by SIGTERM
            may hold a lock of its own connection, and Kubeflow kills the task after about a second.
        name: Name of the Job.
        keep: An exception after which the Job is kept.

    Raises:
        SystemExit: After SIGTERM, with code 143.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        _delete_job(api, name)
        os.write(_STDERR, f"SIGTERM: deleted the Job {name}\n".encode())
        raise SystemExit(128 + signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    except SystemExit:
        raise
    except BaseException as err:
        if not isinstance(err, keep):
            _delete_job(api, name)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _delete_job(api: "JobApi", name: str) -> None:
    try:
        api.delete_job(name, timeout_seconds=_DELETE_SECONDS)
    except TrainingError as err:
        _log.warning(
            "cannot delete the Job %s; its workers stop without the task's heartbeat: %s", name, err
        )
