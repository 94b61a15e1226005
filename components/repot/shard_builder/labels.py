"""The names of the classes, in the order of their ids: from the folders, or from a labels file.

A labels file has one label a line; line n names class n, as in 2016. Class 0, the background, is not in it.
"""

import unicodedata
from collections.abc import Collection, Sequence

from repot import storage
from repot.errors import NotFoundError, UsageError
from repot.wording import some


def read_labels(labels_file_uri: str) -> list[str]:
    """Return the lines of a labels file, stripped, in normal form C; blank ones too, but not the end of the file.

    Raises:
        UsageError: There is no such file.
        StorageError: It cannot be read or is not UTF-8.
    """
    try:
        text = storage.read_text(labels_file_uri).removeprefix("\ufeff")
    except NotFoundError as err:
        raise UsageError(f"The labels file must exist; there is no {labels_file_uri}. Check the name.") from err
    return [unicodedata.normalize("NFC", line.strip()) for line in text.rstrip("\r\n").split("\n")]


def find_line_problems(lines: Sequence[str], folders: Collection[str], labels_file_uri: str) -> list[str]:
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
            problems.append(f"A line of a labels file must name a label; {where} is blank. Delete it.")
        elif line in first_number:
            problems.append(
                f"A label must be listed once; {where} repeats {line!r} of line {first_number[line]}. Delete it."
            )
        elif line not in folders:
            problems.append(
                f"A listed label must have a folder of that name; {where} is {line!r}, and the folders are "
                f"{some(sorted(folders))}. Correct the line."
            )
        first_number.setdefault(line, number)
    return problems


def find_name_problems(labels: Collection[str]) -> list[str]:
    """Return what is wrong with folder names as labels: each must fit on one line of labels.txt, unchanged."""
    odd = sorted(label for label in labels if not _fits_a_line(label))
    if not odd:
        return []
    rule = "be UTF-8 text without control characters, and without blanks at its ends"
    return [f"A label's name must {rule}; got {some(repr(label) for label in odd)}. Rename these folders."]


def _fits_a_line(label: str) -> bool:
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return label == label.strip() and not any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in label)
