import unicodedata
from pathlib import Path

import pytest

from repot.errors import StorageError, UsageError
from repot.planner.folders import Inventory, assign_labels
from repot.planner.labels import (
    find_label_count_problems,
    find_label_name_problems,
    find_labels_file_problems,
    find_picture_count_problems,
    read_labels,
)
from repot.planner.listing import FoundFile


def _inventory(*paths: str) -> Inventory:
    files = [
        FoundFile(uri=f"/{path}", path=path, size_bytes=1, crc32c="", version="1-1")
        for path in sorted(paths)
    ]
    return assign_labels(files, listed_labels=None)


@pytest.mark.parametrize(
    "text", ["a\nb c\né", "a\nb c\né\n", "\ufeffa\r\n  b c \r\né\r\n\n", "a\nb c\n" + "e\u0301"]
)
def test_lines_of_a_labels_file_are_labels(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    assert read_labels(str(path)) == ["a", "b c", unicodedata.normalize("NFC", "é")]


def test_missing_labels_file_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="there is no /no/labels"):
        read_labels("/no/labels")


def test_labels_file_that_is_not_utf8_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(b"ros\xe9\n")
    with pytest.raises(StorageError, match="UTF-8"):
        read_labels(str(path))


def test_all_invalid_lines_of_a_labels_file_are_reported() -> None:
    problems = find_labels_file_problems(["a", "", "a", "0 b", "b"], {"a", "b"}, "L")
    assert [problem.split(";")[1].strip() for problem in problems] == [
        "line 2 of L is blank. Delete it.",
        "line 3 of L repeats 'a' of line 1. Delete it.",
        "line 4 of L is '0 b', and the folders are a, b. Correct the line.",
    ]


def test_valid_labels_file_has_no_problems() -> None:
    assert find_labels_file_problems(["b", "a"], {"a", "b", "c"}, "L") == []


def test_empty_labels_file_has_one_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\n")
    assert len(find_labels_file_problems(read_labels(str(path)), {"a"}, str(path))) == 1


@pytest.mark.parametrize("label", ["a\nb", "a\x00", " a", "a ", "a\udce9", "a\u2028b"])
def test_label_name_that_does_not_fit_on_a_line_is_a_problem(label: str) -> None:
    (problem,) = find_label_name_problems({"good", label})
    assert repr(label) in problem
    assert "good" not in problem


def test_other_label_names_are_valid() -> None:
    assert find_label_name_problems({"a b", "0", "花", "x" * 300, "-"}) == []


@pytest.mark.parametrize(("labels", "got"), [([], "got none"), (["a"], "got a")])
def test_fewer_than_two_labels_are_a_problem(labels: list[str], got: str) -> None:
    (problem,) = find_label_count_problems(labels)
    assert got in problem


def test_two_labels_are_enough() -> None:
    assert find_label_count_problems(["a", "b"]) == []


def test_labels_with_fewer_than_two_pictures_are_named() -> None:
    inventory = _inventory("a/1", "a/2", "b/1", "c/1")
    (problem,) = find_picture_count_problems(inventory, ["a", "b", "c", "gone"])
    assert "these have fewer: b, c, gone" in problem
    assert find_picture_count_problems(inventory, ["a"]) == []


def test_every_label_needs_pictures_in_the_training_folder() -> None:
    complete = _inventory("train/a/1", "train/b/1", "validation/a/1")
    assert find_picture_count_problems(complete, ["a", "b"]) == []
    (problem,) = find_picture_count_problems(
        _inventory("train/a/1", "validation/b/1", "validation/c/1"), ["a", "b", "c"]
    )
    assert "these have none: b, c" in problem


def test_validation_folder_needs_a_picture() -> None:
    (problem,) = find_picture_count_problems(
        _inventory("train/a/1", "train/b/1", "validation/notes"), ["a", "b"]
    )
    assert "validation folder must contain pictures" in problem
