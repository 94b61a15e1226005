"""Conversion of operating system errors into messages for the user who chose the folder."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from repot.errors import NotFoundError, StorageError

_PERMISSION = "permission is denied for user {user}. Grant that user access, or choose another path"
_FILE_IN_PATH = (
    "a part of its path is a file and not a folder. Choose another path, or rename that file"
)
_REASONS = {
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "the disk is read-only. Choose a path on another disk",
    errno.ENOSPC: "the disk is full. Free some space, or choose a path on another disk",
    errno.EDQUOT: "the disk quota is used up. Free some space, or choose a path on another disk",
    errno.EFBIG: "the file is too large for this disk. Choose a path on another disk",
    errno.ENOTDIR: _FILE_IN_PATH,
    errno.EEXIST: _FILE_IN_PATH,
    errno.EISDIR: "it is a folder and not a file. Choose another name, or rename that folder",
    errno.ENAMETOOLONG: "its name is too long for this disk. Shorten it",
    errno.ELOOP: "its links form a circle. Repair them",
    errno.EIO: "the disk reports an I/O error. Check the disk",
    errno.ESTALE: "the network disk was unmounted or replaced. Mount it again",
}


@contextlib.contextmanager
def convert_os_errors(action: str, file: Path | str) -> Iterator[None]:
    """Convert an operating system error into one message: what failed, why, and what to do.

    Args:
        action: What the block does with the file, as a past participle: "read", "written", ...
        file: Path of the file or folder.

    Raises:
        NotFoundError: The file does not exist.
        StorageError: Any other failure.
    """
    try:
        yield
    except FileNotFoundError as err:
        path = Path(file)
        reason = (
            "it is a link to a file that does not exist. Correct or remove the link"
            if path.is_symlink()
            else "there is no such file. Check the name"
        )
        raise NotFoundError(f"{path} cannot be {action}: {reason}.") from err
    except (OSError, UnicodeEncodeError) as err:
        path = Path(file)
        is_missing = action == "read" and isinstance(err, NotADirectoryError)
        raise (NotFoundError if is_missing else StorageError)(
            f"{path} cannot be {action}: {_reason(err)}.{_other_path(err, path)}"
        ) from err


def _reason(err: OSError | UnicodeEncodeError) -> str:
    if isinstance(err, UnicodeEncodeError):
        return "its name has characters that this machine cannot write. Rename it"
    reason = _REASONS.get(err.errno or 0, f"{err.strerror or err}. Check the disk and its mount")
    return reason.replace("{user}", f"{os.getuid()} (group {os.getgid()})")


def _other_path(err: OSError | UnicodeEncodeError, path: Path) -> str:
    """Return a sentence that names the path of the error, if it is not `path` itself."""
    name = getattr(err, "filename", None)
    return f" (It failed at {name}.)" if name and str(name) != str(path) else ""
