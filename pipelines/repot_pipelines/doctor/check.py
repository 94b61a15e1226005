"""The result of one look at one thing, and how an error becomes such a result."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from repot.errors import RepotError

OK = "ok"
WARNING = "warning"
"""It may work, or cannot be known; worth a look."""
PROBLEM = "problem"
"""It will not work."""
NOT_CHECKED = "not checked"
"""Nobody asked for it, or what it takes to look is missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What was found out about one thing.

    Attributes:
        name: The thing, one or two words, the same in every report.
        state: OK, WARNING, PROBLEM or NOT_CHECKED.
        finding: One sentence about how it is.
        fix: What to do; "" where nothing is to be done.
    """

    name: str
    state: str
    finding: str
    fix: str = ""


def ok(name: str, finding: str) -> Check:
    """Return that the thing is as it should be."""
    return Check(name=name, state=OK, finding=finding)


def warning(name: str, finding: str, fix: str) -> Check:
    """Return that the thing deserves a look."""
    return Check(name=name, state=WARNING, finding=finding, fix=fix)


def problem(name: str, finding: str, fix: str) -> Check:
    """Return that the thing will not work."""
    return Check(name=name, state=PROBLEM, finding=finding, fix=fix)


def not_checked(name: str, reason: str) -> Check:
    """Return that nobody looked, and why."""
    return Check(name=name, state=NOT_CHECKED, finding=reason)


def failed(name: str, err: RepotError, *, fix: str) -> Check:
    """Return a problem that is told by an error, whose last sentence says what to do.

    Args:
        name: The thing.
        err: The error.
        fix: What to do where the error says only what is wrong.
    """
    finding, _, last = " ".join(str(err).split()).rpartition(". ")
    if not finding or last.startswith("It says: "):
        return problem(name, str(err), fix)
    return problem(name, f"{finding}.", last)


def guarded(name: str, look: Callable[[], Check | list[Check]]) -> list[Check]:
    """Return what `look` finds; a look that breaks is a problem of its own and does not end the others.

    Args:
        name: What is told to have broken.
        look: The look.
    """
    try:
        found = look()
    except RepotError as err:
        return [failed(name, err, fix="Look at the message, and ask again.")]
    except Exception as err:  # noqa: BLE001 - one look that breaks must not hide what the others see
        return [broken(name, err)]
    return [found] if isinstance(found, Check) else found


def broken(name: str, err: Exception) -> Check:
    """Return that a look broke in a way that nobody thought of."""
    return problem(
        name,
        f"The check itself failed: {type(err).__name__}: {err}.",
        "Please report this as a bug.",
    )


PLACEHOLDERS = ("your-bucket", "your-project", "your-domain")


def has_placeholder(text: str) -> bool:
    """Return whether a text still holds one."""
    return any(placeholder in text for placeholder in PLACEHOLDERS)


_T = TypeVar("_T")


def within(seconds: float, work: Callable[[], _T]) -> _T:
    """Return what `work` returns, if it does so in time; what hangs is left behind, and ends with the process.

    Args:
        seconds: How long to wait.
        work: What may hang: something that knows no time limit of its own, or a longer one.

    Raises:
        TimeoutError: It did not return in time.
    """
    done: list[_T] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as err:  # noqa: BLE001 - raised again where it is waited for
            failures.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError
    if failures:
        raise failures[0]
    return done[0]
