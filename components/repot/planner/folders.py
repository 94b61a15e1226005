"""Assign a label to every file, or a reason to reject it, from its path alone.

    PICTURES/<label>/<picture>              not split yet, or
    PICTURES/train/<label>/<picture>        already split
    PICTURES/validation/<label>/<picture>
    PICTURES/test/<label>/<picture>         one of these two may be left out

If subfolders of label folders are allowed, <label>/<folder>/.../<picture> belongs to <label> too.
val/ and valid/ are accepted as names of validation/. All other files are rejected. Test pictures
often come without labels: those directly in test/ have a reason of their own, which is no problem.
"""

import functools
import itertools
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import cast

from repot.errors import join_names
from repot.manifest import Rejection, Split
from repot.picture_result import EXEMPT_REASONS
from repot.planner.file_table import FileTable, TextColumn
from repot.planner.inputs.inventory import Inventory, PictureTable
from repot.planner.inputs.problems import SPLIT_NAMES

_LAYOUT_ADVICE = (
    "Arrange them as PICTURES/<label>/<picture>, or as PICTURES/train/<label>/<picture> and "
    "PICTURES/validation/<label>/<picture>."
)

NESTED_ADVICE = (
    "Use --nested (setting nested) if every picture below a label folder belongs to "
    "that label, or move the pictures up."
)

_UNUSED_REASONS = ("system_file", "not_a_file")
_VALIDATION_FOLDERS = ("validation", "val", "valid")
_TEST_FOLDER = "test"
_SPLIT_LIKE_NAMES = frozenset(name for name, split in SPLIT_NAMES.items() if split)
PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
    | {".avif", ".heic", ".heif"}
)
_SYSTEM_NAMES = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r"}
    | {".ds_store", ".directory", ".localized", ".nomedia", ".picasa.ini"}
    | {".gitignore", ".gitkeep", ".gitattributes"}
)
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
)


def assign_labels(
    files: FileTable,
    *,
    listed_labels: Collection[str] | None,
    empty_folders: Sequence[str] = (),
    nested: bool = False,
    split_folders: Mapping[str, Split] | None = None,
) -> Inventory:
    """Return the label or the reason for rejection of each file.

    Args:
        files: Every file found, sorted by path.
        listed_labels: The labels to use; None uses all label folders.
        empty_folders: Paths of the folders that directly contain nothing.
        nested: Whether files in subfolders of a label folder belong to the label.
        split_folders: The split of each folder at the top that is one; None finds them by name.
    """
    # With a slash at the end, an empty folder is the folder of a file without a name.
    empty_paths = [f"{path}/" for path in empty_folders]
    if split_folders is None:
        split_folders = find_split_folders(files.paths, empty_paths)
    is_split = bool(split_folders)
    pictures, rejected = PictureTable(), []
    numbers = array("Q")
    for number, path in enumerate(files.paths):
        split, inner_path = _separate_split(path, split_folders) if is_split else ("", path)
        folder = inner_path.rpartition("/")[0]
        label = folder.partition("/")[0]
        kind = files.kinds.get(number, "")
        reason = _rejection_reason(path, folder, listed_labels, nested=nested)
        if reason or kind:
            rejected.append(
                Rejection(
                    path=path,
                    label=label,
                    split=split,
                    reason="not_a_file" if kind else reason,
                    detail=kind,
                )
            )
        else:
            numbers.append(number)
            pictures.labels.append(label)
            pictures.splits.append(cast(Split, split) if is_split else "")
    pictures.files = files.take(numbers) if rejected else files
    return Inventory(
        is_split=is_split,
        candidates=pictures,
        rejected=tuple(rejected),
        empty_label_folders=tuple(
            folder
            for folder in _find_empty_label_folders(
                pictures.files.paths, rejected, empty_paths, split_folders
            )
            if listed_labels is None or folder.rpartition("/")[2] in listed_labels
        ),
    )


def find_layout_problems(
    inventory: Inventory, *, max_rejected_fraction: float = 1.0, has_labels_file: bool = False
) -> list[str]:
    """Return one error message per problem with the folder layout.

    Args:
        inventory: Every file found.
        max_rejected_fraction: Largest fraction of files that may be rejected, in [0, 1].
        has_labels_file: Whether a labels file states that the labels are meant.
    """
    problems = []
    labels = sorted(inventory.labels) if inventory.has_folders and not has_labels_file else []
    if labels and all(label.lower() in _SPLIT_LIKE_NAMES for label in labels):
        problems.append(
            f"Label folders must not all be named like splits; got {join_names(map(repr, labels))}."
            " If they are splits, they must contain label folders, or a file states the labels: "
            "give that file, a manifest, instead of the folder. If they are labels, list them in a "
            "labels file (--labels-file, setting labels_file_uri)."
        )
    outside = [
        rejection.path
        for rejection in inventory.rejected
        if rejection.reason == "outside_labels" and has_picture_name(rejection.path)
    ]
    if outside:
        problems.append(
            f"Every picture must be in a label folder; {len(outside)} "
            f"{'is' if len(outside) == 1 else 'are'} not: "
            f"{join_names(map(repr, outside), 3)}. Remove the files that are not for training. "
            f"{_LAYOUT_ADVICE}{_empty_name_advice(outside)}"
        )
    folders = inventory.folders_without_files
    if folders:
        problems.append(
            "A label folder must directly contain pictures; "
            f"{join_names(map(repr, folders))} {'contains' if len(folders) == 1 else 'contain'} "
            "only subfolders, with files such as "
            f"{next(iter(folders.values()))!r}. "
            f"{_nested_folders_advice(folders)}"
        )
    nested = inventory.nested_paths
    num_counted = len(inventory.candidates) + sum(
        item.reason not in EXEMPT_REASONS for item in inventory.rejected
    )
    if not folders and len(nested) > max_rejected_fraction * num_counted:
        problems.append(
            f"At most {max_rejected_fraction:.1%} of the files may be rejected; {len(nested)} of "
            f"{num_counted} are in subfolders of label folders, such as {nested[0]}. "
            f"{NESTED_ADVICE}"
        )
    return problems


def _empty_name_advice(paths: Iterable[str]) -> str:
    """Return, after a space, what to do about folders with an empty name; "" if there are none."""
    if not any(f"/{path}".count("//") for path in paths):
        return ""
    return (
        " Two slashes in a row enclose a folder with an empty name, which is no label: to use the "
        "label folders in it, give its location with both slashes, such as gs://BUCKET//."
    )


def _nested_folders_advice(folders: Collection[str]) -> str:
    """Return what to do about label folders that contain only subfolders."""
    if any(folder.lower() in _SPLIT_LIKE_NAMES for folder in folders):
        return (
            "If these are splits, rename them to train and validation, "
            "or pass only one of them to have it split."
        )
    return f"{NESTED_ADVICE} Or pass the folder whose subfolders are the labels."


def find_split_folders(*collections: Collection[str] | TextColumn) -> dict[str, Split]:
    """Return the split of each split folder, by name; empty if the pictures are not split yet.

    Args:
        collections: Paths of files.
    """
    folders = {path.partition("/")[0] for paths in collections for path in paths if "/" in path}
    validation = next((name for name in _VALIDATION_FOLDERS if name in folders), "")
    found: dict[str, Split] = {"train": "train"} if "train" in folders else {}
    if found and validation:
        found[validation] = "validation"
    if (
        found
        and _TEST_FOLDER in folders
        and (validation or not _are_labels(itertools.chain(*collections)))
    ):
        found[_TEST_FOLDER] = "test"
    return found if len(found) > 1 else {}


def _are_labels(paths: Iterable[str]) -> bool:
    """Return whether train/ and test/ are labels: train/ has pictures, or another folder exists."""
    for path in paths:
        folder, _, rest = path.partition("/")
        if not rest or is_system_file(path):
            continue
        if folder not in ("train", _TEST_FOLDER):
            return True
        if folder == "train" and "/" not in rest and has_picture_name(rest):
            return True
    return False


def _find_empty_label_folders(
    paths: Iterable[str],
    rejected: Iterable[Rejection],
    empty_paths: Iterable[str],
    split_folders: Mapping[str, Split],
) -> list[str]:
    """Return the paths of label folders without any file that could be a picture, sorted."""
    unused, used = list[str](empty_paths), list[str]()
    for item in rejected:
        (unused if item.reason in _UNUSED_REASONS else used).append(item.path)
    if not unused:
        return []
    empty = {_label_folder(path, split_folders) for path in unused}
    empty -= {_label_folder(path, split_folders) for path in itertools.chain(paths, used)}
    return sorted(folder for folder in empty if folder and not is_system_file(f"{folder}/"))


def _separate_split(path: str, split_folders: Mapping[str, Split]) -> tuple[str, str]:
    """Return a path's split and the rest of the path; "" and the file name if it has no split."""
    folder, _, inner_path = path.partition("/")
    if folder in split_folders and inner_path:
        return split_folders[folder], inner_path
    return "", path.rpartition("/")[2]


def _label_folder(path: str, split_folders: Mapping[str, Split]) -> str:
    """Return the path of the label folder that contains a file, or ""."""
    *folders, _ = path.split("/")
    if not split_folders:
        return folders[0] if folders else ""
    return "/".join(folders[:2]) if folders[1:] and folders[0] in split_folders else ""


def _rejection_reason(
    path: str, folder: str, listed_labels: Collection[str] | None, *, nested: bool
) -> str:
    """Return why a file is rejected, or ""; `folder` is relative to PICTURES or its split."""
    if is_system_file(path):
        return "system_file"
    label, _, inner_folders = folder.partition("/")
    if not label:  # No folder, or on an object store a folder with an empty name.
        return "test_folder" if path.startswith(f"{_TEST_FOLDER}/") else "outside_labels"
    if listed_labels is not None and label not in listed_labels:
        return "label_not_listed"
    return "nested_folder" if inner_folders and not nested else ""


def has_picture_name(path: str) -> bool:
    """Return whether the extension of a file is that of a picture."""
    # Without a path object, which would take seconds for a million files.
    return path[path.rfind(".") :].lower() in PICTURE_SUFFIXES


def is_system_file(path: str) -> bool:
    """Return whether a file belongs to an operating system or a tool, by its name or folder."""
    folder, _, name = path.lower().rpartition("/")
    return name in _SYSTEM_NAMES or name.startswith("._") or _is_in_system_folder(folder)


@functools.lru_cache(maxsize=1024)  # thousands of files follow each other in one folder
def _is_in_system_folder(path: str) -> bool:
    return any(folder.startswith(".") or folder in _SYSTEM_FOLDERS for folder in path.split("/"))
