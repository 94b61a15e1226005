"""Deletes the Job when the task that waits for it is ended: Kubeflow leaves it about a second."""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from types import FrameType

from repot.errors import TrainingError
from repot.trainer.job.cluster import Cluster

_REQUEST_SECONDS = 0.8
_STDERR = 2

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def deleted_when_terminated(name: str, *, unless: type[BaseException]) -> Iterator[None]:
    """Delete a Job if this process gets SIGTERM meanwhile, or if the block ends by an exception.

    To be used in the main thread.

    Args:
        name: Of the Job.
        unless: An exception that leaves it there.

    Raises:
        SystemExit: In the main thread, after SIGTERM, with code 143.
    """
    # A connection of its own: the interrupted thread may hold a lock of the other one.
    cluster = Cluster.connect(patience_seconds=0)

    def end(_number: int, _frame: FrameType | None) -> None:
        _delete(cluster, name)
        os.write(_STDERR, f"SIGTERM: the Job {name} is deleted\n".encode())
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit:
        raise
    except BaseException as err:
        if not isinstance(err, unless):
            _delete(cluster, name)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _delete(cluster: Cluster, name: str) -> None:
    try:
        cluster.delete_job(name, timeout_seconds=_REQUEST_SECONDS)
    except TrainingError as err:
        _log.warning("the Job %s may be left; it stops by itself: %s", name, err)
