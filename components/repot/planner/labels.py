"""The names of the classes, in the order of their ids: from the folders, or from a labels file.

A labels file has one label a line; line n names class n, as in 2016. Class 0, the background, is not in it.
"""

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

from repot import storage
from repot.errors import DataError, NotFoundError, UsageError, join_names
from repot.planner.folders import FolderContents
from repot.planner.listing import PictureRoots


def read_labels(labels_file_uri: str) -> list[str]:
    """Return the lines of a labels file, stripped, in normal form C; blank ones too, but not the end of the file.

    Raises:
        UsageError: There is no such file.
        StorageError: It cannot be read or is not UTF-8.
    """
    try:
        text = storage.read_text(labels_file_uri).removeprefix("\ufeff")
    except NotFoundError as err:
        raise UsageError(
            f"The labels file must exist; there is no {labels_file_uri}. Check the name."
        ) from err
    return [unicodedata.normalize("NFC", line.strip()) for line in text.rstrip("\r\n").split("\n")]


def find_line_problems(
    lines: Sequence[str], folders: Collection[str], labels_file_uri: str
) -> list[str]:
    """Return what is wrong with a labels file, a sentence for each line.

    Args:
        lines: Its lines.
        folders: The label folders that exist.
        labels_file_uri: Its name.
    """
    problems = []
    first_number: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        where = f"line {number} of {labels_file_uri}"
        if not line:
            problems.append(
                f"A line of a labels file must name a label; {where} is blank. Delete it."
            )
        elif line in first_number:
            problems.append(
                f"A label must be listed once; {where} repeats {line!r} of line {first_number[line]}. Delete it."
            )
        elif line not in folders:
            problems.append(
                f"A listed label must have a folder of that name; {where} is {line!r}, and the folders are "
                f"{join_names(sorted(folders))}. Correct the line."
            )
        first_number.setdefault(line, number)
    return problems


def find_name_problems(labels: Collection[str]) -> list[str]:
    """Return what is wrong with folder names as labels: each must fit on one line of labels.txt, unchanged."""
    odd = sorted(label for label in labels if not _fits_a_line(label))
    if not odd:
        return []
    rule = "be UTF-8 text without control characters, and without blanks at its ends"
    return [
        f"A label's name must {rule}; got {join_names(repr(label) for label in odd)}. Rename these folders."
    ]


def _fits_a_line(label: str) -> bool:
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return label == label.strip() and not any(
        unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in label
    )


def find_too_few_labels(labels: Collection[str]) -> list[str]:
    """Return what is wrong if there is nothing to tell apart."""
    if len(labels) >= 2:
        return []
    got = ", ".join(labels) or "none"
    return [
        f"There must be two labels or more; got {got}. Give the folder that holds a folder for each label."
    ]


def find_label_problems(contents: FolderContents, labels: Collection[str]) -> list[str]:
    """Return what is wrong with how many pictures the labels have, a sentence each."""
    if contents.is_split:
        return _find_split_problems(contents, labels)
    num_pictures = Counter(labelled.label for labelled in contents.files)
    if lonely := sorted(label for label in labels if num_pictures[label] < 2):
        rule = "have two pictures or more, one to train on and one to validate"
        return [
            f"A label must {rule}; these have fewer: {join_names(lonely)}. Add pictures, or remove the folders."
        ]
    return []


def find_overlap(roots: PictureRoots, dataset_uri: str) -> list[str]:
    """Return what is wrong if the data set were to lie among the pictures, where the next run would find it."""
    return [
        f"The data set must not lie inside the pictures' folder; got {dataset_uri} in {uri}. Choose another place."
        for uri in roots.folders.values()
        if f"{dataset_uri}/".startswith(f"{uri}/")
    ]


def raise_problems(*, usage: Sequence[str] = (), data: Sequence[str] = ()) -> None:
    """Raise all problems as one error, if there are any.

    Raises:
        UsageError: Some are about options.
        DataError: All are about the pictures.
    """
    if usage:
        raise UsageError([*usage, *data])
    if data:
        raise DataError("\n".join(data))


def _find_split_problems(contents: FolderContents, labels: Collection[str]) -> list[str]:
    problems = []
    trained = {labelled.label for labelled in contents.files if labelled.split == "train"}
    if untrained := sorted(set(labels) - trained):
        problems.append(
            f"Every label must have pictures in the training folder; these have none: {join_names(untrained)}. "
            "Add pictures there, or remove the folders from validation."
        )
    if not any(labelled.split == "validation" for labelled in contents.files):
        problems.append(
            "The validation folder must hold pictures of a label; it holds none. Move some there."
        )
    return problems
