from collections.abc import Sequence

import pytest

from repot.manifest import Rejection
from repot.planner.file_table import FileTable, FoundFile
from repot.planner.folders import assign_labels, find_layout_problems
from repot.planner.inputs.inventory import Inventory


def _assign_labels(
    *paths: str,
    listed_labels: set[str] | None = None,
    empty_folders: Sequence[str] = (),
    nested: bool = False,
) -> Inventory:
    files = [
        FoundFile(uri=f"/{path}", path=path, size_bytes=1, checksum="", version="1-1")
        for path in sorted(paths)
    ]
    return assign_labels(
        FileTable(files), listed_labels=listed_labels, empty_folders=empty_folders, nested=nested
    )


def _reasons(inventory: Inventory) -> dict[str, str]:
    return {rejection.path: rejection.reason for rejection in inventory.rejected}


def test_folder_names_are_labels() -> None:
    inventory = _assign_labels("roses/1.jpg", "daisy/no_ending", "daisy/.hidden.jpg", "LICENSE.txt")
    assert not inventory.is_split
    assert [(item.file.path, item.label, item.split) for item in inventory.candidates] == [
        ("daisy/.hidden.jpg", "daisy", ""),
        ("daisy/no_ending", "daisy", ""),
        ("roses/1.jpg", "roses", ""),
    ]
    assert inventory.rejected == (
        Rejection(path="LICENSE.txt", label="", split="", reason="outside_labels"),
    )
    assert find_layout_problems(inventory) == []


def test_train_and_validation_folders_are_splits() -> None:
    inventory = _assign_labels(
        "train/a/1.jpg", "validation/a/2.jpg", "train/a/sub/3.jpg", "README.md", "train/notes.txt"
    )
    assert inventory.is_split
    assert [(item.label, item.split) for item in inventory.candidates] == [
        ("a", "train"),
        ("a", "validation"),
    ]
    assert inventory.rejected == (
        Rejection(path="README.md", label="", split="", reason="outside_labels"),
        Rejection(path="train/a/sub/3.jpg", label="a", split="train", reason="nested_folder"),
        Rejection(path="train/notes.txt", label="", split="train", reason="outside_labels"),
    )


def test_train_folder_without_validation_folder_is_a_label() -> None:
    inventory = _assign_labels("train/1.jpg", "car/1.jpg", "validation")
    assert not inventory.is_split
    assert inventory.labels == {"train", "car"}


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
def test_system_files_are_rejected_without_a_problem(path: str) -> None:
    inventory = _assign_labels("a/1.jpg", "b/1.jpg", path, listed_labels={"a", "b"})
    assert _reasons(inventory) == {path: "system_file"}
    assert find_layout_problems(inventory) == []


def test_unlisted_labels_are_rejected() -> None:
    inventory = _assign_labels(
        "a/1.jpg", "b/1.jpg", "b/sub/2.jpg", "c/1.jpg", listed_labels={"a", "c", "x"}
    )
    assert inventory.labels == {"a", "c"}
    assert _reasons(inventory) == {"b/1.jpg": "label_not_listed", "b/sub/2.jpg": "label_not_listed"}


def test_pictures_outside_label_folders_are_a_problem() -> None:
    (problem,) = find_layout_problems(
        _assign_labels("1.JPG", "2.png", "3.tiff", "4.webp", "a/1.jpg")
    )
    assert "4 are not: '1.JPG', '2.png', '3.tiff' and 1 more" in problem
    assert "PICTURES/<label>/<picture>" in problem


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("root", ["", "train/"])
def test_folder_with_an_empty_name_is_no_label(root: str, nested: bool) -> None:
    paths = [f"{root}/a/1.jpg", f"{root}/2.jpg", f"{root}a/3.jpg"]
    paths += ["validation/a/4.jpg"] if root else []
    inventory = _assign_labels(*paths, nested=nested)
    assert "" not in inventory.labels
    (problem,) = find_layout_problems(inventory)
    assert problem.startswith("Every picture must be in a label folder; 2 are not: ")
    assert problem.endswith("give its location with both slashes, such as gs://BUCKET//.")


def test_folder_next_to_train_and_validation_is_a_problem() -> None:
    (problem,) = find_layout_problems(
        _assign_labels("train/a/1.jpg", "validation/a/1.jpg", "extra/a/1.jpg", "val/a/1.jpg")
    )
    assert "2 are not: 'extra/a/1.jpg', 'val/a/1.jpg'" in problem


def test_test_folder_next_to_train_and_validation_is_a_split() -> None:
    inventory = _assign_labels("train/a/1.jpg", "validation/a/1.jpg", "test/a/1.jpg", "test/2.jpg")
    assert [(item.file.path, item.label, item.split) for item in inventory.candidates] == [
        ("test/a/1.jpg", "a", "test"),
        ("train/a/1.jpg", "a", "train"),
        ("validation/a/1.jpg", "a", "validation"),
    ]
    # Without a label folder, a test picture has no label.
    assert _reasons(inventory) == {"test/2.jpg": "test_folder"}
    assert find_layout_problems(inventory) == []


@pytest.mark.parametrize("stray", [[], ["README.md", "train/notes.txt", "__MACOSX/x/1.jpg"]])
def test_train_and_test_folders_are_splits_without_validation(stray: list[str]) -> None:
    inventory = _assign_labels("train/a/1.jpg", "test/a/2.jpg", *stray)
    assert [(item.label, item.split) for item in inventory.candidates] == [
        ("a", "test"),
        ("a", "train"),
    ]
    assert find_layout_problems(inventory) == []


def test_test_pictures_without_labels_do_not_make_train_a_label() -> None:
    inventory = _assign_labels("train/a/1.jpg", "train/b/2.jpg", "test/3.jpg")
    assert inventory.labels == {"a", "b"}
    assert _reasons(inventory) == {"test/3.jpg": "test_folder"}


@pytest.mark.parametrize(
    "paths", [("train/1.jpg", "test/2.jpg"), ("train/1.jpg", "test/2.jpg", "bus/3.jpg")]
)
def test_train_and_test_folders_with_pictures_are_labels(paths: tuple[str, ...]) -> None:
    inventory = _assign_labels(*paths)
    assert not inventory.is_split
    assert inventory.labels == {path.partition("/")[0] for path in paths}


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("train/1.jpg", "test/2.jpg", "train.csv"), "'test', 'train'"),
        (("Train/1.jpg", "Valid/2.jpg"), "'Train', 'Valid'"),
        (("train/1.jpg", "bus/2.jpg"), ""),
    ],
)
def test_labels_that_are_all_named_like_splits_are_a_problem(
    paths: tuple[str, ...], names: str
) -> None:
    inventory = _assign_labels(*paths)
    problems = find_layout_problems(inventory)
    assert len(problems) == bool(names)
    for problem in problems:
        assert f"must not all be named like splits; got {names}." in problem
    assert find_layout_problems(inventory, has_labels_file=True) == []


@pytest.mark.parametrize("folder", ["val", "valid"])
def test_short_names_of_the_validation_folder_are_accepted(folder: str) -> None:
    inventory = _assign_labels("train/a/1.jpg", f"{folder}/a/2.jpg")
    assert inventory.is_split
    assert [(item.label, item.split) for item in inventory.candidates] == [
        ("a", "train"),
        ("a", "validation"),
    ]


@pytest.mark.parametrize(
    "folders", [("train", "dev"), ("Train", "Test"), ("Training", "Validation")]
)
def test_folders_that_look_like_splits_are_a_problem(folders: tuple[str, str]) -> None:
    (problem,) = find_layout_problems(
        _assign_labels(f"{folders[0]}/a/1.jpg", f"{folders[1]}/a/2.jpg")
    )
    assert f"{', '.join(map(repr, sorted(folders)))} contain only subfolders" in problem
    assert "If these are splits, rename them to train and validation" in problem


def test_pictures_one_level_too_deep_are_a_problem() -> None:
    (problem,) = find_layout_problems(_assign_labels("photos/a/1.jpg", "photos/b/1.jpg", "c/1.jpg"))
    assert "'photos' contains only subfolders, with files such as 'photos/a/1.jpg'" in problem


def test_nested_pictures_next_to_others_are_rejected_without_a_problem() -> None:
    inventory = _assign_labels("a/1.jpg", "a/sub/2.jpg")
    assert _reasons(inventory) == {"a/sub/2.jpg": "nested_folder"}
    assert find_layout_problems(inventory) == []


@pytest.mark.parametrize(
    ("paths", "empty_folders", "expected"),
    [
        (["a/1.jpg", "b/1.jpg"], ["pears"], ("pears",)),
        (["a/1.jpg"], ["pears/day1", "pears/day2"], ("pears",)),
        (["a/1.jpg", "pears/Thumbs.db", "plums/.DS_Store"], [], ("pears", "plums")),
        (["a/1.jpg"], ["a/sub", ".git", "__MACOSX", "pears/.git"], ("pears",)),
        (["a/1.jpg", "pears/sub/1.jpg"], ["pears/none"], ()),
        (
            ["train/a/1.jpg", "validation/a/1.jpg"],
            ["train/pears", "validation/pears/sub", "test/x", "other", "train"],
            ("test/x", "train/pears", "validation/pears"),
        ),
        (["train/a/1.jpg", "val/b/1.jpg"], ["val/a"], ("val/a",)),
        (["validation/a/1.jpg"], ["train/a"], ("train/a",)),
    ],
)
def test_empty_label_folders_are_found(
    paths: list[str], empty_folders: list[str], expected: tuple[str, ...]
) -> None:
    inventory = _assign_labels(*paths, empty_folders=empty_folders)
    assert inventory.empty_label_folders == expected


def test_empty_folders_of_labels_that_are_not_listed_are_ignored() -> None:
    inventory = _assign_labels(
        "a/1.jpg", listed_labels={"a", "b"}, empty_folders=["b", "not listed"]
    )
    assert inventory.empty_label_folders == ("b",)


def test_special_file_is_rejected_with_what_it_is() -> None:
    pipe = FoundFile(
        uri="/a/1.jpg", path="a/1.jpg", size_bytes=0, checksum="", version="", kind="a named pipe"
    )
    inventory = assign_labels(FileTable([pipe]), listed_labels=None)
    assert not inventory.candidates
    assert inventory.rejected == (
        Rejection(path="a/1.jpg", label="a", split="", reason="not_a_file", detail="a named pipe"),
    )
    assert inventory.empty_label_folders == ("a",)


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["a/1.jpg", "a/x/2.jpg", "b/x/y/3.jpg"], ["a", "a", "b"]),
        (["train/a/x/1.jpg", "train/b/2.jpg", "val/a/y/z/3.jpg"], ["a", "b", "a"]),
    ],
)
def test_nested_pictures_belong_to_their_label_folder(paths: list[str], labels: list[str]) -> None:
    inventory = _assign_labels(*paths, nested=True)
    assert [candidate.label for candidate in inventory.candidates] == labels
    assert inventory.rejected == ()
    assert find_layout_problems(inventory, max_rejected_fraction=0.0) == []


def test_nested_does_not_accept_system_and_outside_files() -> None:
    inventory = _assign_labels("a/.git/x/1.jpg", "a/1.jpg", "notes.txt", "b/x/2.jpg", nested=True)
    assert _reasons(inventory) == {"a/.git/x/1.jpg": "system_file", "notes.txt": "outside_labels"}


@pytest.mark.parametrize(("fraction", "is_problem"), [(0.24, True), (0.25, False), (1.0, False)])
def test_files_in_subfolders_beside_pictures_are_a_problem_above_the_limit(
    fraction: float, is_problem: bool
) -> None:
    inventory = _assign_labels("a/1.jpg", "a/2.jpg", "a/x/3.jpg", "b/4.jpg", "b/Thumbs.db")
    problems = find_layout_problems(inventory, max_rejected_fraction=fraction)
    if not is_problem:
        assert problems == []
        return
    (problem,) = problems
    assert "1 of 4 are in subfolders of label folders, such as a/x/3.jpg" in problem
    assert "Use --nested (setting nested)" in problem


def test_advice_for_folders_without_files_names_nested() -> None:
    (problem,) = find_layout_problems(_assign_labels("a/x/1.jpg", "b/x/1.jpg"))
    assert "Use --nested" in problem
