"""Local files: written atomically, locked, checksummed.

A file is written under a temporary name in its own folder and then renamed, or hard-linked if it
must not exist yet. A process that is killed leaves no partial file, at worst a hidden one that no
listing shows.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from repot.storage.backend import HIDDEN_PREFIX, already_exists_error, new_hidden_name
from repot.storage.checksums import stream_crc32c_hex
from repot.storage.local.errors import convert_os_errors

# Kernels stamp files with the time of their last tick, which is up to 10 ms old. Two versions of
# one size written within the same tick would otherwise be indistinguishable.
_VERSION_STEP_NS = 1_000
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def file_crc32c_hex(path: Path) -> str:
    """Return the CRC32C of a local file's bytes as 8 lower-case hex digits.

    Raises:
        NotFoundError: The file does not exist.
        StorageError: It cannot be read.
    """
    with convert_os_errors("read", path), path.open("rb") as file:
        return stream_crc32c_hex(file)


def write_atomically(
    path: Path,
    write_content: Callable[[BinaryIO], object],
    *,
    if_absent: bool = False,
    is_nameless: bool = False,
) -> os.stat_result:
    """Write a file under a temporary name, sync it to disk, and move it to `path`.

    Args:
        path: Target; missing folders are created.
        write_content: Receives the empty temporary file, open for reading and writing. If it
            raises, `path` stays untouched.
        if_absent: Fail if `path` already exists.
        is_nameless: Give the file no name while it is written, if the file system allows it, so
            that nothing is left of a large file if this process is killed.

    Returns:
        The status of the new file.

    Raises:
        AlreadyExistsError: `if_absent`, and `path` exists.
        StorageError: The operating system reports an error.
    """
    temporary = path.with_name(new_hidden_name("tmp"))
    with convert_os_errors("written", path):
        if if_absent and path.exists():
            raise already_exists_error(str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            nameless = _open_nameless(path.parent) if is_nameless else None
            with nameless or temporary.open("x+b") as file:
                write_content(file)
                file.flush()
                os.fsync(file.fileno())
                if nameless:
                    _give_name(nameless, temporary)
            status = _link_new(temporary, path) if if_absent else _replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    return status


def link_file(source: Path, target: Path) -> bool:
    """Replace `target` atomically by a hard link; return False where there can be none.

    Raises:
        NotFoundError: The source does not exist.
        StorageError: The operating system reports another error.
    """
    temporary = target.with_name(new_hidden_name("tmp"))
    with convert_os_errors("linked", source):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.hardlink_to(source)
            temporary.replace(target)
        except OSError as err:
            if err.errno in (*_NO_HARD_LINKS, errno.EXDEV):
                return False
            raise
        finally:
            # It is still there if the target was a link to the same file.
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file name, across threads and processes."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    lock_path = path.with_name(f"{HIDDEN_PREFIX}{digest}.lock")
    with convert_os_errors("locked", path):
        descriptor = _acquire(lock_path)
        try:
            yield
        finally:
            # Deleted while the lock is still held: waiting processes then notice that their file is
            # gone, and open a new one.
            lock_path.unlink(missing_ok=True)
            os.close(descriptor)


def _open_nameless(folder: Path) -> BinaryIO | None:
    """Open a file that vanishes with this process until it gets a name; None where that fails."""
    if not hasattr(os, "O_TMPFILE"):
        return None
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError:  # Some file systems, such as NFS, have no such files.
        return None
    return os.fdopen(descriptor, "w+b")


def _give_name(file: BinaryIO, path: Path) -> None:
    """Name a file that has no name; copy it if the system does not allow that.

    Source: the example of O_TMPFILE in open(2).
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Only with the descriptor of a folder, Python follows the link in /proc.
        os.link(f"/proc/self/fd/{file.fileno()}", path.name, dst_dir_fd=folder)
    except OSError:
        file.seek(0)
        with path.open("xb") as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            os.fsync(copy.fileno())
    finally:
        os.close(folder)


def _replace(temporary: Path, path: Path) -> os.stat_result:
    """Rename the temporary file over `path`, and make sure that the version differs."""
    with contextlib.suppress(FileNotFoundError):
        old, new = path.stat(), temporary.stat()
        if new.st_mtime_ns <= old.st_mtime_ns:
            os.utime(temporary, ns=(new.st_atime_ns, old.st_mtime_ns + _VERSION_STEP_NS))
    status = temporary.stat()
    temporary.replace(path)
    return status


def _link_new(temporary: Path, path: Path) -> os.stat_result:
    """Hard-link to `path`, which must not exist; rename under a lock if the disk has no links."""
    status = temporary.stat()
    try:
        path.hardlink_to(temporary)
    except FileExistsError as err:
        raise already_exists_error(str(path)) from err
    except OSError as err:
        if err.errno not in _NO_HARD_LINKS:
            raise
        with locked(path):
            if path.exists():
                raise already_exists_error(str(path)) from err
            temporary.replace(path)
    return status


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure, on disks that support it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _acquire(lock_path: Path) -> int:
    """Return a file descriptor that locks the file that is currently at `lock_path`."""
    while True:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Another process may have deleted the file while this one waited for its lock.
            if os.path.samestat(lock_path.stat(), os.fstat(descriptor)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)
