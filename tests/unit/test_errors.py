import re

import pytest

from repot import errors
from repot.errors import DataError, RepotError, UsageError

ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, RepotError)
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_exit_code_tells_wrong_usage_from_failed_work(error: type[RepotError]) -> None:
    assert error.exit_code == (2 if issubclass(error, UsageError) else 1)


def test_docstring_draws_every_error_under_its_parent() -> None:
    drawn: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for column, name in (
        (match.start(1), match[1]) for match in re.finditer(r"(?m)^[ │├└─]*(\w+Error)", _tree())
    ):
        depth = column - _tree().rfind("\n", 0, column)
        parents = [(at, parent) for at, parent in parents if at < depth]
        drawn[name] = parents[-1][1] if parents else "Exception"
        parents.append((depth, name))

    assert drawn == {error.__name__: error.__base__.__name__ for error in ERRORS if error.__base__}


def test_usage_error_from_several_problems_keeps_all_of_them() -> None:
    error = UsageError(problem for problem in ("a must be 1.", "b must be 2."))

    assert error.problems == ("a must be 1.", "b must be 2.")
    assert str(error) == "a must be 1.\nb must be 2."


def test_usage_error_from_a_sentence_is_one_problem_not_letters() -> None:
    assert UsageError("a must be 1.").problems == ("a must be 1.",)


def test_data_error_is_caught_as_repot_error() -> None:
    with pytest.raises(RepotError, match=r"b\.jpg"):
        raise DataError("b.jpg cannot be read.")


def _tree() -> str:
    return errors.__doc__ or ""
