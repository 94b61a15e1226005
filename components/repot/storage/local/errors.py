"""What the operating system's errors mean to the person who chose the folder."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from repot.errors import NotFoundError, StorageError

_PERMISSION = (
    "permission is denied to user {user}. Allow that user to do it, or choose another place"
)
_FULL = "the disk is full. Free some space, or choose a place on another disk"
_MEANINGS = {
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "the disk is read-only. Choose a place on another disk",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "the user's share of the disk is used up. Free some space, or choose a place on another disk",
    errno.EFBIG: "the file is too large for this disk. Choose a place on another disk",
    errno.ENOTDIR: "a part of its path is a file and not a folder. Choose another place, or rename that file",
    errno.EEXIST: "a part of its path is a file and not a folder. Choose another place, or rename that file",
    errno.EISDIR: "it is a folder and not a file. Choose another name, or rename that folder",
    errno.ENAMETOOLONG: "its name is too long for this disk. Shorten it",
    errno.ELOOP: "its links lead in a circle. Repair them",
    errno.EIO: "the disk does not answer as it should. Check the disk",
    errno.ESTALE: "the network disk was unmounted or replaced. Mount it again",
}


@contextlib.contextmanager
def explained(done: str, path: Path) -> Iterator[None]:
    """Turn an operating system's error into one sentence: what cannot be `done` to `path`, why, and what to do.

    Raises:
        NotFoundError: There is no such file.
        StorageError: Any other failure.
    """
    try:
        yield
    except FileNotFoundError as err:
        raise NotFoundError(
            f"{path} cannot be {done}: there is no such file. Check the name."
        ) from err
    except (OSError, UnicodeEncodeError) as err:
        raise StorageError(f"{path} cannot be {done}: {_meaning(err)}.{_where(err, path)}") from err


def _meaning(err: OSError | UnicodeEncodeError) -> str:
    if isinstance(err, UnicodeEncodeError):
        return "its name holds characters that this machine cannot write. Rename it"
    text = _MEANINGS.get(err.errno or 0)
    return (
        text.format(user=_user())
        if text
        else f"{err.strerror or err}. Check the disk and its mount"
    )


def _where(err: OSError | UnicodeEncodeError, path: Path) -> str:
    """Name the file that the system complained about, where it is not the one asked for."""
    name = getattr(err, "filename", None)
    return f" (It failed at {name}.)" if name and str(name) != str(path) else ""


def _user() -> str:
    return f"{os.getuid()} (group {os.getgid()})"
