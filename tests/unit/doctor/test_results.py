import pytest

from repot.errors import StorageError, UsageError
from repot_pipelines.doctor.results import (
    OK,
    PROBLEM,
    CheckResult,
    ok,
    problem_from_error,
    run_check,
)
from repot_pipelines.kfp_server.errors import SERVER_QUOTE


@pytest.mark.parametrize(
    ("message", "finding", "fix"),
    [
        (
            "gs://b cannot be read: no permission. Grant it.",
            "gs://b cannot be read: no permission.",
            "Grant it.",
        ),
        ("It is missing. Look at x.y. Is it on?", "It is missing. Look at x.y.", "Is it on?"),
        ("It is missing.", "It is missing.", "Do this."),
        (
            f"It answered 500. {SERVER_QUOTE}boom.",
            f"It answered 500. {SERVER_QUOTE}boom.",
            "Do this.",
        ),
    ],
)
def test_last_sentence_of_an_error_becomes_the_fix(message: str, finding: str, fix: str) -> None:
    result = problem_from_error("thing", StorageError(message), fix="Do this.")

    assert result == CheckResult(name="thing", state=PROBLEM, finding=finding, fix=fix)


def test_error_of_several_lines_becomes_one_line() -> None:
    err = UsageError(["One is wrong. Fix one.", "Two is wrong. Fix two."])

    result = problem_from_error("thing", err, fix="")

    assert result.finding == "One is wrong. Fix one. Two is wrong."
    assert result.fix == "Fix two."


def test_run_check_returns_one_or_several_results() -> None:
    one, two = ok("one", "fine"), ok("two", "fine")

    assert run_check("x", lambda: one) == [one]
    assert run_check("x", lambda: [one, two]) == [one, two]


def test_run_check_converts_expected_and_unexpected_errors_to_problems() -> None:
    def refuse() -> CheckResult:
        raise StorageError("No room. Make some.")

    def crash() -> CheckResult:
        raise KeyError("surprise")

    (refused,), (crashed,) = run_check("x", refuse), run_check("x", crash)

    assert (refused.state, refused.finding, refused.fix) == (PROBLEM, "No room.", "Make some.")
    assert crashed.state == PROBLEM
    assert "KeyError: 'surprise'" in crashed.finding
    assert OK not in (refused.state, crashed.state)
