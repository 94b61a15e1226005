import pytest

from repot.manifest import Rejection
from repot.planner.folders import FolderContents, find_misplaced, sort_files
from repot.planner.listing import FoundFile


def _sort(*paths: str, listed_labels: set[str] | None = None) -> FolderContents:
    files = [
        FoundFile(uri=f"/{path}", path=path, size_bytes=1, crc32c="", version="1-1")
        for path in sorted(paths)
    ]
    return sort_files(files, listed_labels=listed_labels)


def _reasons(contents: FolderContents) -> dict[str, str]:
    return {rejection.path: rejection.reason for rejection in contents.rejected}


def test_folder_names_are_labels() -> None:
    contents = _sort("roses/1.jpg", "daisy/no_ending", "daisy/.hidden.jpg", "LICENSE.txt")
    assert not contents.is_split
    assert [(item.file.path, item.label, item.split) for item in contents.files] == [
        ("daisy/.hidden.jpg", "daisy", None),
        ("daisy/no_ending", "daisy", None),
        ("roses/1.jpg", "roses", None),
    ]
    assert contents.rejected == (
        Rejection(path="LICENSE.txt", label="", split="", reason="outside_labels"),
    )
    assert find_misplaced(contents) == []


def test_train_and_validation_folders_are_splits() -> None:
    contents = _sort(
        "train/a/1.jpg", "validation/a/2.jpg", "train/a/sub/3.jpg", "README.md", "train/notes.txt"
    )
    assert contents.is_split
    assert [(item.label, item.split) for item in contents.files] == [
        ("a", "train"),
        ("a", "validation"),
    ]
    assert contents.rejected == (
        Rejection(path="README.md", label="", split="", reason="outside_labels"),
        Rejection(path="train/a/sub/3.jpg", label="a", split="train", reason="nested_folder"),
        Rejection(path="train/notes.txt", label="", split="train", reason="outside_labels"),
    )


def test_train_alone_is_a_label() -> None:
    contents = _sort("train/1.jpg", "car/1.jpg", "validation")
    assert not contents.is_split
    assert contents.labels == {"train", "car"}


@pytest.mark.parametrize(
    "path",
    [
        "a/Thumbs.db",
        "a/.DS_Store",
        "a/desktop.ini",
        "a/._1.jpg",
        ".git/1.jpg",
        "a/.ipynb_checkpoints/1.jpg",
        "__MACOSX/a/1.jpg",
        "a/@eaDir/1.jpg",
        ".gitignore",
    ],
)
def test_files_of_systems_and_tools_are_no_pictures(path: str) -> None:
    contents = _sort("a/1.jpg", "b/1.jpg", path, listed_labels={"a", "b"})
    assert _reasons(contents) == {path: "system_file"}
    assert find_misplaced(contents) == []


def test_labels_that_are_not_listed_are_left_out() -> None:
    contents = _sort("a/1.jpg", "b/1.jpg", "b/sub/2.jpg", "c/1.jpg", listed_labels={"a", "c", "x"})
    assert contents.labels == {"a", "c"}
    assert _reasons(contents) == {"b/1.jpg": "label_not_listed", "b/sub/2.jpg": "label_not_listed"}


def test_pictures_outside_label_folders_are_named() -> None:
    (problem,) = find_misplaced(_sort("1.JPG", "2.png", "3.tiff", "4.webp", "a/1.jpg"))
    assert "4 lie elsewhere: 1.JPG, 2.png, 3.tiff and 1 more" in problem
    assert "PICTURES/<label>/<picture>" in problem


def test_third_folder_beside_train_and_validation_is_named() -> None:
    (problem,) = find_misplaced(
        _sort("train/a/1.jpg", "validation/a/1.jpg", "extra/a/1.jpg", "val/a/1.jpg")
    )
    assert "2 lie elsewhere: extra/a/1.jpg, val/a/1.jpg" in problem


def test_test_folder_beside_train_and_validation_takes_no_part() -> None:
    contents = _sort("train/a/1.jpg", "validation/a/1.jpg", "test/a/1.jpg", "test/2.jpg")
    assert _reasons(contents) == {"test/a/1.jpg": "test_folder", "test/2.jpg": "test_folder"}
    assert find_misplaced(contents) == []


@pytest.mark.parametrize("folder", ["val", "valid"])
def test_validation_folder_may_have_a_short_name(folder: str) -> None:
    contents = _sort("train/a/1.jpg", f"{folder}/a/2.jpg")
    assert contents.is_split
    assert [(item.label, item.split) for item in contents.files] == [
        ("a", "train"),
        ("a", "validation"),
    ]


@pytest.mark.parametrize(
    "folders", [("train", "test"), ("Train", "Test"), ("Training", "Validation")]
)
def test_splits_of_other_names_are_told_from_labels(folders: tuple[str, str]) -> None:
    (problem,) = find_misplaced(_sort(f"{folders[0]}/a/1.jpg", f"{folders[1]}/a/2.jpg"))
    assert f"{', '.join(sorted(folders))} hold nothing but folders" in problem
    assert "If these are splits, call them train and validation" in problem


def test_pictures_one_level_too_deep_are_named() -> None:
    (problem,) = find_misplaced(_sort("photos/a/1.jpg", "photos/b/1.jpg", "c/1.jpg"))
    assert "photos hold nothing but folders, such as photos/a/1.jpg" in problem


def test_some_nested_pictures_are_rejected_and_no_problem() -> None:
    contents = _sort("a/1.jpg", "a/sub/2.jpg")
    assert _reasons(contents) == {"a/sub/2.jpg": "nested_folder"}
    assert find_misplaced(contents) == []
