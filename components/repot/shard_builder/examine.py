"""Examine all pictures of a complete dataset: copies, conflicts, leaks and outliers.

It compares the rows of `repot.shard_builder.appearances` and decodes nothing. The rows of a million
pictures have 2.5 GB, so they are in a temporary file, not in memory.
"""

import itertools
import math
import operator
import tempfile
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from repot import storage
from repot.data_checks import OUTLIER_KINDS, CheckedPicture, CopyGroup, DataChecks, Outlier
from repot.dataset_plan import DatasetPlan
from repot.errors import DataError, convert_disk_errors
from repot.example_digests import DIGEST_BYTES, Digests
from repot.manifest import SPLITS, Exclusion, Receipt, Split
from repot.picture_result import MINIATURE_SIDE, SOURCE_FORMATS
from repot.shard_builder.appearances import (
    APPEARANCE,
    MappedRows,
    Rows,
    appearances_uri,
    copy_appearances,
    read_appearances,
)
from repot.shard_builder.duplicates import find_near_copies
from repot.work_list import SourcePicture, read_work_list

MAX_GROUPS, MAX_PICTURES_PER_GROUP, MAX_OUTLIERS = 200, 12, 200
"""What checks.json lists of each kind at most."""

# Shards whose rows are read ahead from an object store, and how large they may be together.
_NUM_READERS, _MAX_BYTES_AHEAD = 8, 64 << 20

BLANK_CONTRAST, LOW_CONTRAST = 2.0, 6.0
"""Standard deviation of grey levels, of 255."""
SMALL_SIDE = 32
"""Shorter side in pixels."""
LONG_ASPECT = 4.0
"""Longer side divided by the shorter one."""
WIDE_EDGES = 0.018
"""Width of the sharpest edges as a share of the side; of 700 sharp photographs, cut-outs and
drawings, fewer than 1 % have 0.0125; blurred by 5 % of their side, 95 % have more than this."""

WIDE_BENDS = 0.015
"""Width of the sharpest bends as a share of the side. Of 80 photographs blurred by 5 % of their
side, 97 % have more than this and wide edges, also after JPEG of quality 40; of the photographs
themselves, none; of those blurred by 2 % and then made grainy, 6 % to 11 %."""

Indices = NDArray[np.int64]
# Pictures whose bends are measured at once: their arrays stay in the processor's cache.
_CHUNK = 128
_NUM_IGNORED = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What was found.

    Attributes:
        checks: The results for people.
        excluded: Near-copies of training pictures in validation and test.
        leaks: The first pictures of validation and test that are a copy, near or exact, of one in
            train, each with that one.
        samples: Pictures to show as an example of each label.
        sources: Where every picture that is named here can be read.
        class_ids: The class id of each record of each split, int64, in the order of the shards.
    """

    checks: DataChecks
    excluded: tuple[Exclusion, ...]
    leaks: tuple[tuple[CheckedPicture, CheckedPicture], ...]
    samples: dict[str, tuple[CheckedPicture, ...]]
    sources: dict[CheckedPicture, SourcePicture]
    class_ids: dict[Split, NDArray[np.int64]]


def examine(
    dataset_uri: str,
    plan: DatasetPlan,
    receipts: Sequence[Receipt],
    digests: Mapping[Split, Digests],
    *,
    samples_per_label: int,
) -> Examined:
    """Examine the pictures of a dataset whose shards are all built.

    Args:
        dataset_uri: Folder of the dataset.
        plan: Its plan.
        receipts: The receipts of all shards, in the order of the plan.
        digests: The digests of the records of each split.
        samples_per_label: Number of samples to choose.

    Raises:
        DataError: What the builders measured is missing or damaged.
        StorageError: Reading failed, or there is no room for temporary files.
    """
    # By split, as the digests are; the shards of each split keep their order.
    ordered = [each for split in SPLITS for each in receipts if each.split == split]
    everything = np.concatenate([digests[split] for split in SPLITS])
    with tempfile.TemporaryDirectory(prefix="repot-checks-") as folder:
        with convert_disk_errors(Path(folder)):
            rows = _gather(dataset_uri, ordered, Path(folder))
        examiner = _Examiner(dataset_uri, plan, ordered, everything, rows)
        return examiner.examine(samples_per_label)


def _gather(dataset_uri: str, receipts: Sequence[Receipt], folder: Path) -> MappedRows:
    """Return the rows of all shards, one after the other, in a file."""
    with (folder / "rows").open("xb") as file:
        for receipt, is_complete in zip(
            receipts, _copy_rows(dataset_uri, receipts, file), strict=True
        ):
            if not is_complete:
                raise DataError(
                    f"{appearances_uri(dataset_uri, receipt.shard)} must have a row for each of "
                    f"{receipt.num_records} records; it is missing or damaged. Delete "
                    f"{receipt.shard} and run again."
                )
    return MappedRows(folder / "rows")


def _copy_rows(dataset_uri: str, receipts: Sequence[Receipt], file: BinaryIO) -> Iterator[bool]:
    """Append the rows of each shard to a file; yield whether they are complete."""
    if storage.is_local(dataset_uri):
        for receipt in receipts:
            yield copy_appearances(dataset_uri, receipt.shard, receipt.num_records, file)
        return

    def read(receipt: Receipt) -> NDArray[np.void] | None:
        return read_appearances(dataset_uri, receipt.shard, receipt.num_records)

    def append(future: Future[NDArray[np.void] | None]) -> bool:
        rows = future.result()
        file.write(b"" if rows is None else rows.tobytes())
        return rows is not None

    largest = max((receipt.num_records for receipt in receipts), default=0) * APPEARANCE.itemsize
    num_readers = max(1, min(_NUM_READERS, _MAX_BYTES_AHEAD // max(1, largest)))
    pending: deque[Future[NDArray[np.void] | None]] = deque()
    with ThreadPoolExecutor(num_readers) as readers:
        for receipt in receipts:
            if len(pending) == num_readers:
                yield append(pending.popleft())
            pending.append(readers.submit(read, receipt))
        while pending:
            yield append(pending.popleft())


class _Examiner:
    """Answers questions about the records of a dataset, numbered by split, shard and record."""

    def __init__(
        self,
        dataset_uri: str,
        plan: DatasetPlan,
        receipts: Sequence[Receipt],
        digests: Digests,
        rows: Rows,
    ) -> None:
        self._dataset_uri, self._plan, self._receipts = dataset_uri, plan, receipts
        self._digests, self._rows = digests, rows
        counts = [receipt.num_records for receipt in receipts]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._splits = np.repeat([SPLITS.index(each.split) for each in receipts], counts)
        self._read: dict[int, SourcePicture] = {}
        self._sources: dict[CheckedPicture, SourcePicture] = {}

    def examine(self, samples_per_label: int) -> Examined:
        _, first, content = np.unique(self._digests, return_index=True, return_inverse=True)
        pairs = find_near_copies(self._rows, np.sort(first))
        pairs = self._of_other_files(pairs)
        groups = _connected(len(self._rows), content, first, pairs)
        class_ids = self._rows["class_id"]
        has_one_label = [len(set(class_ids[group].tolist())) == 1 for group in groups]
        copies = list(itertools.compress(groups, has_one_label))
        conflicts = list(itertools.compress(groups, map(operator.not_, has_one_label)))
        leaks = self._leaks(content, first, pairs)
        samples = self._samples(samples_per_label)
        unusual, num_outliers = self._outliers()
        shown = [self._choose(group) for group in (*copies[:MAX_GROUPS], *conflicts[:MAX_GROUPS])]
        self._read_sources(
            itertools.chain(*shown, *leaks, *samples.values(), (record for record, *_ in unusual))
        )
        num_exact = len(content) - len(first)
        sides = np.sort(np.minimum(self._rows["height"], self._rows["width"]))
        formats = Counter(self._rows["source_format"].tolist())
        checks = DataChecks(
            num_copies=sum(len(group) - 1 for group in groups),
            num_exact_copies=num_exact,
            copies=tuple(self._describe(group, content) for group in copies[:MAX_GROUPS]),
            num_conflicts=len(conflicts),
            conflicts=tuple(self._describe(group, content) for group in conflicts[:MAX_GROUPS]),
            num_outliers=num_outliers,
            outliers=tuple(
                Outlier(
                    picture=self._picture(record),
                    kind=kind,
                    measured=round(measured, 4),
                    threshold=threshold,
                )
                for record, kind, measured, threshold in unusual
            ),
            formats={SOURCE_FORMATS[code]: count for code, count in formats.most_common()},
            sides=tuple(int(sides[i]) for i in (0, len(sides) // 2, -1)) if len(sides) else (),
        )
        return Examined(
            checks=checks,
            excluded=tuple(
                Exclusion(
                    split=SPLITS[int(self._splits[record])],
                    digest=self._digests[record].ljust(DIGEST_BYTES, b"\0").hex(),
                    reason="copy_of_training",
                    path=self._read[record].path,
                    detail=self._read[origin].path,
                )
                for record, origin in leaks
                if content[record] != content[origin]
            ),
            leaks=tuple(
                (self._picture(record), self._picture(origin))
                for record, origin in leaks[:MAX_GROUPS]
            ),
            samples={
                label: tuple(map(self._picture, records)) for label, records in samples.items()
            },
            sources=self._sources,
            class_ids={
                split: self._rows["class_id"][self._splits == number].astype(np.int64)
                for number, split in enumerate(SPLITS)
            },
        )

    def _read_sources(self, records: Iterable[int]) -> None:
        """Read where records come from, one work list after the other."""
        wanted = np.array(sorted(set(records).difference(self._read)), np.int64)
        shards = np.searchsorted(self._starts, wanted, side="right") - 1
        for shard in np.flatnonzero(np.bincount(shards)).tolist():
            inside = wanted[shards == shard]
            places = self._rows["picture"][inside].tolist()
            name = self._receipts[shard].shard
            sources = read_work_list(self._dataset_uri, name, places)
            self._read.update(zip(inside.tolist(), sources, strict=True))

    def _picture(self, record: int) -> CheckedPicture:
        """Return the picture of a record that `_read_sources` has read."""
        source = self._read[record]
        split = SPLITS[int(self._splits[record])]
        picture = CheckedPicture(path=source.path, label=source.label, split=split)
        self._sources[picture] = source
        return picture

    def _of_other_files(self, pairs: Indices) -> Indices:
        """Return the pairs that are not two parts of the same picture."""
        if not self._plan.settings.crop_to_boxes:
            return pairs
        self._read_sources(pairs.ravel().tolist())
        differs = [self._read[one].path != self._read[other].path for one, other in pairs.tolist()]
        return pairs[np.array(differs, np.bool_)]

    def _choose(self, group: Sequence[int]) -> list[int]:
        """Return the records of a group to show: of each label and split, then the others."""
        class_ids = self._rows["class_id"]
        kinds = {(int(class_ids[i]), int(self._splits[i])): i for i in reversed(group)}
        return list(dict.fromkeys([*sorted(kinds.values()), *group]))[:MAX_PICTURES_PER_GROUP]

    def _describe(self, group: Sequence[int], content: Indices) -> CopyGroup:
        return CopyGroup(
            is_exact=len(set(content[group].tolist())) == 1,
            num_pictures=len(group),
            pictures=tuple(map(self._picture, self._choose(group))),
        )

    def _leaks(self, content: Indices, first: Indices, pairs: Indices) -> list[tuple[int, int]]:
        """Return the records outside train that have a copy in train, each with the first such."""
        trained = np.flatnonzero(self._splits == SPLITS.index("train"))
        # Of each content in train, the first record; of others, -1.
        origins = np.full(len(first), -1)
        origins[content[trained][::-1]] = trained[::-1]
        alike = origins.copy()
        for one, other in pairs[::-1].tolist():
            for copy, origin in ((one, other), (other, one)):
                if origins[content[copy]] < 0 <= origins[content[origin]]:
                    alike[content[copy]] = origins[content[origin]]
        leaked = (self._splits != SPLITS.index("train")) & (alike[content] >= 0)
        return [(i, int(alike[content[i]])) for i in np.flatnonzero(leaked).tolist()]

    def _outliers(self) -> tuple[list[tuple[int, str, float, float]], dict[str, int]]:
        """Return what is unusual, and the number of records of each kind.

        Returns:
            Record, kind, measured value and threshold of the most unusual of each kind.
        """
        rows = self._rows
        height, width = rows["height"].astype(np.float64), rows["width"].astype(np.float64)
        shorter, longer = np.minimum(height, width), np.maximum(height, width)
        contrast, edges = rows["contrast"], rows["edge_width"]
        has_contrast = contrast >= LOW_CONTRAST
        # Smaller pictures are enlarged to be measured, and look blurred then.
        is_measurable = has_contrast & (shorter >= MINIATURE_SIDE)
        found: dict[str, tuple[NDArray[np.bool_], NDArray[np.floating], float]] = {
            "blank": (contrast < BLANK_CONTRAST, contrast, BLANK_CONTRAST),
            "nearly_uniform": (
                (contrast >= BLANK_CONTRAST) & ~has_contrast,
                contrast,
                LOW_CONTRAST,
            ),
            "very_small": (shorter < SMALL_SIDE, shorter, SMALL_SIDE),
            "extreme_aspect": (longer > LONG_ASPECT * shorter, longer / shorter, LONG_ASPECT),
            "blurred": (self._are_blurred(is_measurable), edges, WIDE_EDGES),
        }
        outliers, numbers = [], {}
        for kind in OUTLIER_KINDS:
            is_unusual, measured, threshold = found[kind]
            records = np.flatnonzero(is_unusual)
            if not len(records):
                continue
            numbers[kind] = len(records)
            # The most unusual first: the farther from the threshold, the lower.
            distance = -np.abs(measured[records] - threshold)
            outliers += [
                (record, kind, float(measured[record]), threshold)
                for record in records[np.argsort(distance, kind="stable")][:MAX_OUTLIERS].tolist()
            ]
        return outliers, numbers

    def _are_blurred(self, is_measurable: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which pictures have wide edges and no fine grain: bool [records].

        Without sharp edges a picture may still be sharp, as one of sand or of a face in soft light.
        """
        is_blurred: NDArray[np.bool_] = is_measurable & (self._rows["edge_width"] > WIDE_EDGES)
        records = np.flatnonzero(is_blurred)
        for start in range(0, len(records), _CHUNK):
            part = records[start : start + _CHUNK]
            is_blurred[part] = _bend_widths(self._rows["luminance"][part]) > WIDE_BENDS
        return is_blurred

    def _samples(self, number: int) -> dict[str, list[int]]:
        """Return records of each label, spread over all of them."""
        order = np.argsort(self._rows["class_id"], kind="stable")
        class_ids = self._rows["class_id"][order]
        samples = {}
        for class_id, label in enumerate(self._plan.labels, start=1):
            start, end = np.searchsorted(class_ids, [class_id, class_id + 1]).tolist()
            steps = np.linspace(start, end - 1, min(number, end - start)).astype(np.int64)
            samples[label] = sorted(order[steps].tolist())
        return samples


def _bend_widths(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the width of the sharpest bends as a share of the side: float64 [pictures].

    The steepest slope of a line that is blurred by a Gaussian is sqrt(e) times its standard
    deviation times the strongest bend. Grain bends in every pixel, however faint it is.
    """
    side = grey.shape[1]
    slopes: list[NDArray[np.int16]] = []
    bends: list[NDArray[np.int16]] = []
    down = grey.astype(np.int16)
    for lines in (down, np.ascontiguousarray(down.transpose(0, 2, 1))):
        steps = lines[:, 1:] - lines[:, :-1]
        for found, extremes in (
            (slopes, steps[:, 1:] + steps[:, :-1]),
            (bends, steps[:, 1:] - steps[:, :-1]),
        ):
            np.abs(extremes, out=extremes)
            found.append(extremes.max(axis=1))
    # A few lines are ignored: those with noise, or with the picture's only highlight.
    place = 2 * side - 1 - _NUM_IGNORED
    steepest, strongest = (
        np.partition(np.concatenate(each, axis=1), place, axis=1)[:, place].astype(np.float64)
        for each in (slopes, bends)
    )
    # A slope is half of the difference of the pixels on both sides.
    widths: NDArray[np.float64] = steepest / 2 / np.maximum(strongest, 1) / math.sqrt(math.e) / side
    return widths


def _connected(
    num_records: int, content: Indices, first: Indices, pairs: Indices
) -> list[list[int]]:
    """Return the groups of two and more records that show the same, the largest first.

    Args:
        num_records: Number of records.
        content: int64 [records], equal for records with equal content.
        first: int64 [contents], the first record of each.
        pairs: int64 [pairs, 2], near-copies among the first records.
    """
    parent = np.arange(num_records)

    def root(record: int) -> int:
        while parent[record] != record:
            parent[record] = parent[parent[record]]
            record = int(parent[record])
        return record

    for one, other in pairs.tolist():
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    is_copied = np.bincount(content)[content] > 1
    is_copied[pairs] = True
    groups: dict[int, list[int]] = defaultdict(list)
    for record in np.flatnonzero(is_copied).tolist():
        groups[root(int(first[content[record]]))].append(record)
    return sorted(groups.values(), key=lambda group: (-len(group), group))
