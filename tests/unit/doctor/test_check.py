import pytest

from repot.errors import StorageError, UsageError
from repot_pipelines.doctor.check import OK, PROBLEM, Check, failed, guarded, ok


@pytest.mark.parametrize(
    ("message", "finding", "fix"),
    [
        (
            "gs://b cannot be read: no right. Grant it.",
            "gs://b cannot be read: no right.",
            "Grant it.",
        ),
        ("It is not there. Look at x.y. Is it on?", "It is not there. Look at x.y.", "Is it on?"),
        ("It is not there.", "It is not there.", "Do this."),
        ("It answered 500. It says: boom.", "It answered 500. It says: boom.", "Do this."),
    ],
)
def test_last_sentence_of_an_error_is_the_fix(message: str, finding: str, fix: str) -> None:
    found = failed("thing", StorageError(message), fix="Do this.")

    assert found == Check(name="thing", state=PROBLEM, finding=finding, fix=fix)


def test_error_of_several_lines_becomes_one() -> None:
    found = failed(
        "thing", UsageError(["One is wrong. Fix one.", "Two is wrong. Fix two."]), fix=""
    )

    assert found.finding == "One is wrong. Fix one. Two is wrong."
    assert found.fix == "Fix two."


def test_guarded_passes_results_on() -> None:
    one, two = ok("one", "fine"), ok("two", "fine")

    assert guarded("x", lambda: one) == [one]
    assert guarded("x", lambda: [one, two]) == [one, two]


def test_guarded_turns_errors_into_problems() -> None:
    def refuse() -> Check:
        raise StorageError("No room. Make some.")

    def break_down() -> Check:
        raise KeyError("surprise")

    (refused,), (broken,) = guarded("x", refuse), guarded("x", break_down)

    assert (refused.state, refused.finding, refused.fix) == (PROBLEM, "No room.", "Make some.")
    assert broken.state == PROBLEM
    assert "KeyError: 'surprise'" in broken.finding
    assert OK not in (refused.state, broken.state)
