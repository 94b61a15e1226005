import errno
import re
from pathlib import Path

import pytest

from repot import errors
from repot.errors import (
    DataError,
    RepotError,
    StorageError,
    UsageError,
    advise,
    convert_disk_errors,
    join_names,
    nearest_names,
    printable,
    unknown_name,
)

ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, RepotError)
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_only_usage_errors_exit_with_2(error: type[RepotError]) -> None:
    assert error.exit_code == (2 if issubclass(error, UsageError) else 1)


def test_docstring_shows_every_error_below_its_parent() -> None:
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


def test_usage_error_keeps_all_problems() -> None:
    error = UsageError(problem for problem in ("a must be 1.", "b must be 2."))

    assert error.problems == ("a must be 1.", "b must be 2.")
    assert str(error) == "a must be 1.\nb must be 2."


def test_usage_error_from_one_text_is_one_problem() -> None:
    assert UsageError("a must be 1.").problems == ("a must be 1.",)


def test_data_error_is_caught_as_repot_error() -> None:
    with pytest.raises(RepotError, match=r"b\.jpg"):
        raise DataError("b.jpg cannot be read.")


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c"], "a, b and 1 more")],
)
def test_join_names_counts_the_names_past_the_limit(names: list[str], text: str) -> None:
    assert join_names(names, limit=2) == text


@pytest.mark.parametrize(("name", "nearest"), [("haed", ["head"]), ("HEAD", ["head"]), ("xyz", [])])
def test_nearest_names_finds_typos_only(name: str, nearest: list[str]) -> None:
    assert nearest_names(name, ("head", "fine_tune")) == nearest


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é花 👩\u200d👧", "plain é花 👩\u200d👧"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31m\x9bH\x7f", r"\u001b[31m\u009bH\u007f"),
        ("\u2028\u202e\u2066\udc80", r"\u2028\u202e\u2066\udc80"),
    ],
)
def test_printable_escapes_what_breaks_a_line_or_controls_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_unknown_name_lists_the_choices_and_suggests_the_nearest() -> None:
    message = "recipe must be one of head, fine_tune; got recipe='haed'. Did you mean head?"

    assert unknown_name("recipe", "haed", ("head", "fine_tune")) == message
    assert (
        unknown_name("recipe", "xyz", ("head",)) == "recipe must be one of head; got recipe='xyz'."
    )


def _tree() -> str:
    return errors.__doc__ or ""


@pytest.mark.parametrize(
    ("variables", "is_pod"),
    [
        ((), False),
        (("KUBERNETES_SERVICE_HOST",), False),  # a notebook or a CI job in a cluster
        (("KFP_POD_NAME",), False),
        (("KUBERNETES_SERVICE_HOST", "KFP_POD_NAME"), True),
        (("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"), True),
    ],
)
def test_advice_depends_on_whether_this_is_a_pod_of_a_run(
    variables: tuple[str, ...], is_pod: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KUBERNETES_SERVICE_HOST", "KFP_POD_NAME", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    for name in variables:
        monkeypatch.setenv(name, "x")

    assert advise(on_machine="machine", in_pod="pod") == ("pod" if is_pod else "machine")


@pytest.mark.usefixtures("task_pod")
def test_full_disk_of_a_pod_gives_advice_about_the_node(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StorageError) as caught, convert_disk_errors(tmp_path):
        raise full
    assert "TMPDIR" not in str(caught.value)
    assert "ephemeral storage" in str(caught.value)
