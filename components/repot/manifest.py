"""The records of a finished dataset: one receipt per shard, and the manifest that completes it.

A dataset folder contains
    <split>-<index>-of-<count>   TFRecord shards; index and count have 5 digits
    checks/<shard>.npy           what its pictures look like, see repot.shard_builder.appearances
    receipts/<shard>.json        written after the shard
    checks.json, data.html       what the pictures show, see repot.data_checks
    digests/<split>.bin          the content of each record, see repot.example_digests
    classes/<split>.bin          the class id of each record
    groups/train.bin             the group of each record, if any has one
    labels.txt                   line n is the label of class n; class 0 is the background
    manifest.json                written last: without it the dataset does not exist

Every file found is either in a shard or listed as rejected:
num_found = num_accepted + len(rejected).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from repot import storage
from repot.errors import DataError, NotFoundError
from repot.json_record import JsonRecord, read_record
from repot.layout import MANIFEST_NAME
from repot.settings import DatasetSettings

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
"""Every split. Train and validation always have pictures; a dataset without test has no shard of
it. Nothing may be chosen by scores on validation, which the gate uses, or on test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection(JsonRecord):
    """A file that is in no shard, and the reason.

    Attributes:
        path: Relative to the pictures folder, with `/`.
        label: The label folder that contains the file, or "".
        split: The split that the file was assigned to, or "".
        reason: A key of `repot.picture_result.REASONS`.
        detail: The decoder's error message, or "".
    """

    path: str
    label: str
    split: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exclusion(JsonRecord):
    """A record of validation or test that no evaluation scores, and the reason.

    Attributes:
        split: The split of the record.
        digest: Its content, 32 hex digits, see `repot.example_digests`. All records of the split
            with this content are excluded.
        reason: A key of EXCLUSION_REASONS.
        path: The picture's path, relative to the pictures folder; "" if unknown.
        detail: More about the reason, such as the path of the other picture, or "".
    """

    split: Split
    digest: str
    reason: str
    path: str = ""
    detail: str = ""


EXCLUSION_REASONS = {"copy_of_training": "train has a copy of the picture"}
"""Why a record is not scored, by the reason key that manifest, metrics and report use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt(JsonRecord):
    """The content of one shard.

    Attributes:
        shard: File name of the shard.
        split: The split that the shard belongs to.
        num_records: Number of records in the shard.
        size_bytes: Size of the shard.
        crc32c: CRC32C of the shard's bytes, 8 hex digits.
        class_counts: Number of records per label; labels without records are omitted. {} in a
            manifest, which states them for each split: for each shard, they would be the largest
            part of it.
        rejected: Pictures that were assigned to this shard and rejected.
        digests: The digests of its records in order, in base64, see `repot.example_digests`; "" in
            a manifest, and in a receipt of an earlier version.
        groups: The groups of its records in the same form; "" in a manifest, and if no record has
            one.
        record_bytes: The sizes of its records' frames, see `repot.composition.encode_numbers`; ""
            in a manifest, and in a receipt of an earlier version.
        record_crcs: The last four bytes of the frames, in the same form.
    """

    shard: str
    split: Split
    num_records: int
    size_bytes: int
    crc32c: str
    class_counts: dict[str, int]
    rejected: tuple[Rejection, ...] = ()
    digests: str = ""
    groups: str = ""
    record_bytes: str = ""
    record_crcs: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest(JsonRecord):
    """The content of one dataset.

    Attributes:
        dataset_id: The dataset's content id.
        pictures_uri: The folder or folders that the pictures came from.
        labels: Label names; labels[i] has class id i + 1.
        settings: The settings that the dataset was built with, shard counts resolved.
        shards: One receipt per shard, sorted by name, without rejections, digests and counts.
        num_found, num_accepted: Number of files found; number of pictures in shards.
        rejected: Every file that is in no shard, sorted by path.
        empty_label_folders: Paths of label folders without a file that could be a picture.
        excluded: Records that are not scored, sorted by path.
        num_by_label: Number of records by split and label; {} in a manifest of an earlier version,
            whose receipts have the numbers.
    """

    dataset_id: str
    pictures_uri: str
    labels: tuple[str, ...]
    settings: DatasetSettings
    shards: tuple[Receipt, ...]
    num_found: int
    num_accepted: int
    rejected: tuple[Rejection, ...] = ()
    empty_label_folders: tuple[str, ...] = ()
    excluded: tuple[Exclusion, ...] = ()
    num_by_label: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[Split, ...]:
        """Return the splits that the dataset has, in the order of SPLITS."""
        return tuple(split for split in SPLITS if self.split_shards(split))

    @property
    def num_classes(self) -> int:
        """Return the number of logits: one per label and one for the background."""
        return len(self.labels) + 1

    def counted_rejections(self, exempt_reasons: Collection[str]) -> list[Rejection]:
        """Return the rejections that count towards max_rejected_fraction: those of pictures.

        Args:
            exempt_reasons: `repot.picture_result.EXEMPT_REASONS`.
        """
        return [each for each in self.rejected if each.reason not in exempt_reasons]

    def split_shards(self, split: str) -> tuple[Receipt, ...]:
        """Return the receipts of one split, sorted by shard name."""
        return tuple(shard for shard in self.shards if shard.split == split)

    def num_examples(self, split: str) -> int:
        """Return the number of records in one split."""
        return sum(shard.num_records for shard in self.split_shards(split))

    def has_scored(self, split: str) -> bool:
        """Return whether the split has a record that evaluations score."""
        num_excluded = sum(item.split == split for item in self.excluded)
        return self.num_examples(split) > num_excluded

    def class_counts(self, split: str) -> dict[str, int]:
        """Return the number of records per label in one split, labels without records included."""
        stated = self.num_by_label.get(split)
        every = [stated] if stated else [shard.class_counts for shard in self.split_shards(split)]
        found = sum_counts(every)
        return {label: found.get(label, 0) for label in self.labels}


def read_manifest(dataset_uri: str) -> Manifest:
    """Read the manifest of a dataset.

    Raises:
        DataError: There is no dataset at `dataset_uri`, or its manifest is invalid.
    """
    try:
        return read_record(storage.join(dataset_uri, MANIFEST_NAME), Manifest)
    except NotFoundError as err:
        raise DataError(
            f"A dataset must have a {MANIFEST_NAME}; {dataset_uri} has none. "
            "Build the shards first."
        ) from err


def shard_name(split: str, shard_index: int, shard_count: int) -> str:
    """Return the 2016 name of shard `shard_index` in [0, shard_count): train-00000-of-00128."""
    return f"{split}-{shard_index:05d}-of-{shard_count:05d}"


def shard_split(name: str) -> Split:
    """Return the split that a shard name starts with."""
    return cast(Split, name.split("-", 1)[0])


def sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sum of several numbers by label; the time is that of the numbers in them."""
    total: dict[str, int] = {}
    for each in counts:
        for label, number in each.items():
            total[label] = total.get(label, 0) + number
    return total


def count_reasons(items: Iterable[Rejection | Exclusion]) -> dict[str, int]:
    """Return the number of rejections or exclusions per reason, most frequent first."""
    counts: dict[str, int] = {}
    for rejection in items:
        counts[rejection.reason] = counts.get(rejection.reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
