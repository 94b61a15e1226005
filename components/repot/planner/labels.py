"""Label names, from the folders or from a labels file, and whether they make a usable dataset.

A labels file has one label per line, and line n is the label of class n, as in 2016. Class 0, the
background, is not listed. Every `find_*` function returns one error message per problem, so that
the planner can report all of them at once.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from repot import storage
from repot.errors import NotFoundError, UsageError, join_names
from repot.planner.folders import Inventory


def read_labels(labels_file_uri: str) -> list[str]:
    """Return the lines of a labels file, stripped, in Unicode normal form C.

    Blank lines are included, except at the end of the file.

    Raises:
        UsageError: The file does not exist.
        StorageError: The file cannot be read or is not UTF-8.
    """
    try:
        text = storage.read_text(labels_file_uri).removeprefix("\ufeff")
    except NotFoundError as err:
        raise UsageError(
            f"The labels file must exist; there is no {labels_file_uri}. Check the name."
        ) from err
    return [unicodedata.normalize("NFC", line.strip()) for line in text.rstrip("\r\n").split("\n")]


def find_labels_file_problems(
    lines: Sequence[str], folders: Collection[str], labels_file_uri: str
) -> list[str]:
    """Check the lines of a labels file: no blank line, no duplicate, a folder for every label.

    Args:
        lines: The lines of the file.
        folders: Names of the existing label folders.
        labels_file_uri: Location of the file, for the messages.
    """
    problems = []
    first_number: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        where = f"line {number} of {labels_file_uri}"
        if not line:
            problems.append(
                f"Every line of a labels file must be a label; {where} is blank. Delete it."
            )
        elif line in first_number:
            problems.append(
                f"A label must be listed only once; {where} repeats {line!r} of line "
                f"{first_number[line]}. Delete it."
            )
        elif line not in folders:
            problems.append(
                f"A listed label must have a folder with its name; {where} is {line!r}, and the "
                f"folders are {join_names(sorted(folders))}. Correct the line."
            )
        first_number.setdefault(line, number)
    return problems


def find_label_name_problems(labels: Collection[str]) -> list[str]:
    """Check that each folder name is a valid label, which must be one line of labels.txt."""
    invalid = sorted(label for label in labels if not _fits_on_line(label))
    if not invalid:
        return []
    return [
        (
            "A label name must be UTF-8 text without control characters and without leading or "
            f"trailing spaces; got {join_names(repr(label) for label in invalid)}. "
            "Rename these folders."
        )
    ]


def find_label_count_problems(
    labels: Collection[str], empty_label_folders: Collection[str]
) -> list[str]:
    """Check that there are at least two labels, those of empty folders not counted."""
    if len(labels) >= 2:
        return []
    got = ", ".join(labels) or "none"
    empty = (
        f" No pictures are in {join_names(map(repr, empty_label_folders))}."
        if empty_label_folders
        else ""
    )
    return [
        (
            f"There must be at least two labels; got {got}.{empty} "
            "Pass the folder that contains one folder per label."
        )
    ]


def find_picture_count_problems(inventory: Inventory, labels: Collection[str]) -> list[str]:
    """Check that every label has enough pictures to train and to validate."""
    if inventory.is_split:
        return _find_split_problems(inventory, labels)
    num_pictures = Counter(candidate.label for candidate in inventory.candidates)
    if too_few := sorted(label for label in labels if num_pictures[label] < 2):
        return [
            (
                "A label must have at least two pictures, one for training and one for validation; "
                f"these have fewer: {join_names(too_few)}. Add pictures, or remove the folders."
            )
        ]
    return []


def find_suspicious_labels(inventory: Inventory) -> list[str]:
    """Return one warning per oddity of the label folders that is probably a mistake."""
    warnings = []
    if folders := inventory.empty_label_folders:
        warnings.append(
            f"These label folders contain no pictures and are left out: "
            f"{join_names(map(repr, folders))}. "
            "Copy their pictures again, or remove the folders."
        )
    by_form: dict[str, list[str]] = defaultdict(list)
    for label in sorted(inventory.labels):
        by_form[unicodedata.normalize("NFKC", label).casefold()].append(label)
    warnings += [
        f"The labels {join_names(map(repr, labels))} differ only by case or Unicode form and are "
        "separate labels. Move the pictures into one folder if they mean the same."
        for labels in by_form.values()
        if len(labels) > 1
    ]
    warnings += [
        f"Several folders are named {label!r} in different Unicode forms and are one label. "
        "Move the pictures into one folder, or rename one."
        for label, names in sorted(_find_stored_names(inventory).items())
        if len(names) > 1
    ]
    return warnings


def _find_stored_names(inventory: Inventory) -> dict[str, set[str]]:
    """Return the names of each label's folders as stored, by the folder's normalised path."""
    stored: dict[str, set[str]] = defaultdict(set)
    for candidate in inventory.candidates:
        split_parts = 1 if inventory.is_split else 0
        parts = candidate.file.path.split("/")
        folder = "/".join(parts[: split_parts + 1])
        depth = len(parts) - split_parts
        stored[folder].add(candidate.file.uri.split("/")[-depth])
    return stored


def _find_split_problems(inventory: Inventory, labels: Collection[str]) -> list[str]:
    problems = []
    trained = {candidate.label for candidate in inventory.candidates if candidate.split == "train"}
    if untrained := sorted(set(labels) - trained):
        problems.append(
            "Every label must have pictures in the training folder; these have none: "
            f"{join_names(untrained)}. Add pictures there, or remove the folders from validation."
        )
    if not any(candidate.split == "validation" for candidate in inventory.candidates):
        problems.append(
            "The validation folder must contain pictures of a label; it contains none. "
            "Move some there."
        )
    return problems


def _fits_on_line(label: str) -> bool:
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return label == label.strip() and not any(
        unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in label
    )
