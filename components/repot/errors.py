"""Every error that repot raises on purpose, the exit codes, and helpers to word messages.

    RepotError                 exit code 1: the work failed
    ├── DataError              pictures, labels or shards are unusable
    │   └── CorruptShardError  the bytes of a shard differ from its receipt
    ├── CheckpointError        a checkpoint cannot be fetched, read or mapped
    ├── TrainingError          a training cannot continue
    │   └── StoppedError       a training was asked to stop; the next start resumes it
    ├── ModelError             a model folder or pointer is invalid
    ├── StorageError           an object cannot be read, written or listed
    │   ├── NotFoundError      the object does not exist
    │   ├── NoBucketError      the bucket does not exist
    │   ├── AlreadyExistsError a create-only write found an existing object
    │   ├── ConflictError      a compare-and-swap found another version than expected
    │   └── ContentEncodingError  an object is compressed in a way that cannot be undone
    └── UsageError             exit code 2: options or parameters are wrong; lists every problem

A message states what is wrong, where, and what to do:
"<thing> must <rule>; got <name>=<value!r>. <What to do.>"
"""

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

# Control characters, some of which a terminal obeys, line and paragraph separators, lone
# surrogates, and the marks that change the order in which text is shown.
_NOT_PRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_GATE_REJECTED = 3
"""The gate rejected the model, and the caller requested this exit code."""
EXIT_INTERRUPTED = 130
"""Stopped by Ctrl-C or SIGTERM: 128 + SIGINT, as shells report it."""


class RepotError(Exception):
    """The work failed for a reason that the message explains to the user."""

    exit_code = EXIT_FAILED


class DataError(RepotError):
    """Pictures, labels or shards are unusable."""


class CorruptShardError(DataError):
    """The bytes of a shard differ from its receipt."""


class CheckpointError(RepotError):
    """A checkpoint cannot be fetched, read or mapped onto the backbone."""


class TrainingError(RepotError):
    """A training cannot continue."""


class StoppedError(TrainingError):
    """A training was asked to stop and saved its state; the next start resumes from there."""


class ModelError(RepotError):
    """A model folder or pointer is missing or invalid."""


class StorageError(RepotError):
    """An object cannot be read, written or listed."""


class NotFoundError(StorageError):
    """The object does not exist."""


class NoBucketError(StorageError):
    """The bucket does not exist."""


class AlreadyExistsError(StorageError):
    """A create-only write found an existing object."""


class ConflictError(StorageError):
    """A compare-and-swap found another version than the expected one."""


class ContentEncodingError(StorageError):
    """An object's Content-Encoding is not supported, or its compressed bytes are damaged."""


class UsageError(RepotError):
    """Options or parameters are wrong.

    Args:
        problems: One message per problem; all of them, not only the first.
    """

    exit_code = EXIT_USAGE

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


def innermost_reason(err: BaseException) -> str:
    """Return the message at the root of a chain of errors, which requests wraps in layers."""
    while err.__cause__ or err.__context__:
        err = err.__cause__ or err.__context__ or err
    return str(err) or type(err).__name__


@contextlib.contextmanager
def convert_disk_errors(folder: Path) -> Iterator[None]:
    """Convert an OSError from writing to a temporary folder into an error that says what to do.

    Raises:
        StorageError: The folder is not writable; most often its disk is full.
    """
    try:
        yield
    except OSError as err:
        # h5py describes a full disk in five lines; the error number alone is clearer.
        reason = os.strerror(err.errno) if err.errno else str(err)
        advice = advise(
            on_machine="Free some space, or set the environment variable TMPDIR to a folder on "
            "another disk.",
            in_pod="Run on nodes with more free disk, or raise the namespace's limit of "
            "ephemeral storage.",
        )
        raise StorageError(
            f"The temporary folder {folder} must be writable and have free space; "
            f"the system reports: {reason}. {advice}"
        ) from err


def is_task_pod() -> bool:
    """Return whether this process runs in a pod of a run: a KFP task, or a worker of its Job.

    Other pods do not count. In a notebook or a CI job, people set variables and log in as on their
    own machine.
    """
    return "KUBERNETES_SERVICE_HOST" in os.environ and any(
        # KFP sets the first in each task, Kubernetes the second in each pod of an Indexed Job.
        variable in os.environ
        for variable in ("KFP_POD_NAME", "JOB_COMPLETION_INDEX")
    )


def advise(*, on_machine: str, in_pod: str) -> str:
    """Return the advice that fits where this process runs.

    Args:
        on_machine: What to do on a machine that the user logs in to.
        in_pod: What to do about a pod of a run, whose variables come from objects of the cluster.
    """
    return in_pod if is_task_pod() else on_machine


def printable(text: str) -> str:
    """Return text on one line, with JSON's escape for each character that is not printable.

    File names and foreign labels can contain such characters. Printed as they are, they break
    tables and can make a terminal hide or fake output.
    """
    return _NOT_PRINTABLE.sub(
        lambda found: _SHORT_ESCAPES.get(found[0], f"\\u{ord(found[0]):04x}"), text
    )


def join_names(names: Iterable[str], limit: int = 10) -> str:
    """Return the first `limit` names, separated by commas, and how many more there are."""
    every = list(names)
    shown = ", ".join(every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"


def nearest_names(name: str, choices: Iterable[str], limit: int = 1) -> list[str]:
    """Return the `choices` most similar to a misspelt name, best first; empty if none is close."""
    return difflib.get_close_matches(name.lower(), list(choices), n=limit, cutoff=0.6)


def unknown_name(parameter: str, value: object, choices: Iterable[str]) -> str:
    """Return the message for a value that is not in `choices`; it suggests the nearest one.

    Args:
        parameter: Name of the option or parameter.
        value: The value given.
        choices: Every valid name.
    """
    names = list(choices)
    near = nearest_names(str(value), names)
    advice = f" Did you mean {near[0]}?" if near else ""
    return f"{parameter} must be one of {', '.join(names)}; got {parameter}={value!r}.{advice}"
