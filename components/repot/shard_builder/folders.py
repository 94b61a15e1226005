"""Which files are pictures of which label: what a file's path alone says.

    PICTURES/<label>/<picture>                                             to be split, or
    PICTURES/train/<label>/<picture>, PICTURES/validation/<label>/<picture>   split already

Everything else gets a reason why it is no picture.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import cast

from repot.manifest import SPLITS, Rejection, Split
from repot.shard_builder.listing import FoundFile
from repot.shard_builder.wording import some

LAYOUT_HELP = (
    "Arrange them as PICTURES/<label>/<picture>, or as PICTURES/train/<label>/<picture> and "
    "PICTURES/validation/<label>/<picture>."
)

_PICTURE_ENDINGS = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"})
_SYSTEM_NAMES = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r"}
    | {".ds_store", ".directory", ".localized", ".nomedia", ".picasa.ini", ".gitignore", ".gitkeep", ".gitattributes"}
)
_SYSTEM_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})


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


def sort_files(files: Sequence[FoundFile], *, listed_labels: Collection[str] | None) -> FolderContents:
    """Return what each file is.

    Args:
        files: Every file found, sorted by path.
        listed_labels: The labels that are wanted; None for all.
    """
    is_split = {file.path.partition("/")[0] for file in files if "/" in file.path} >= set(SPLITS)
    labelled, rejected = [], []
    for file in files:
        split, inner_path = _split_off(file.path) if is_split else ("", file.path)
        folder = inner_path.rpartition("/")[0]
        label = folder.partition("/")[0]
        if reason := _why_not(file.path, folder, listed_labels):
            rejected.append(Rejection(path=file.path, label=label, split=split, reason=reason))
        else:
            labelled.append(LabelledFile(file=file, label=label, split=cast(Split, split) if is_split else None))
    return FolderContents(is_split=is_split, files=tuple(labelled), rejected=tuple(rejected))


def find_misplaced(contents: FolderContents) -> list[str]:
    """Return what is wrong with where the files lie, a sentence each."""
    problems = []
    strays = [
        rejection.path
        for rejection in contents.rejected
        if rejection.reason == "outside_labels" and PurePosixPath(rejection.path).suffix.lower() in _PICTURE_ENDINGS
    ]
    if strays:
        problems.append(
            f"Every picture must lie in a label's folder; {len(strays)} lie elsewhere: {some(strays, 3)}. "
            f"Move away what takes no part. {LAYOUT_HELP}"
        )
    nested = {item.label: item.path for item in reversed(contents.rejected) if item.reason == "nested_folder"}
    hollow = sorted(set(nested) - contents.labels)
    if hollow:
        problems.append(
            f"A label's folder must hold its pictures itself; {some(hollow)} hold nothing but folders, such as "
            f"{nested[hollow[0]]}. Move the pictures up, or give the folder whose folders are the labels."
        )
    return problems


def _split_off(path: str) -> tuple[str, str]:
    """Return the split and the path in it; of a path outside train/ and validation/ no split and its name alone."""
    split, _, inner_path = path.partition("/")
    return (split, inner_path) if split in SPLITS and inner_path else ("", path.rpartition("/")[2])


def _why_not(path: str, folder: str, listed_labels: Collection[str] | None) -> str:
    """Return the reason why a file is no picture, or ""; `folder` is where it lies, relative to the label folders."""
    if _is_of_the_system(path):
        return "system_file"
    if not folder:
        return "outside_labels"
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
