"""Every error that repot raises on purpose, and the exit code that each one means.

    RepotError                 exit code 1: the work failed
    ├── DataError              pictures, labels or shards are not usable
    │   └── CorruptShardError  a shard's bytes are not those of its receipt
    ├── CheckpointError        a checkpoint cannot be fetched, read or mapped
    ├── TrainingError          a training cannot go on
    │   └── StoppedError       a training was asked to stop; it goes on from there at the next start
    ├── ModelError             a model folder or pointer is not one of ours
    ├── StorageError           an object cannot be read, written or listed
    │   ├── NotFoundError      there is no such object
    │   ├── NoBucketError      there is no such bucket
    │   ├── AlreadyExistsError a create-only write found the object there
    │   └── ConflictError      a swap found another version than expected
    └── UsageError             exit code 2: options or parameters are wrong; lists all problems at once

A message says what is wrong, where, and what to do.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


class RepotError(Exception):
    """The work failed for a reason that the message explains to a user."""

    exit_code = 1


class DataError(RepotError):
    """Pictures, labels or shards are not usable."""


class CorruptShardError(DataError):
    """A shard's bytes are not those that its receipt promises."""


class CheckpointError(RepotError):
    """A checkpoint cannot be fetched, read or mapped onto the backbone."""


class TrainingError(RepotError):
    """A training cannot go on."""


class StoppedError(TrainingError):
    """A training was asked to stop, and saved where it was; it goes on from there at the next start."""


class ModelError(RepotError):
    """A model folder or pointer is missing or not one of repot's."""


class StorageError(RepotError):
    """An object cannot be read, written or listed."""


class NotFoundError(StorageError):
    """There is no object of that name."""


class NoBucketError(StorageError):
    """There is no bucket of that name."""


class AlreadyExistsError(StorageError):
    """A create-only write found that the object exists."""


class ConflictError(StorageError):
    """A compare-and-swap found another version than the expected one."""


class UsageError(RepotError):
    """Options or parameters are wrong.

    Args:
        problems: One sentence for each problem; all of them, not the first.
    """

    exit_code = 2

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


def innermost_reason(err: BaseException) -> str:
    """Return what a library's error began with: requests wraps what happened in layers of objects' names."""
    while err.__cause__ or err.__context__:
        err = err.__cause__ or err.__context__ or err
    return str(err) or type(err).__name__


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


def some(names: Iterable[str], limit: int = 10) -> str:
    """Return the first `limit` names, and how many more there are."""
    every = list(names)
    shown = ", ".join(every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"
