"""The result of one check, and running checks so that a failing or hanging one becomes a result."""

from collections.abc import Callable
from dataclasses import dataclass

from repot.errors import RepotError
from repot_pipelines.kfp_server.errors import SERVER_QUOTE

OK = "ok"
WARNING = "warning"
"""It may not work, or its state cannot be determined; needs attention."""
PROBLEM = "problem"
"""It will not work."""
NOT_CHECKED = "not checked"
"""Not requested, or a prerequisite of the check is missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: What was checked, in one or two words; the same in every report.
        state: OK, WARNING, PROBLEM or NOT_CHECKED.
        finding: Its state in one sentence.
        fix: What to do about it; "" if there is nothing to do.
    """

    name: str
    state: str
    finding: str
    fix: str = ""


def ok(name: str, finding: str) -> CheckResult:
    """Return a result that needs no action."""
    return CheckResult(name=name, state=OK, finding=finding)


def warning(name: str, finding: str, fix: str) -> CheckResult:
    """Return a result that needs attention but does not block a run."""
    return CheckResult(name=name, state=WARNING, finding=finding, fix=fix)


def problem(name: str, finding: str, fix: str) -> CheckResult:
    """Return a result that will make a run fail."""
    return CheckResult(name=name, state=PROBLEM, finding=finding, fix=fix)


def not_checked(name: str, reason: str) -> CheckResult:
    """Return the result of a check that was skipped, with the reason."""
    return CheckResult(name=name, state=NOT_CHECKED, finding=reason)


def problem_from_error(name: str, err: RepotError, *, fix: str) -> CheckResult:
    """Convert an error to a problem; its last sentence says what to do, unless it quotes a server.

    Args:
        name: What was checked.
        err: The error.
        fix: What to do if the error only states what is wrong.
    """
    finding, _, last = " ".join(str(err).split()).rpartition(". ")
    if not finding or last.startswith(SERVER_QUOTE):
        return problem(name, str(err), fix)
    return problem(name, f"{finding}.", last)


def problem_from_crash(name: str, err: Exception) -> CheckResult:
    """Convert an unexpected exception inside a check to a problem."""
    return problem(
        name,
        f"The check itself failed: {type(err).__name__}: {err}.",
        "Please report this as a bug.",
    )


def run_check(name: str, check: Callable[[], CheckResult | list[CheckResult]]) -> list[CheckResult]:
    """Run one check; an exception becomes a problem, so that the other checks still run.

    Args:
        name: Name of the result if the check raises.
        check: Returns one or several results.
    """
    try:
        found = check()
    except RepotError as err:
        return [problem_from_error(name, err, fix="Follow the message, then run it again.")]
    except Exception as err:  # noqa: BLE001 - a crashing check must not hide the other results
        return [problem_from_crash(name, err)]
    return [found] if isinstance(found, CheckResult) else found
