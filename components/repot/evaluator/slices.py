"""Scores of slices: the pictures of one folder, size, format, or value of a manifest's column.

A slice is compared with the other pictures of the same labels, so that a slice of hard labels is
not called bad for that. Many slices are tested, and some look bad by chance: the p-values are
corrected for their number.
"""

import dataclasses
import io
import itertools
import os.path
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from repot import layout, storage
from repot.evaluator.outcomes import Outcome
from repot.evaluator.report.data import SliceRecord, SliceSummary
from repot.evaluator.scoring import ScoredSplit
from repot.manifest import Manifest, Receipt
from repot.metrics import holm, stratified_excess, wilson_interval
from repot.picture_result import SOURCE_FORMATS
from repot.work_list import SourcePicture, read_shard_sources

MIN_PICTURES = 5
"""Smaller slices are not tested."""
MAX_VALUES = 30
"""Slices per column: those with the most pictures."""
LEVEL = 0.05

FOLDER, SIDE, FORMAT = "folder", "shorter side", "file format"
"""Names of the slices that every dataset may have."""

_NUM_READERS = 16
_MAX_CATEGORIES = 12  # A column with more values, all numbers, is divided into quarters.
_MAX_FOLDERS = 50  # If there are more, only their first parts count.
_FIELDS = ("height", "width", "source_format")

Columns = Mapping[str, Sequence[str]]
"""Value of each picture by column; "" if unknown."""


def find_slices(
    dataset_uri: str, manifest: Manifest, subset: str, scored: ScoredSplit
) -> SliceSummary | None:
    """Return the scores of all slices, or None if there is nothing to slice by.

    Args:
        dataset_uri: Folder of the dataset.
        manifest: Its manifest.
        subset: The scored split.
        scored: Its predictions.

    Raises:
        DataError: A work list is invalid.
        StorageError: A file cannot be read.
    """
    columns = _read_columns(dataset_uri, manifest, subset, scored)
    return compare_slices(scored.outcomes, columns)


def compare_slices(outcomes: Sequence[Outcome], columns: Columns) -> SliceSummary | None:
    """Return the scores of all slices, those with the strongest evidence of being worse first.

    One-sided exact test of "mistakes fall on the pictures of each label at random", over all labels
    together. A column is left out if no slice of it can be compared, such as folders that are the
    labels.

    Args:
        outcomes: The predictions.
        columns: The values of the same pictures.
    """
    position = {label: i for i, label in enumerate({outcome.label for outcome in outcomes})}
    labels = np.array([position[outcome.label] for outcome in outcomes], np.int64)
    is_wrong = np.array([not outcome.correct for outcome in outcomes])

    def count(is_counted: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(labels[is_counted], minlength=len(position))

    totals, wrong = count(np.ones_like(is_wrong)), count(is_wrong)
    found: list[tuple[SliceRecord, float | None]] = []
    for column, values in columns.items():
        texts = np.array(_bin_numbers(values), object)
        numbers = Counter(texts.tolist())
        del numbers[""]
        slices = []
        for value, number in numbers.most_common(MAX_VALUES):
            if MIN_PICTURES <= number < len(outcomes):
                is_inside = texts == value
                counts = _Counts(count(is_inside), count(is_inside & is_wrong), totals, wrong)
                slices.append((_slice_record(column, value, counts), stratified_excess(*counts)))
        if any(p_value is not None for _, p_value in slices):
            found += slices
    return _summarise(found) if found else None


class _Counts(NamedTuple):
    """Pictures of a slice and of all, those that are wrong among them: int64 [num_labels] each."""

    inside: NDArray[np.int64]
    inside_wrong: NDArray[np.int64]
    totals: NDArray[np.int64]
    wrong: NDArray[np.int64]


def _summarise(found: Sequence[tuple[SliceRecord, float | None]]) -> SliceSummary:
    """Return the slices with corrected p-values, in order."""
    tested = [p_value for _, p_value in found if p_value is not None]
    corrected = iter(holm(tested))

    def order(item: tuple[SliceRecord, float | None]) -> tuple[float, float, str, str]:
        record, p_value = item
        return (
            1.0 if p_value is None else p_value,
            record.precision_at_1,
            record.column,
            record.value,
        )

    records = {}
    for item in found:
        p_value = None if item[1] is None else next(corrected)
        is_worse = p_value is not None and p_value <= LEVEL
        records[order(item)] = dataclasses.replace(item[0], p_value=p_value, is_worse=is_worse)
    return SliceSummary(
        slices=tuple(records[key] for key in sorted(records)), num_tested=len(tested), level=LEVEL
    )


def _slice_record(column: str, value: str, counts: _Counts) -> SliceRecord:
    """Return a slice without its p-value."""
    inside, inside_wrong, totals, wrong = counts
    num_examples, num_wrong = int(inside.sum()), int(inside_wrong.sum())
    num_correct = num_examples - num_wrong
    weights = np.where(totals > inside, inside, 0)
    rates = (wrong - inside_wrong) / np.maximum(totals - inside, 1)
    return SliceRecord(
        column=column,
        value=value,
        num_examples=num_examples,
        num_correct=num_correct,
        precision_at_1=num_correct / num_examples,
        interval=wilson_interval(num_correct, num_examples),
        others=1 - float(weights @ rates / weights.sum()) if weights.any() else None,
        p_value=None,
        is_worse=False,
    )


def _bin_numbers(values: Sequence[str]) -> list[str]:
    """Return the values, or the quarter of each if they are many numbers."""
    known = {value for value in values if value}
    if len(known) <= _MAX_CATEGORIES:
        return list(values)
    try:
        numbers = {value: float(value) for value in known}
    except ValueError:
        return list(values)
    scored = np.array([numbers[value] for value in values if value])
    edges = np.unique(np.quantile(scored, [0.25, 0.5, 0.75], method="inverted_cdf"))
    names = [
        f"below {edges[0]:g}",
        *(f"{low:g} to below {high:g}" for low, high in itertools.pairwise(edges)),
        f"{edges[-1]:g} and more",
    ]
    bins = {
        value: names[int(np.searchsorted(edges, number, side="right"))]
        for value, number in numbers.items()
    }
    return [bins.get(value, "") for value in values]


@dataclass(frozen=True, slots=True)
class _ShardFacts:
    """What is known of the records of a shard, one entry per record; empty lists if unknown."""

    sides: list[str]
    formats: list[str]
    folders: list[str]
    columns: list[tuple[tuple[str, str], ...]]


def _read_columns(
    dataset_uri: str, manifest: Manifest, subset: str, scored: ScoredSplit
) -> Columns:
    rejected = {rejection.path for rejection in manifest.rejected}
    shards = manifest.split_shards(subset)
    ends = np.cumsum([0, *(receipt.num_records for receipt in shards)])
    places = np.searchsorted(ends, scored.numbers, side="right") - 1

    def read(index: int) -> _ShardFacts:
        return _read_facts(dataset_uri, shards[index], rejected)

    with ThreadPoolExecutor(_NUM_READERS) as readers:
        facts = dict(zip(used := np.unique(places).tolist(), readers.map(read, used), strict=True))
    sides, formats, folders, columns = [], [], [], []
    numbers = (scored.numbers - ends[places]).tolist()
    for place, number in zip(places.tolist(), numbers, strict=True):
        shard = facts[place]
        sides.append(shard.sides[number] if shard.sides else "")
        formats.append(shard.formats[number] if shard.formats else "")
        folders.append(shard.folders[number] if shard.folders else "")
        columns.append(shard.columns[number] if shard.columns else ())
    names = sorted({name for own in set(columns) for name, _ in own})
    return {
        FOLDER: _shorten(folders),
        SIDE: sides,
        FORMAT: formats,
        **{name: [dict(own).get(name, "") for own in columns] for name in names},
    }


def _read_facts(dataset_uri: str, receipt: Receipt, rejected: set[str]) -> _ShardFacts:
    rows = _read_rows(dataset_uri, receipt)
    pictures = read_shard_sources(dataset_uri, receipt, rejected) or []
    return _ShardFacts(
        sides=[] if rows is None else _side_names(np.minimum(rows["height"], rows["width"])),
        formats=[] if rows is None else [SOURCE_FORMATS[i] for i in rows["source_format"]],
        folders=[sys.intern(_folder(picture)) for picture in pictures],
        columns=[picture.columns for picture in pictures],
    )


def _read_rows(dataset_uri: str, receipt: Receipt) -> NDArray[np.void] | None:
    """Return sizes and formats, one row per record; None if they are missing or damaged."""
    uri = storage.join(dataset_uri, layout.appearances_name(receipt.shard))
    if not storage.exists(uri):
        return None
    try:
        rows: NDArray[np.void] = np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return None
    is_valid = rows.shape == (receipt.num_records,) and {*_FIELDS} <= {*(rows.dtype.names or ())}
    return rows if is_valid else None


def _side_names(sides: Iterable[int]) -> list[str]:
    """Return the power of two that each side reaches, as a name that sorts by size."""
    names = []
    for side in sides:
        low = 1 << max(6, int(side).bit_length() - 1)
        names.append(f"below {low} pixels" if side < low else f"{low} to {2 * low - 1} pixels")
    return names


def _folder(picture: SourcePicture) -> str:
    """Return the folders of a picture, without the one that is its label."""
    parts = picture.path.split("/")[:-1]
    if picture.label in parts:
        parts.remove(picture.label)
    return "/".join(parts)


def _shorten(folders: Sequence[str]) -> list[str]:
    """Return the folders without what all of them have in common."""
    distinct = {folder.rstrip("/") for folder in folders}
    if len(distinct) < 2:
        return [""] * len(folders)
    is_absolute = {folder.startswith("/") for folder in distinct}
    common = os.path.commonpath(distinct) if len(is_absolute) == 1 and "" not in distinct else ""
    short = {
        folder: os.path.relpath(folder, common) if common else folder or "." for folder in distinct
    }
    if len(distinct) > _MAX_FOLDERS:
        short = {folder: name.lstrip("/").partition("/")[0] for folder, name in short.items()}
    return [short[folder.rstrip("/")] for folder in folders]
