"""Temporary folders: what a disk that takes no more means to the person who gave it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from repot.errors import StorageError


@contextlib.contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turn an operating system's error into one that names the temporary folder, and says what to do.

    Raises:
        StorageError: The folder cannot be written; most often its disk is full.
    """
    try:
        yield
    except OSError as err:
        # What h5py says of a full disk is five lines long; the number in it says the same.
        reason = os.strerror(err.errno) if err.errno else str(err)
        raise StorageError(
            f"The temporary folder {folder} must take what is being made; the system says: {reason}. "
            "Free some space, or name a folder on another disk in the environment variable TMPDIR."
        ) from err
