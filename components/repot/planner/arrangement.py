"""Which split and shard each picture of a dataset is in, and the id that follows from that."""

import dataclasses
import hashlib
import logging
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repot import layout
from repot.errors import join_names
from repot.manifest import SPLITS, Split, shard_name
from repot.picture_result import EXEMPT_REASONS
from repot.planner import sharding
from repot.planner.inputs.inventory import Inventory
from repot.planner.sharding import Numbers
from repot.planner.split import find_groups, find_split_warnings, group_digests, split_pictures
from repot.records import BOX_EDGES, Box
from repot.settings import STABLE_LAYOUT, DatasetSettings
from repot.work_list import SourcePicture, content_hash, content_key

FORMAT_VERSION = 5
"""Part of every dataset id. Increase it when the same pictures would give different shards."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrangement:
    """The pictures of a dataset by their numbers in the inventory.

    Attributes:
        inventory: The pictures, with checksums.
        labels: All labels; labels[i] has class id i + 1.
        settings: The settings of the dataset, shard counts resolved.
        splits: The split of each picture.
        groups: What names the group of each picture, see `group_digests`.
        class_ids: The labels' numbers.
        split_warnings: What about the split is probably a mistake.
    """

    inventory: Inventory
    labels: tuple[str, ...]
    settings: DatasetSettings
    splits: Sequence[Split]
    groups: Sequence[str]
    class_ids: Mapping[str, int]
    split_warnings: Sequence[str]

    def source(self, number: int) -> SourcePicture:
        """Return what a builder needs to know of a picture."""
        inventory = self.inventory
        candidate, is_trained = inventory.candidates[number], self.splits[number] == "train"
        file, label = candidate.file, candidate.label
        return SourcePicture(
            label=label,
            class_id=self.class_ids[label],
            uri=file.uri,
            path=file.path,
            size_bytes=file.size_bytes,
            checksum=file.checksum,
            version=file.version,
            part=file.part,
            text=inventory.texts.get(label, ""),
            boxes=candidate.boxes if inventory.has_boxes else None,
            crop=candidate.crop,
            # Only training divides a split further.
            group=self.groups[number] if is_trained else "",
            # Only the other splits are scored.
            columns=() if is_trained else candidate.columns,
        )

    def class_counts(self) -> dict[Split, dict[str, int]]:
        """Return the number of pictures by split and label."""
        counts = Counter(zip(self.splits, self.inventory.candidates.labels, strict=True))
        return {split: {label: counts[split, label] for label in self.labels} for split in SPLITS}

    def find_problems(self) -> list[str]:
        """Check that every label can be trained and that there is something to validate on."""
        problems = []
        num_trained = self.class_counts()["train"]
        if untrained := [label for label, number in num_trained.items() if not number]:
            problems.append(
                "Every label must have a picture to train on; these have none: "
                f"{join_names(map(repr, untrained))}. Add pictures, or remove the labels."
            )
        if "validation" not in self.splits:
            problems.append(
                "Validation must have a picture; it has none, because the pictures of each label "
                "are copies of one picture, or belong to one group. Add other pictures, or correct "
                "the groups (--group-pattern, setting group_pattern)."
            )
        return problems

    def assign_to_shards(self) -> dict[str, Numbers]:
        """Return the numbers of the pictures of every shard of all splits, by shard name."""
        shards: dict[str, Numbers] = {}
        by_split = self._sort()
        for split, num_shards in _num_shards(self.settings).items():
            numbers = by_split[split]
            if self.settings.shard_layout == STABLE_LAYOUT:
                places = np.fromiter(map(self._place, numbers.tolist()), np.uint64, len(numbers))
                assigned = sharding.assign_to_stable_shards(places, num_shards=num_shards)
            else:
                assigned = sharding.assign_to_shards(
                    len(numbers), num_shards=num_shards, num_threads=self.settings.num_threads
                )
            shards |= {
                shard_name(split, index, num_shards): numbers[shard]
                for index, shard in enumerate(assigned)
            }
        return shards

    def dataset_id(self) -> str:
        """Return the id of the dataset, which does not depend on the order of its pictures."""
        # The text of a tuple of texts, numbers, lists and tuples is unambiguous.
        identities = (ascii(identity).encode() for identity in self._identities())
        digests = np.fromiter(
            (hashlib.sha256(identity).digest() for identity in identities), "S32", len(self.splits)
        )
        digests.sort()
        content = {
            "format": FORMAT_VERSION,
            "labels": self.labels,
            "num_shards": _num_shards(self.settings),
            "num_threads": self.settings.num_threads,
            "layout": self.settings.shard_layout,
            "pictures": hashlib.sha256(digests.tobytes()).hexdigest(),
            "rejected": [
                (item.path, item.reason)
                for item in self.inventory.rejected
                if item.reason not in EXEMPT_REASONS
            ],
        }
        return layout.content_id(content)

    def _sort(self) -> dict[Split, Numbers]:
        """Return the numbers of the pictures of each split, sorted by class id, name and content.

        So the order does not depend on folders, of which other inputs know nothing.
        """
        pictures = self.inventory.candidates
        files = pictures.files

        def order(number: int) -> tuple[object, ...]:
            crop = pictures.crops.get(number)
            edges = (crop.xmin, crop.ymin, crop.xmax, crop.ymax) if crop else ()
            return files.name(number), files.checksum(number), files.sizes[number], edges

        by_label = {label: array("q") for label in self.labels}
        for number, label in enumerate(pictures.labels):
            by_label[label].append(number)
        by_split = {split: array("q") for split in SPLITS}
        # Label by label, so that the sort keys of one label at a time are in memory.
        for numbers in by_label.values():
            for number in sorted(numbers, key=order):
                by_split[self.splits[number]].append(number)
        return {split: np.array(numbers, np.int64) for split, numbers in by_split.items()}

    def _place(self, number: int) -> int:
        """Return the place of a picture in the `stable` layout."""
        pictures = self.inventory.candidates
        files, crop = pictures.files, pictures.crops.get(number)
        return content_hash(content_key(files.checksum(number), files.sizes[number], crop))

    def _identities(self) -> Iterator[tuple[object, ...]]:
        """Yield what makes each picture's record what it is, whatever input it comes from."""
        pictures, inventory = self.inventory.candidates, self.inventory
        files = pictures.files
        is_plain = not (
            inventory.texts
            or inventory.has_boxes
            or any(self.groups)
            or pictures.crops
            or pictures.columns
        )
        columns = files.paths, files.sizes, files.checksums, pictures.labels, self.splits
        for number, (path, *identity) in enumerate(zip(*columns, strict=True)):
            additions = () if is_plain else self._additions(number)
            yield path.rpartition("/")[2], *identity, *additions

    def _additions(self, number: int) -> tuple[object, ...]:
        """Return what the identity of a picture has beside that of a plain one."""
        picture = self.source(number)
        boxes, crop = picture.boxes, picture.crop
        if boxes is None and not (picture.text or picture.group or crop or picture.columns):
            return ()
        return (
            picture.text,
            None if boxes is None else [_edges(box) for box in boxes],
            _edges(crop) if crop else None,
            picture.group,
            picture.columns,
        )


def arrange_pictures(
    inventory: Inventory, labels: tuple[str, ...], settings: DatasetSettings
) -> Arrangement:
    """Split the pictures, and choose the numbers of shards that the settings leave open.

    Args:
        inventory: The pictures, with checksums.
        labels: All labels, in the order of their ids.
        settings: How pictures become shards.
    """
    pictures = inventory.candidates
    groups = find_groups(pictures, settings.group_pattern)
    splits = split_pictures(
        pictures,
        groups,
        validation_fraction=settings.validation_fraction,
        test_fraction=settings.test_fraction,
    )
    return Arrangement(
        inventory=inventory,
        labels=labels,
        settings=_with_num_shards(settings, Counter(splits)),
        splits=splits,
        groups=group_digests(pictures, groups),
        class_ids={label: class_id for class_id, label in enumerate(labels, start=1)},
        split_warnings=find_split_warnings(
            pictures, groups, splits, group_pattern=settings.group_pattern
        ),
    )


def _with_num_shards(
    settings: DatasetSettings, num_by_split: Mapping[Split, int]
) -> DatasetSettings:
    """Return the settings with shard counts of 0 replaced by the chosen number."""

    def resolve(requested: int, split: Split) -> int:
        num_pictures = num_by_split[split]
        if split == "test" and not num_pictures:
            return 0
        if settings.shard_layout == STABLE_LAYOUT:
            chosen = sharding.choose_num_stable_shards(num_pictures)
        else:
            chosen = sharding.choose_num_shards(num_pictures, settings.num_threads)
        num_shards = requested or chosen
        if num_shards > num_pictures > 0:  # a split without pictures has a message of its own
            _log.warning(
                "%s: %d shards for %d pictures, some will be empty", split, num_shards, num_pictures
            )
        return num_shards

    return dataclasses.replace(
        settings,
        train_shards=resolve(settings.train_shards, "train"),
        validation_shards=resolve(settings.validation_shards, "validation"),
        test_shards=resolve(settings.test_shards, "test"),
    )


def _num_shards(settings: DatasetSettings) -> dict[Split, int]:
    num_shards: dict[Split, int] = {
        "train": settings.train_shards,
        "validation": settings.validation_shards,
        "test": settings.test_shards,
    }
    return {split: count for split, count in num_shards.items() if count}


def _edges(box: Box) -> list[float]:
    """Return the edges of a box as records store them, in single precision."""
    return [float(np.float32(getattr(box, edge))) for edge in BOX_EDGES]
