import unicodedata
from pathlib import Path

import pytest

from repot.errors import StorageError, UsageError
from repot.planner.labels import find_line_problems, find_name_problems, read_labels


@pytest.mark.parametrize(
    "text", ["a\nb c\né", "a\nb c\né\n", "\ufeffa\r\n  b c \r\né\r\n\n", "a\nb c\n" + "e\u0301"]
)
def test_lines_are_labels(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    assert read_labels(str(path)) == ["a", "b c", unicodedata.normalize("NFC", "é")]


def test_labels_file_must_exist_and_be_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no /no/labels"):
        read_labels("/no/labels")
    path = tmp_path / "labels.txt"
    path.write_bytes(b"ros\xe9\n")
    with pytest.raises(StorageError, match="UTF-8"):
        read_labels(str(path))


def test_all_bad_lines_are_named() -> None:
    problems = find_line_problems(["a", "", "a", "0 b", "b"], {"a", "b"}, "L")
    assert [problem.split(";")[1].strip() for problem in problems] == [
        "line 2 of L is blank. Delete it.",
        "line 3 of L repeats 'a' of line 1. Delete it.",
        "line 4 of L is '0 b', and the folders are a, b. Correct the line.",
    ]


def test_good_lines_have_no_problems() -> None:
    assert find_line_problems(["b", "a"], {"a", "b", "c"}, "L") == []


def test_empty_labels_file_is_a_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\n")
    assert len(find_line_problems(read_labels(str(path)), {"a"}, str(path))) == 1


@pytest.mark.parametrize("label", ["a\nb", "a\x00", " a", "a ", "a\udce9", "a\u2028b"])
def test_name_that_cannot_be_a_line_is_a_problem(label: str) -> None:
    (problem,) = find_name_problems({"good", label})
    assert repr(label) in problem
    assert "good" not in problem


def test_any_other_name_is_fine() -> None:
    assert find_name_problems({"a b", "0", "花", "x" * 300, "-"}) == []
