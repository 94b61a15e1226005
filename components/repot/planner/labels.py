"""Label names, from the folders or from a labels file, and whether they make a usable dataset.

A labels file has one label per line, and line n is the label of class n, as in 2016. Class 0, the
background, is not listed. Every `find_*` function returns one error message per problem, so that
the planner can report all of them at once.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import filterfalse

from repot import storage
from repot.errors import UsageError, join_names
from repot.manifest import Rejection
from repot.planner.folders import NESTED_ADVICE
from repot.planner.inputs.inventory import Inventory

MAX_LABEL_LENGTH = 1000
"""Most characters of a label; what is longer is probably another column of a manifest."""
MAX_LABELS_FILE_BYTES = 16 << 20
"""Limit of a labels file: a hundred thousand labels of ordinary length have 2 MiB."""


def read_labels(labels_file_uri: str) -> list[str]:
    """Return the lines of a labels file, stripped, in Unicode normal form C.

    Blank lines are included, except at the end of the file.

    Raises:
        UsageError: The file does not exist, is not a file, or is larger than MAX_LABELS_FILE_BYTES.
        StorageError: The file cannot be read or is not UTF-8.
    """
    # A device such as /dev/zero, or a pipe, has no state: it would be read until memory is full.
    info = storage.stat(labels_file_uri)
    if info is None:
        raise UsageError(
            f"The labels file must exist and be a file; there is no file {labels_file_uri}. "
            "Check the name."
        )
    if info.size_bytes > MAX_LABELS_FILE_BYTES:
        raise UsageError(
            f"A labels file must have at most {MAX_LABELS_FILE_BYTES:,} bytes; {labels_file_uri} "
            f"has {info.size_bytes:,}. Give a file with one label per line."
        )
    text = storage.read_text(labels_file_uri).removeprefix("\ufeff")
    return [unicodedata.normalize("NFC", line.strip()) for line in text.rstrip("\r\n").split("\n")]


def find_labels_file_problems(
    lines: Sequence[str], folders: Collection[str], labels_file_uri: str
) -> list[str]:
    """Check the lines of a labels file: no blank line, no duplicate, a folder for every label.

    Args:
        lines: The lines of the file.
        folders: The labels of the pictures.
        labels_file_uri: Location of the file, for the messages.
    """
    known = join_names(map(repr, sorted(folders))) or "missing"
    if lines and not set(lines) & set(folders):
        first = next(filter(None, lines), "")
        content = f"Its first line is {first[:80]!r}" if first else "It is empty"
        return [
            (
                "A labels file must have one label per line, each the label of pictures; no line "
                f"of {labels_file_uri} is one. {content}, and the labels of the pictures are "
                f"{known}. Correct the file, or leave it out to use these labels, sorted."
            )
        ]
    blank, repeated, unknown = [], [], []
    first_number: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line:
            blank.append(f"line {number}")
        elif line in first_number:
            repeated.append(f"line {number} repeats {line!r} of line {first_number[line]}")
        elif line not in folders:
            unknown.append(f"line {number} is {line[:80]!r}")
        first_number.setdefault(line, number)
    problems = []
    if blank:
        problems.append(
            f"Every line of a labels file must be a label; in {labels_file_uri}, "
            f"{join_names(blank)} {'is' if len(blank) == 1 else 'are'} blank. Delete what is blank."
        )
    if repeated:
        problems.append(
            f"A label must be listed only once; in {labels_file_uri}, {join_names(repeated, 3)}. "
            "Delete the repeated lines."
        )
    if unknown:
        problems.append(
            f"A listed label must have pictures; in {labels_file_uri}, {join_names(unknown, 3)}; "
            f"the labels of the pictures are {known}. Correct the lines."
        )
    return problems


def find_label_name_problems(labels: Collection[str]) -> list[str]:
    """Check that each folder name is a valid label, which must be one line of labels.txt."""
    problems = []
    if long := sorted(label for label in labels if len(label) > MAX_LABEL_LENGTH):
        problems.append(
            f"A label name must have at most {MAX_LABEL_LENGTH} characters; got "
            f"{join_names((f'{label[:40]!r}... with {len(label):,}' for label in long), 3)}. "
            "Rename these labels."
        )
    if invalid := sorted(set(filterfalse(_fits_on_line, labels)).difference(long)):
        problems.append(
            "A label name must be UTF-8 text without control characters and without leading or "
            f"trailing spaces; got {join_names(repr(label) for label in invalid)}. "
            "Rename these labels."
        )
    return problems


def find_label_count_problems(
    labels: Collection[str],
    empty_label_folders: Collection[str],
    rejected: Iterable[Rejection] = (),
) -> list[str]:
    """Check that there are at least two labels, those of empty folders not counted.

    Args:
        labels: The labels.
        empty_label_folders: Paths of label folders without a file that could be a picture.
        rejected: The files that have no label, or another one.
    """
    if len(labels) >= 2:
        return []
    got = ", ".join(map(repr, labels)) or "none"
    empty = (
        f" No pictures are in {join_names(map(repr, empty_label_folders))}."
        if empty_label_folders
        else ""
    )
    others = [item.path for item in rejected if item.reason == "outside_labels"]
    outside = f" In no label folder: {join_names(map(repr, others), 3)}." if others else ""
    return [
        (
            f"There must be at least two labels; got {got}.{empty}{outside} "
            "Give pictures of at least two labels, such as the folder that contains one folder per "
            "label."
        )
    ]


def find_picture_count_problems(inventory: Inventory, labels: Collection[str]) -> list[str]:
    """Check that every label has enough pictures to train and to validate."""
    if inventory.is_split:
        return _find_split_problems(inventory, labels)
    num_pictures = Counter(inventory.candidates.labels)
    if too_few := sorted(label for label in labels if num_pictures[label] < 2):
        return [
            (
                "A label must have at least two pictures, one for training and one for validation; "
                f"these have fewer: {join_names(map(repr, too_few))}. Add pictures, or remove the "
                "labels."
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
    if nested := inventory.nested_paths:
        warnings.append(
            "Files in subfolders of label folders are left out, "
            f"{len(nested)} in total, such as {nested[0]!r}. {NESTED_ADVICE}"
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
    files = inventory.candidates.files
    if not inventory.has_folders or files.has_one_stem:
        return stored
    folders = {
        (path.rpartition("/")[0], uri.rpartition("/")[0])
        for number, (path, uri) in enumerate(zip(files.paths, files.uris, strict=True))
        if number not in files.parts
    }
    split_parts = 1 if inventory.is_split else 0
    for path, uri in folders:
        parts = path.split("/")
        depth = len(parts) - split_parts
        stored["/".join(parts[: split_parts + 1])].add(uri.split("/")[-depth])
    return stored


def _find_split_problems(inventory: Inventory, labels: Collection[str]) -> list[str]:
    problems = []
    pictures = inventory.candidates
    stated = set(zip(pictures.labels, pictures.splits, strict=True))
    trained = {label for label, split in stated if split == "train"}
    if untrained := sorted(set(labels) - trained):
        problems.append(
            "Every label must have pictures for training; these have none: "
            f"{join_names(map(repr, untrained))}. Add some, or remove the labels from the other "
            "splits."
        )
    splits = {split for _, split in stated}
    left_out = {rejection.split for rejection in inventory.rejected}
    # Without a validation folder, but with one for test, validation is taken from training.
    has_validation_folder = "validation" in left_out or "test" not in splits | left_out
    if "validation" not in splits and has_validation_folder:
        problems.append(
            "There must be pictures of a label for validation; there are none. "
            "Move some there from training."
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
