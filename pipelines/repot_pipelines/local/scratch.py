"""Temporary folders, which the next run removes if their process was killed.

A process holds a lock on its folder. The kernel releases the lock however the process ends, and
also between containers that share a folder, where process ids mean nothing.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "repot-"
# Distinguishes them from folders that users name themselves, such as /tmp/repot-storage.
_SUFFIX = ".scratch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scratch:
    """A temporary folder of this process.

    Attributes:
        path: The folder.
        lock: File descriptor that holds its lock; a subprocess that inherits it shares the lock.
    """

    path: Path
    lock: int


@contextlib.contextmanager
def scratch_folder() -> Iterator[Scratch]:
    """Create a temporary folder for the block, and remove those that no process owns any more."""
    _remove_abandoned_folders(Path(tempfile.gettempdir()))
    scratch = _create()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch.path, ignore_errors=True)
        os.close(scratch.lock)


def _create() -> Scratch:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX))
        # Another process may take the new folder for an abandoned one and remove it.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY)
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return Scratch(path=path, lock=lock)
            os.close(lock)


def _remove_abandoned_folders(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*{_SUFFIX}*"):
        # OSError: it is locked, belongs to another user, or is gone.
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.getuid():
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
