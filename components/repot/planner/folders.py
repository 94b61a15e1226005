"""Which files are pictures of which label: what a file's path alone says.

    PICTURES/<label>/<picture>                                             to be split, or
    PICTURES/train/<label>/<picture>, PICTURES/validation/<label>/<picture>   split already

val/ and valid/ are other names of validation/. Everything else gets a reason why it is no picture, and so has what
lies in a test/ beside the two.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import cast

from repot.errors import join_names
from repot.manifest import Rejection, Split
from repot.planner.listing import FoundFile

LAYOUT_HELP = (
    "Arrange them as PICTURES/<label>/<picture>, or as PICTURES/train/<label>/<picture> and "
    "PICTURES/validation/<label>/<picture>."
)

_VALIDATION_FOLDERS = ("validation", "val", "valid")
_TEST_FOLDER = "test"
_LIKE_SPLITS = frozenset({"train", "training", *_VALIDATION_FOLDERS, "test", "testing", "dev"})
_PICTURE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
)
_SYSTEM_NAMES = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r"}
    | {
        ".ds_store",
        ".directory",
        ".localized",
        ".nomedia",
        ".picasa.ini",
        ".gitignore",
        ".gitkeep",
        ".gitattributes",
    }
)
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledFile:
    """A file in a label's folder.

    Attributes:
        file: The file.
        label: The name of the folder.
        split: The split whose folder holds it; None where pictures are yet to be split.
    """

    file: FoundFile
    label: str
    split: Split | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderContents:
    """Every file found, as a picture of a label or with a reason why not.

    Attributes:
        is_split: Whether the pictures lie in train/ and validation/.
        files: The files in label folders, sorted by path.
        rejected: The other files, sorted by path.
    """

    is_split: bool
    files: tuple[LabelledFile, ...]
    rejected: tuple[Rejection, ...]

    @property
    def labels(self) -> set[str]:
        """Return the names of the folders that hold files themselves."""
        return {labelled.label for labelled in self.files}

    @property
    def hollow(self) -> dict[str, str]:
        """Return a file in each of the folders, by name, that hold nothing but folders."""
        nested = {
            item.label: item.path
            for item in reversed(self.rejected)
            if item.reason == "nested_folder"
        }
        return {label: nested[label] for label in sorted(set(nested) - self.labels)}


def sort_files(
    files: Sequence[FoundFile], *, listed_labels: Collection[str] | None
) -> FolderContents:
    """Return what each file is.

    Args:
        files: Every file found, sorted by path.
        listed_labels: The labels that are wanted; None for all.
    """
    split_folders = _split_folders(files)
    is_split = bool(split_folders)
    labelled, rejected = [], []
    for file in files:
        split, inner_path = _split_off(file.path, split_folders) if is_split else ("", file.path)
        folder = inner_path.rpartition("/")[0]
        label = folder.partition("/")[0]
        if reason := _why_not(file.path, folder, listed_labels):
            rejected.append(Rejection(path=file.path, label=label, split=split, reason=reason))
        else:
            labelled.append(
                LabelledFile(file=file, label=label, split=cast(Split, split) if is_split else None)
            )
    return FolderContents(is_split=is_split, files=tuple(labelled), rejected=tuple(rejected))


def find_misplaced(contents: FolderContents) -> list[str]:
    """Return what is wrong with where the files lie, a sentence each."""
    problems = []
    strays = [
        rejection.path
        for rejection in contents.rejected
        if rejection.reason == "outside_labels"
        and PurePosixPath(rejection.path).suffix.lower() in _PICTURE_ENDINGS
    ]
    if strays:
        problems.append(
            f"Every picture must lie in a label's folder; {len(strays)} lie elsewhere: {join_names(strays, 3)}. "
            f"Move away what takes no part. {LAYOUT_HELP}"
        )
    if contents.hollow:
        first = next(iter(contents.hollow.values()))
        problems.append(
            f"A label's folder must hold its pictures itself; {join_names(contents.hollow)} hold nothing but folders, "
            f"such as {first}. {_how_to_fill(contents.hollow)}"
        )
    return problems


def _how_to_fill(hollow: Collection[str]) -> str:
    """Return what to do about folders that hold nothing but folders."""
    if any(folder.lower() in _LIKE_SPLITS for folder in hollow):
        return "If these are splits, call them train and validation; or give one of them alone, to have it split."
    return "Move the pictures up, or give the folder whose folders are the labels."


def _split_folders(files: Sequence[FoundFile]) -> dict[str, Split]:
    """Return the split by the name of its folder; nothing where pictures are yet to be split."""
    folders = {file.path.partition("/")[0] for file in files if "/" in file.path}
    validation = next((name for name in _VALIDATION_FOLDERS if name in folders), "")
    return {"train": "train", validation: "validation"} if "train" in folders and validation else {}


def _split_off(path: str, split_folders: Mapping[str, Split]) -> tuple[str, str]:
    """Return the split and the path in it; of a path outside the splits' folders no split and its name alone."""
    folder, _, inner_path = path.partition("/")
    if folder in split_folders and inner_path:
        return split_folders[folder], inner_path
    return "", path.rpartition("/")[2]


def _why_not(path: str, folder: str, listed_labels: Collection[str] | None) -> str:
    """Return the reason why a file is no picture, or ""; `folder` is where it lies, relative to the label folders."""
    if _is_of_the_system(path):
        return "system_file"
    if not folder:
        return "test_folder" if path.startswith(f"{_TEST_FOLDER}/") else "outside_labels"
    label, _, inner_folders = folder.partition("/")
    if listed_labels is not None and label not in listed_labels:
        return "label_not_listed"
    return "nested_folder" if inner_folders else ""


def _is_of_the_system(path: str) -> bool:
    *folders, name = path.lower().split("/")
    return (
        name in _SYSTEM_NAMES
        or name.startswith("._")
        or any(folder.startswith(".") or folder in _SYSTEM_FOLDERS for folder in folders)
    )
