"""The data set's own papers: receipts, one a shard, and the manifest that makes a data set exist.

A data set folder holds
    <split>-<index, 5 digits>-of-<count, 5 digits>   TFRecord shards
    receipts/<shard>.json                            written after its shard
    labels.txt                                       line n names class n; class 0 is the background
    manifest.json                                    written last: without it there is no data set
and accounts for every file found: num_found = num_accepted + len(rejected).
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
MANIFEST_NAME = "manifest.json"
LABELS_NAME = "labels.txt"
RECEIPTS_FOLDER = "receipts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A file that is in no shard, and why.

    Attributes:
        path: Relative to the pictures' folder, with `/`.
        label: The label whose folder holds it, or "".
        split: The split that it would have gone to, or "".
        reason: A key of `repot.pictures.REASONS`.
        detail: The decoder's words, or "".
    """

    path: str
    label: str
    split: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What is in one shard.

    Attributes:
        shard: File name of the shard.
        split: The split that it belongs to.
        num_records: Records in the shard.
        size_bytes: Size of the shard.
        crc32c: CRC32C of the shard's bytes, 8 hex digits.
        class_counts: Records by label; labels without a record are left out.
        rejected: Pictures that were to be in this shard and are not.
    """

    shard: str
    split: Split
    num_records: int
    size_bytes: int
    crc32c: str
    class_counts: dict[str, int]
    rejected: tuple[Rejection, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        """Build from a dict; an unknown key is a TypeError."""
        rejected = tuple(Rejection(**item) for item in facts.get("rejected", ()))
        return cls(**{**facts, "rejected": rejected})


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What is in one data set.

    Attributes:
        dataset_id: The data set's content id.
        pictures_uri: Where the pictures came from.
        labels: Label names; labels[i] has class id i + 1.
        settings: The DatasetSettings as JSON, shard counts resolved.
        shards: One receipt a shard without its rejections, sorted by name.
        num_found, num_accepted: Files found; pictures that are in a shard.
        rejected: Every file that is in no shard.
    """

    dataset_id: str
    pictures_uri: str
    labels: tuple[str, ...]
    settings: dict[str, Any]
    shards: tuple[Receipt, ...]
    num_found: int
    num_accepted: int
    rejected: tuple[Rejection, ...] = field(default=())

    @property
    def num_classes(self) -> int:
        """Return the number of logits: one a label and one for the background."""
        return len(self.labels) + 1

    def split_shards(self, split: str) -> tuple[Receipt, ...]:
        """Return the receipts of one split, sorted by name."""
        return tuple(shard for shard in self.shards if shard.split == split)

    def num_examples(self, split: str) -> int:
        """Return the number of records in one split."""
        return sum(shard.num_records for shard in self.split_shards(split))

    def class_counts(self, split: str) -> dict[str, int]:
        """Return the number of records by label in one split, every label included."""
        return {
            label: sum(shard.class_counts.get(label, 0) for shard in self.split_shards(split))
            for label in self.labels
        }

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        """Build from a dict; an unknown key is a TypeError."""
        return cls(
            **{
                **facts,
                "labels": tuple(facts["labels"]),
                "shards": tuple(Receipt.from_json(item) for item in facts["shards"]),
                "rejected": tuple(Rejection(**item) for item in facts["rejected"]),
            }
        )


def shard_name(split: str, shard_index: int, shard_count: int) -> str:
    """Return the 2016 name of a shard, e.g. train-00000-of-00128 (shard_index in [0, shard_count))."""
    return f"{split}-{shard_index:05d}-of-{shard_count:05d}"


def shard_split(name: str) -> Split:
    """Return the split that a shard's name begins with."""
    return cast(Split, name.split("-", 1)[0])


def count_reasons(rejected: Iterable[Rejection]) -> dict[str, int]:
    """Return the number of rejections by reason, most frequent first."""
    counts: dict[str, int] = {}
    for rejection in rejected:
        counts[rejection.reason] = counts.get(rejection.reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
