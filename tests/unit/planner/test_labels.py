import os
import unicodedata
from pathlib import Path

import pytest

from repot.errors import StorageError, UsageError
from repot.planner import labels
from repot.planner.file_table import FileTable, FoundFile
from repot.planner.folders import assign_labels
from repot.planner.inputs.inventory import Inventory
from repot.planner.labels import (
    find_label_count_problems,
    find_label_name_problems,
    find_labels_file_problems,
    find_picture_count_problems,
    find_suspicious_labels,
    read_labels,
)


def _inventory(*paths: str) -> Inventory:
    files = [
        FoundFile(uri=f"/{path}", path=path, size_bytes=1, checksum="", version="1-1")
        for path in sorted(paths)
    ]
    return assign_labels(FileTable(files), listed_labels=None)


@pytest.mark.parametrize(
    "text", ["a\nb c\né", "a\nb c\né\n", "\ufeffa\r\n  b c \r\né\r\n\n", "a\nb c\n" + "e\u0301"]
)
def test_lines_of_a_labels_file_are_labels(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    assert read_labels(str(path)) == ["a", "b c", unicodedata.normalize("NFC", "é")]


def test_missing_labels_file_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="there is no file /no/labels"):
        read_labels("/no/labels")


def test_labels_file_that_is_not_utf8_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(b"ros\xe9\n")
    with pytest.raises(StorageError, match="UTF-8"):
        read_labels(str(path))


def test_invalid_lines_of_a_labels_file_are_reported_by_kind() -> None:
    problems = find_labels_file_problems(["a", "", "a", "0 b", "b", ""], {"a", "b"}, "L")
    assert problems == [
        (
            "Every line of a labels file must be a label; in L, line 2, line 6 are blank. "
            "Delete what is blank."
        ),
        (
            "A label must be listed only once; in L, line 3 repeats 'a' of line 1. "
            "Delete the repeated lines."
        ),
        (
            "A listed label must have pictures; in L, line 4 is '0 b'; "
            "the labels of the pictures are 'a', 'b'. Correct the lines."
        ),
    ]


@pytest.mark.parametrize(
    "lines",
    [
        [f"{number},label {number}" for number in range(25)],
        [f"label {number}" for number in range(1000)],
        [""],
        ["x" * 100_000] * 3,
    ],
)
def test_file_without_any_label_folder_gets_one_message(lines: list[str]) -> None:
    (problem,) = find_labels_file_problems(lines, {"b", "a"}, "labels.csv")
    assert "no line of labels.csv is one" in problem
    assert "the labels of the pictures are 'a', 'b'." in problem
    assert len(problem) < 400


@pytest.mark.parametrize("text", ["", "\n", "\r\n\r\n", "\ufeff"])
def test_empty_labels_file_is_called_empty(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text, encoding="utf-8")
    (problem,) = find_labels_file_problems(read_labels(str(path)), {"a", "b"}, "L")
    assert "It is empty, and the labels of the pictures are 'a', 'b'." in problem


def test_labels_file_that_is_no_ordinary_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("/dev/zero", str(tmp_path / "pipe"), str(tmp_path)):
        with pytest.raises(UsageError, match=f"there is no file {name}"):
            read_labels(name)


def test_labels_file_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MAX_LABELS_FILE_BYTES", 4)
    path = tmp_path / "labels.txt"
    path.write_text("a\nb\n")
    assert read_labels(str(path)) == ["a", "b"]
    path.write_text("a\nbc\n")
    with pytest.raises(UsageError, match="has 5"):
        read_labels(str(path))


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
    assert find_label_name_problems({"a b", "0", "花", "x" * 1000, "-", "a/b", '"', "🐱"}) == []


def test_label_that_is_a_whole_text_is_a_problem() -> None:
    (problem,) = find_label_name_problems({"a", "x" * 1001})
    assert problem == (
        f"A label name must have at most 1000 characters; got '{'x' * 40}'... with 1,001. "
        "Rename these labels."
    )


@pytest.mark.parametrize(("names", "got"), [([], "got none"), (["a"], "got 'a'")])
def test_fewer_than_two_labels_are_a_problem(names: list[str], got: str) -> None:
    (problem,) = find_label_count_problems(names, ["c"])
    assert got in problem
    assert "No pictures are in 'c'." in problem


def test_two_labels_are_enough() -> None:
    assert find_label_count_problems(["a", "b"], []) == []


def test_labels_with_fewer_than_two_pictures_are_named() -> None:
    inventory = _inventory("a/1", "a/2", "b/1", "c/1")
    (problem,) = find_picture_count_problems(inventory, ["a", "b", "c", "gone"])
    assert "these have fewer: 'b', 'c', 'gone'" in problem
    assert find_picture_count_problems(inventory, ["a"]) == []


def test_every_label_needs_pictures_in_the_training_folder() -> None:
    complete = _inventory("train/a/1", "train/b/1", "validation/a/1")
    assert find_picture_count_problems(complete, ["a", "b"]) == []
    (problem,) = find_picture_count_problems(
        _inventory("train/a/1", "validation/b/1", "validation/c/1"), ["a", "b", "c"]
    )
    assert "these have none: 'b', 'c'" in problem


def test_validation_folder_needs_a_picture() -> None:
    (problem,) = find_picture_count_problems(
        _inventory("train/a/1", "train/b/1", "validation/notes"), ["a", "b"]
    )
    assert "must be pictures of a label for validation" in problem


def _stored(*names: str, is_split: bool = False) -> Inventory:
    """Return an inventory of files whose folders have these names as stored."""
    files = [
        FoundFile(
            uri=f"/pictures/{name}/1.jpg",
            path=unicodedata.normalize("NFC", f"{name}/1.jpg"),
            size_bytes=1,
            checksum="",
            version="1-1",
        )
        for name in names
    ]
    inventory = assign_labels(FileTable(files), listed_labels=None)
    assert inventory.is_split == is_split
    return inventory


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("Apple", "apple", "pear"), "'Apple', 'apple'"),
        (("STRASSE", "straße"), "'STRASSE', 'straße'"),
        (("ﬁg", "fig"), "'fig', 'ﬁg'"),
        (("train/Apple", "train/apple", "validation/apple"), "'Apple', 'apple'"),
        (("train/Apple", "train/pear", "validation/apple"), "'Apple', 'apple'"),
    ],
)
def test_labels_that_differ_only_by_case_or_form_get_a_warning(
    names: tuple[str, ...], named: str
) -> None:
    inventory = _stored(*names, is_split="/" in names[0])
    (warning,) = find_suspicious_labels(inventory)
    assert f"The labels {named} differ only by case or Unicode form" in warning


def test_folders_of_one_name_in_two_unicode_forms_get_a_warning() -> None:
    (warning,) = find_suspicious_labels(_stored("caf\u00e9", "cafe\u0301", "tea"))
    assert "Several folders are named 'café' in different Unicode forms" in warning
    (warning,) = find_suspicious_labels(
        _stored("train/caf\u00e9", "train/cafe\u0301", "validation/caf\u00e9", is_split=True)
    )
    assert "'train/café'" in warning


def test_splits_stored_in_different_unicode_forms_are_fine() -> None:
    inventory = _stored("train/caf\u00e9", "validation/cafe\u0301", is_split=True)
    assert find_suspicious_labels(inventory) == []


def test_files_in_subfolders_get_a_warning() -> None:
    (warning,) = find_suspicious_labels(_inventory("a/1", "a/sub/2", "a/sub/3", "b/1"))
    assert "subfolders of label folders are left out, 2 in total, such as 'a/sub/2'" in warning
    assert "Use --nested" in warning


def test_empty_label_folders_get_a_warning() -> None:
    inventory = assign_labels(
        FileTable(), listed_labels=None, empty_folders=["pears", "plums\x1b[31m"]
    )
    (warning,) = find_suspicious_labels(inventory)
    assert "contain no pictures and are left out: 'pears', 'plums\\x1b[31m'." in warning
