"""Files that appear whole or not at all, and a lock for those that are replaced with care.

A file is filled under a temporary name in its own folder and then renamed, or hard-linked when it must not exist yet,
so that a process that dies leaves no half file: at worst a hidden one, which no listing shows.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from repot.storage.backend import HIDDEN_PREFIX
from repot.storage.local.errors import explained
from repot.storage.problems import already_exists

# Kernels stamp files with the time of their last tick (up to 10 ms old): two versions in one tick would look alike.
_VERSION_STEP_NS = 1_000
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def hidden_name(ending: str) -> str:
    """Return a new name for a passing file."""
    return f"{HIDDEN_PREFIX}{secrets.token_hex(8)}.{ending}"


def write_file(
    path: Path, fill: Callable[[BinaryIO], object], *, if_absent: bool = False
) -> os.stat_result:
    """Let `fill` write a file, put it at `path`, safe on the disk, and return what the system knows about it.

    Args:
        path: Where the file goes; its folders are made.
        fill: Gets the empty temporary file, open for reading and writing; if it fails, nothing happened to `path`.
        if_absent: Whether `path` must not exist.

    Raises:
        AlreadyExistsError: `if_absent`, and it does.
        StorageError: The system refused.
    """
    temporary = path.with_name(hidden_name("tmp"))
    with explained("written", path):
        if if_absent and path.exists():
            raise already_exists(str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("x+b") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            facts = _place_new(temporary, path) if if_absent else _replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    return facts


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of one file against threads and processes; the lock's own file is gone afterwards."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    lock = path.with_name(f"{HIDDEN_PREFIX}{digest}.lock")
    with explained("locked", path):
        descriptor = _acquire(lock)
        try:
            yield
        finally:
            # While it is still held: whoever waits for this file then finds it gone, and begins anew.
            lock.unlink(missing_ok=True)
            os.close(descriptor)


def _replace(temporary: Path, path: Path) -> os.stat_result:
    """Rename over `path`, and never with the version that it had."""
    with contextlib.suppress(FileNotFoundError):
        old, new = path.stat(), temporary.stat()
        if new.st_mtime_ns <= old.st_mtime_ns:
            os.utime(temporary, ns=(new.st_atime_ns, old.st_mtime_ns + _VERSION_STEP_NS))
    facts = temporary.stat()
    temporary.replace(path)
    return facts


def _place_new(temporary: Path, path: Path) -> os.stat_result:
    """Link to `path`, which must not exist; on a disk without hard links, rename under the lock."""
    facts = temporary.stat()
    try:
        path.hardlink_to(temporary)
    except FileExistsError as err:
        raise already_exists(str(path)) from err
    except OSError as err:
        if err.errno not in _NO_HARD_LINKS:
            raise
        with locked(path):
            if path.exists():
                raise already_exists(str(path)) from err
            temporary.replace(path)
    return facts


def _sync_folder(folder: Path) -> None:
    """Make a rename outlive a power failure, where the disk can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _acquire(lock: Path) -> int:
    """Return a descriptor that holds the lock of the file that is at `lock` now."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(lock.stat(), os.fstat(descriptor)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)
