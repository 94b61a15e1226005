"""What is wrong with the rows of a manifest: every row is checked, the first twenty are named."""

import unicodedata
from typing import Literal

from repot.errors import UsageError
from repot.manifest import Split

MAX_NAMED = 20

SPLIT_NAMES: dict[str, Split | Literal[""]] = {
    "": "",
    "unassigned": "",
    "train": "train",
    "training": "train",
    "validation": "validation",
    "validate": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""The split that each name stands for, in manifests and in names of files; "" for none."""


class WrongRows:
    """Collects what is wrong, by row.

    Args:
        uri: The file with the rows.
        row: What a row is called, such as "row".
        must: What every row must do.
    """

    def __init__(
        self, uri: str, row: str = "row", *, must: str = "name a picture and its label"
    ) -> None:
        self._uri, self._row, self._must = uri, row, must
        self._problems: list[tuple[str, int, str]] = []

    def add(self, where: str, problem: str, *, number: int = 0) -> None:
        """Add a problem of one row.

        Args:
            where: Name of the row, such as "line 5".
            problem: What is wrong.
            number: Orders the rows.
        """
        self._problems.append((where, number, problem))

    def check_label(self, where: str, text: str, *, number: int = 0) -> str:
        """Return a label in its normal form; "" after adding why it is not valid."""
        label = unicodedata.normalize("NFC", text.strip())
        if not label:
            self.add(where, "the label is empty", number=number)
        return label

    def check_split(self, where: str, text: str, *, number: int = 0) -> Split | Literal[""] | None:
        """Return the split that a name stands for, "" for none; None if it is not a known name."""
        split = SPLIT_NAMES.get(text.strip().lower())
        if split is None:
            self.add(
                where,
                f"the split must be train, validation, test or empty; got {text.strip()!r}",
                number=number,
            )
        return split

    def raise_if_any(self) -> None:
        """Raise an error that names the first rows, if any row is wrong.

        Raises:
            UsageError: A row is wrong.
        """
        if not self._problems:
            return
        self._problems.sort(key=lambda problem: problem[1])
        num_rows = len({where for where, _, _ in self._problems})
        are = f"{num_rows} {self._row}{' is' if num_rows == 1 else 's are'}"
        lines = [f"  {where}: {text}" for where, _, text in self._problems[:MAX_NAMED]]
        if (more := len(self._problems) - MAX_NAMED) > 0:
            lines.append(f"  and {more} more")
        text = "\n".join(
            [
                f"Every {self._row} of {self._uri} must {self._must}; {are} wrong:",
                *lines,
                "Correct the file, or the pictures that it names.",
            ]
        )
        raise UsageError(text)
