"""Read files that a user or the environment names, never more than such a file can sensibly hold.

A device file such as /dev/zero has no end, and a mistyped name can be that of a huge file.
"""

import errno
import os
from pathlib import Path

MAX_BYTES = 1 << 20
"""Longest file with settings or credentials; usual ones have a few kilobytes."""


def read_user_file(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: It cannot be read, or has more than `max_bytes`.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it must have at most {max_bytes:,} bytes; it has more", path)
    return data


def check_kubeconfig(kubeconfig: str) -> None:
    """Check the files that the Kubernetes client will read, whatever their length.

    Args:
        kubeconfig: Paths as in $KUBECONFIG; "" for the default path. Missing files are skipped.

    Raises:
        OSError: A file cannot be read, or is too long.
    """
    for path in (kubeconfig or "~/.kube/config").split(os.pathsep):
        if path and Path(path).expanduser().exists():
            read_user_file(Path(path).expanduser())
