"""Corrected labels: the edited suspects.csv of an earlier run, or any CSV file like it.

A row has the column `new_label`, and `content` or `path` (or both) to name a picture. A picture is
found by its content, whatever its name and folder are now; only if no picture has that content, by
its path relative to PICTURES. All copies of a picture with the given label are corrected alike.

`new_label` is empty to keep the label, a label, or `-` or `remove` to leave the picture out, unless
that is a label. With a column `given_label`, a picture that has another label by now is an error,
unless it has the new one: so a file stays usable after its pictures were moved to the right
folders.
"""

import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repot import progress, storage
from repot.csv_text import csv_text
from repot.errors import UsageError, join_names, nearest_names
from repot.label_suspects import SUSPECTS_COLUMNS
from repot.manifest import Rejection
from repot.planner.inputs.inventory import Inventory, PictureTable
from repot.planner.inputs.problems import MAX_NAMED, WrongRows
from repot.planner.inputs.tables import guess_delimiter, read_csv_rows, read_file_text
from repot.work_list import content_key

REMOVED_REASON = "removed"
# A spreadsheet shows the first one as it is, but not the second one.
_REMOVE_NAMES = ("remove", "-")
_COLUMNS = ("path", "content", "given_label", "new_label")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Correction:
    """One row whose label is to be changed.

    Attributes:
        number: Its line number.
        path, content: What names the picture; one may be "".
        given: The label that the picture had; "" if the row does not state it.
        new: The label that it gets; "" to leave it out.
    """

    number: int
    path: str
    content: str
    given: str
    new: str

    @property
    def where(self) -> str:
        return f"line {self.number}"


def apply_corrections(
    inventory: Inventory, corrections_uri: str, labels: Sequence[str]
) -> tuple[Inventory, str]:
    """Return the inventory with corrected labels, and without the pictures that are removed.

    The second result is the text of a CSV file with the rows that have a new label, in the columns
    of suspects.csv: the next suspects.csv begins with them, so that it can replace the file.

    Args:
        inventory: The pictures, with checksums.
        corrections_uri: The CSV file.
        labels: All labels; a new label must be one of them.

    Raises:
        UsageError: The file is missing, or rows are wrong; the first ones are named.
        StorageError: The file cannot be read.
    """
    wrong = WrongRows(corrections_uri, must="name a picture and its new label")
    corrections, num_kept = _read(corrections_uri, labels, wrong)
    pictures = _Pictures(inventory.candidates, corrections)
    chosen: dict[int, _Correction] = {}
    unmatched = []
    for correction in corrections:
        found = pictures.find(correction)
        if not found:
            name = correction.path or correction.content
            unmatched.append(f"{correction.where} ({name!r})")
            continue
        for i in _corrected(correction, found, inventory, wrong):
            first = chosen.setdefault(i, correction)
            if first.new != correction.new:
                does = f"gives the same picture the label {first.new!r}"
                problem = f"{first.where} {does if first.new else 'removes the same picture'}"
                wrong.add(correction.where, problem, number=correction.number)
    wrong.raise_if_any()
    _announce(inventory, chosen, corrections_uri, num_kept=num_kept, unmatched=unmatched)
    return _apply(inventory, chosen), _rows_text(corrections, labels)


def _read(uri: str, labels: Sequence[str], wrong: WrongRows) -> tuple[list[_Correction], int]:
    """Return the rows that change a label, and the number of those that keep it."""
    info = storage.stat(uri)
    if info is None:
        raise UsageError(
            f"The corrections file must exist and be a file; there is no file {uri}. Check the "
            "name."
        )
    text = read_file_text(info)
    first_line = text.partition("\n")[0]
    rows = read_csv_rows(text, guess_delimiter(first_line, _COLUMNS), wrong)
    header = [cell.strip().lower() for cell in next(rows, (0, []))[1]]
    if "new_label" not in header or not {"path", "content"} & set(header):
        raise UsageError(
            "A corrections file must be a CSV file whose first line has the columns new_label and "
            f"path or content, as suspects.csv has them; {uri} has {join_names(header) or 'none'}. "
            "Edit the suspects.csv of a run, and keep its first line."
        )
    known = set(labels)
    advice: dict[str, str] = {}
    corrections: list[_Correction] = []
    num_kept = 0
    for number, cells in rows:
        row = dict(zip(header, (_normal(cell) for cell in cells), strict=False))
        correction = _Correction(
            number=number,
            **{name: row.get(name, "") for name in ("path", "content")},
            given=row.get("given_label", ""),
            new=row.get("new_label", ""),
        )
        if not correction.new:
            num_kept += 1
        elif not (correction.path or correction.content):
            wrong.add(correction.where, "it names no picture", number=number)
        elif correction.new in known:
            corrections.append(correction)
        elif correction.new.lower() in _REMOVE_NAMES:
            corrections.append(dataclasses.replace(correction, new=""))
        else:
            new = correction.new
            if new not in advice:  # Many rows may have the same one, and the search takes long.
                near = nearest_names(new, labels)
                advice[new] = (
                    f"; did you mean {near[0]!r}?" if near else f", which are {join_names(labels)}"
                )
            problem = f"new_label {new!r} is not one of the labels{advice[new]}"
            wrong.add(correction.where, problem, number=number)
    return corrections, num_kept


def _normal(cell: str) -> str:
    """Return a cell as it was before `repot.csv_text` wrote it, in Unicode normal form C."""
    return unicodedata.normalize("NFC", cell.strip().removeprefix("'"))


class _Pictures:
    """Finds pictures that rows name, by content and by path."""

    def __init__(self, pictures: PictureTable, corrections: Sequence[_Correction]) -> None:
        self._by_content: dict[str, list[int]] = {each.content: [] for each in corrections}
        self._by_path: dict[str, list[int]] = {each.path: [] for each in corrections}
        files = pictures.files
        for number, (path, size) in enumerate(zip(files.paths, files.sizes, strict=True)):
            content = content_key(files.checksum(number), size, pictures.crops.get(number))
            if content in self._by_content:
                self._by_content[content].append(number)
            if path in self._by_path:
                self._by_path[path].append(number)

    def find(self, correction: _Correction) -> list[int]:
        """Return the numbers of the pictures that a row names."""
        return self._by_content[correction.content] or self._by_path[correction.path]


def _corrected(
    correction: _Correction, found: Sequence[int], inventory: Inventory, wrong: WrongRows
) -> list[int]:
    """Return which of the pictures that a row names get its label."""
    given = correction.given
    if not given:
        return list(found)
    # One that has the new label already is included, so that two rows cannot disagree about it.
    labels = inventory.candidates.labels
    fitting = [i for i in found if labels[i] in (given, correction.new)]
    if not fitting:
        file = inventory.candidates[found[0]]
        wrong.add(
            correction.where,
            f"{file.file.path!r} has the label {file.label!r} now, not {given!r}; delete the row, "
            "or correct its given_label",
            number=correction.number,
        )
    return fitting


def _apply(inventory: Inventory, chosen: Mapping[int, _Correction]) -> Inventory:
    pictures = inventory.candidates
    removed = sorted(number for number, each in chosen.items() if not each.new)
    rejected = [
        Rejection(
            path=picture.file.path,
            label=picture.label,
            split=picture.split,
            reason=REMOVED_REASON,
        )
        for picture in map(pictures.__getitem__, removed)
    ]
    for number, correction in chosen.items():
        if correction.new:
            pictures.labels.codes[number] = pictures.labels.code(correction.new)
    is_removed = set(removed)
    kept = [number for number in range(len(pictures)) if number not in is_removed]
    return dataclasses.replace(
        inventory,
        candidates=pictures.take(kept) if removed else pictures,
        rejected=tuple(sorted([*inventory.rejected, *rejected], key=lambda each: each.path)),
    )


def _rows_text(corrections: Sequence[_Correction], labels: Sequence[str]) -> str:
    removal = next((name for name in _REMOVE_NAMES if name not in labels), _REMOVE_NAMES[0])
    rows: list[Sequence[str]] = [SUSPECTS_COLUMNS]
    for each in corrections:
        cells = {
            "path": each.path,
            "given_label": each.given,
            "new_label": each.new or removal,
            "content": each.content,
        }
        rows.append([cells.get(name, "") for name in SUSPECTS_COLUMNS])
    return csv_text(rows)


def _announce(
    inventory: Inventory,
    chosen: Mapping[int, _Correction],
    uri: str,
    *,
    num_kept: int,
    unmatched: Sequence[str],
) -> None:
    new = {i: correction.new for i, correction in chosen.items()}
    num_removed = sum(not label for label in new.values())
    num_same = sum(label == inventory.candidates.labels[i] for i, label in new.items())
    num_changed = len(new) - num_removed - num_same
    progress.notice(
        "plan",
        f"corrections: pictures with another label: {num_changed}, removed: {num_removed}, with "
        f"their new label already: {num_same}; rows that keep the label: {num_kept}",
    )
    if unmatched:
        count = len(unmatched)
        progress.notice(
            "plan",
            f"{count} {'row' if count == 1 else 'rows'} of {uri} "
            f"{'names' if count == 1 else 'name'} no picture of the input: "
            f"{join_names(unmatched, MAX_NAMED)}",
            is_warning=True,
        )
