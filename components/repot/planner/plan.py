"""Plan a dataset: its labels, splits, shards and id. All problems are reported at once."""

import dataclasses
import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repot import layout, progress, storage
from repot.data_checks import DataLimits
from repot.dataset_description import describe_dataset
from repot.dataset_plan import (
    BaseDataset,
    DatasetPlan,
    NewestDataset,
    Share,
    SourcePicture,
    content_hash,
    content_key,
    write_plan,
)
from repot.errors import DataError, NotFoundError, UsageError, join_names
from repot.json_record import read_record
from repot.manifest import SPLITS, Rejection, Split, shard_name, shard_split
from repot.picture_result import EXEMPT_REASONS
from repot.planner import sharding
from repot.planner.checksums import add_checksums
from repot.planner.folders import find_layout_problems
from repot.planner.inputs.annotations import add_boxes, add_texts, crop_to_boxes
from repot.planner.inputs.corrections import apply_corrections
from repot.planner.inputs.inventory import CandidatePicture, Inventory
from repot.planner.inputs.read import ReadOptions, read_inventory
from repot.planner.labels import (
    find_label_count_problems,
    find_label_name_problems,
    find_labels_file_problems,
    find_picture_count_problems,
    find_suspicious_labels,
    read_labels,
)
from repot.planner.listing import PictureRoots, find_overlap, without_garbage_collection
from repot.planner.preflight import Parameters
from repot.planner.split import find_groups, find_split_warnings, group_digests, split_pictures
from repot.records import BOX_EDGES, Box
from repot.settings import STABLE_LAYOUT, DatasetSettings, InputSettings

FORMAT_VERSION = 5
"""Part of every dataset id. Increase it when the same pictures would give different shards."""

_NO_INPUT_SETTINGS = InputSettings()

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedDataset:
    """A planned dataset and its folder.

    Attributes:
        dataset_uri: Folder of the dataset.
        plan: The plan.
        exists: Whether the dataset was already built; then nothing was written.
    """

    dataset_uri: str
    plan: DatasetPlan
    exists: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedWork:
    """A dataset's id, one work item for each builder pod, and a few facts about the dataset."""

    dataset_id: str
    items: tuple[str, ...]
    facts: dict[str, int]


def plan_work(parameters: Parameters) -> PlannedWork:
    """Plan the dataset of a pipeline run and divide it among builder pods.

    Returns:
        The work; a single item if the dataset exists.

    Raises:
        UsageError: The gate is to decide on a test split that the dataset does not have.
        RepotError: As `plan_dataset`.
    """
    run = parameters.run
    planned = plan_dataset(
        PictureRoots(pictures_uri=run.pictures_uri),
        dataset_folder=lambda dataset_id: layout.dataset_uri(run.storage_uri, dataset_id),
        listings_uri=layout.listings_uri(run.storage_uri),
        settings=parameters.dataset,
        labels_file_uri=run.labels_file_uri,
        inputs=parameters.inputs,
        unpacked_uri=layout.unpacked_uri(run.storage_uri),
        newest_uri=layout.newest_dataset_uri(run.storage_uri, run.pictures_uri),
        max_rejected_fraction=parameters.gate.max_rejected_fraction,
    )
    facts = _facts(planned.plan)
    if parameters.gate.gate_split == "test" and not facts["test_pictures"]:
        raise UsageError(
            "gate_split must be validation if there is no test split; got gate_split='test'. Add a "
            "test/ folder, or let repot take one from the pictures with --test-fraction."
        )
    dataset_id, num_shards = planned.plan.dataset_id, len(planned.plan.shard_names)
    num_shares = 1 if planned.exists else min(run.builder_pods, num_shards)
    items = tuple(
        Share(
            dataset_id=dataset_id,
            share_index=index,
            num_shares=num_shares,
            limits=DataLimits.from_settings(parameters.gate),
            storage_uri=run.storage_uri,
        ).to_item()
        for index in range(num_shares)
    )
    return PlannedWork(dataset_id=dataset_id, items=items, facts=facts)


def _facts(plan: DatasetPlan) -> dict[str, int]:
    """Return what KFP shows of a dataset, before its pictures are decoded."""
    num_pictures: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    for name, count in plan.num_pictures.items():
        num_pictures[shard_split(name)] += count
    return {
        "num_labels": len(plan.labels),
        "train_pictures": num_pictures["train"],
        "validation_pictures": num_pictures["validation"],
        "test_pictures": num_pictures["test"],
        "rejected": len(plan.rejected),
    }


def plan_dataset(
    roots: PictureRoots,
    *,
    dataset_folder: Callable[[str], str],
    listings_uri: str | None,
    settings: DatasetSettings,
    labels_file_uri: str = "",
    inputs: InputSettings = _NO_INPUT_SETTINGS,
    unpacked_uri: str = "",
    newest_uri: str = "",
    max_rejected_fraction: float = 1.0,
) -> PlannedDataset:
    """List the pictures and write the plan of their dataset, unless the dataset exists.

    The dataset id depends on the names, bytes, labels and splits of the pictures, on the columns of
    scored ones, and on the shard layout. It does not depend on the location of the pictures, on the
    format of the input, nor on files that are rejected for one of `EXEMPT_REASONS`.

    Args:
        roots: Location of the pictures.
        dataset_folder: Returns the folder of the dataset with a given id.
        listings_uri: Folder of cached checksums; None disables the cache.
        settings: How pictures become shards.
        labels_file_uri: File with one label per line, in the order of their ids; "" uses the folder
            names, sorted.
        inputs: The format of the pictures, and files with more about them.
        unpacked_uri: Folder for archives that must be unpacked; "" refuses them.
        newest_uri: File that names the newest dataset of these pictures in the `stable` layout, on
            which this one is built; "" builds on none.
        max_rejected_fraction: Largest fraction of rejected files, in [0, 1]. The last builder
            checks it for all files; the planner already reports files in subfolders.

    Raises:
        UsageError: A folder, the labels file or the target is wrong; all problems are listed.
        DataError: The pictures do not make a usable dataset; all problems are listed.
        StorageError: Reading or writing failed.
    """
    raise_problems(usage=find_overlap(roots, dataset_folder("")))
    lines = read_labels(labels_file_uri) if labels_file_uri else None
    options = ReadOptions(
        input_format=inputs.input_format,
        listed_labels=lines,
        nested=settings.nested,
        crop_to_boxes=settings.crop_to_boxes,
        listings_uri=listings_uri,
        unpacked_uri=unpacked_uri,
    )
    inventory = read_inventory(roots, options)
    with without_garbage_collection():
        return _plan_inventory(
            inventory,
            roots,
            dataset_folder=dataset_folder,
            listings_uri=listings_uri,
            settings=settings,
            lines=lines,
            labels_file_uri=labels_file_uri,
            inputs=inputs,
            newest_uri=newest_uri,
            max_rejected_fraction=max_rejected_fraction,
        )


def _plan_inventory(
    inventory: Inventory,
    roots: PictureRoots,
    *,
    dataset_folder: Callable[[str], str],
    listings_uri: str | None,
    settings: DatasetSettings,
    lines: Sequence[str] | None,
    labels_file_uri: str,
    inputs: InputSettings,
    newest_uri: str,
    max_rejected_fraction: float,
) -> PlannedDataset:
    """Plan the dataset of the pictures that were found; otherwise as `plan_dataset`."""
    inventory = _annotate(inventory, inputs, lines, settings)
    labels = tuple(lines or inventory.label_order or sorted(inventory.labels))
    labels_file_problems = find_labels_file_problems(
        lines or (), inventory.all_folders, labels_file_uri
    )
    if not inventory.candidates:
        raise_problems(usage=labels_file_problems)  # further problems would only follow from them
    raise_problems(
        usage=labels_file_problems,
        data=[
            *find_layout_problems(inventory, max_rejected_fraction=max_rejected_fraction),
            *find_label_name_problems(inventory.labels),
            *find_label_count_problems(
                {*labels, *inventory.folders_without_files}, inventory.empty_label_folders
            ),
            *find_picture_count_problems(inventory, inventory.labels),
        ],
    )
    inventory = _with_checksums(inventory, roots, listings_uri)
    corrections = ""
    if inputs.corrections_file_uri:
        inventory, corrections = apply_corrections(inventory, inputs.corrections_file_uri, labels)
    raise_problems(data=find_picture_count_problems(inventory, labels))
    pictures, split_warnings = _split(inventory, labels, settings)
    raise_problems(data=_find_split_problems(pictures))
    settings = _with_num_shards(settings, pictures)
    shards = _assign_to_shards(pictures, settings)
    plan = DatasetPlan(
        dataset_id=_dataset_id(pictures, settings),
        pictures_uri=roots.description,
        labels=labels,
        settings=settings,
        num_pictures={name: len(shard) for name, shard in shards.items()},
        num_found=inventory.num_found,
        rejected=inventory.rejected,
        empty_label_folders=inventory.empty_label_folders,
    )
    _announce(pictures, split_warnings)
    dataset_uri = dataset_folder(plan.dataset_id)
    is_stable = settings.shard_layout == STABLE_LAYOUT
    was_written = write_plan(
        dataset_uri,
        plan,
        lambda name: [pictures.source(number) for number in shards[name]],
        base=_find_base(newest_uri, dataset_uri) if is_stable else None,
    )
    if corrections:
        storage.write_text(storage.join(dataset_uri, layout.CORRECTIONS_NAME), corrections)
    return PlannedDataset(dataset_uri=dataset_uri, plan=plan, exists=not was_written)


def _find_base(newest_uri: str, dataset_uri: str) -> BaseDataset | None:
    """Return what a dataset can be built on: another one."""
    if not newest_uri:
        return None
    try:
        newest = read_record(newest_uri, NewestDataset).dataset_uri
    except NotFoundError:
        newest = ""
    except DataError as err:
        _log.warning("%s", err)
        newest = ""
    base_uri = newest if newest != dataset_uri else ""
    return BaseDataset(base_uri=base_uri, newest_uri=newest_uri)


def _annotate(
    inventory: Inventory,
    inputs: InputSettings,
    lines: Sequence[str] | None,
    settings: DatasetSettings,
) -> Inventory:
    """Add texts of synsets and bounding boxes, from files of their own, and crop to the boxes."""
    labels = {*inventory.labels, *(lines or ())}
    if settings.crop_to_boxes and not lines:
        # A manifest states the label of each box; an annotation may name other things too.
        labels |= {box.label for each in inventory.candidates for box in each.boxes} - {""}
    if inputs.imagenet_metadata_file_uri:
        inventory = add_texts(inventory, inputs.imagenet_metadata_file_uri, labels)
    if inputs.bounding_box_file_uri:
        inventory = add_boxes(
            inventory,
            inputs.bounding_box_file_uri,
            labels,
            several_labels=settings.crop_to_boxes,
        )
    if not settings.crop_to_boxes:
        return inventory
    if not inventory.has_boxes:
        raise UsageError(
            "crop_to_boxes must have bounding boxes; the pictures have none. Give them with "
            "--bounding-box-file, or in the columns xmin, ymin, xmax and ymax of a manifest."
        )
    return crop_to_boxes(inventory, labels)


def raise_problems(*, usage: Sequence[str] = (), data: Sequence[str] = ()) -> None:
    """Raise all problems as one error, if there are any.

    Raises:
        UsageError: Some problems concern options.
        DataError: All problems concern the pictures.
    """
    if usage:
        raise UsageError([*usage, *data])
    if data:
        raise DataError("\n".join(data))


def _announce(pictures: "_SplitPictures", split_warnings: Sequence[str]) -> None:
    """Tell the user what was found and what is suspicious."""
    inventory = pictures.inventory
    for line in describe_dataset(pictures.class_counts(), inventory.rejected):
        progress.notice("plan", line)
    for warning in (*find_suspicious_labels(inventory), *split_warnings):
        progress.notice("plan", warning, is_warning=True)


def _with_checksums(
    inventory: Inventory, roots: PictureRoots, listings_uri: str | None
) -> Inventory:
    """Add the checksum of every candidate; reject files that cannot be read."""
    # A picture that is cropped to several boxes is several candidates.
    distinct = {
        candidate.file.uri: candidate.file
        for candidate in inventory.candidates
        if not candidate.file.crc32c
    }
    if not distinct:
        return inventory
    _, unreadable = add_checksums([*distinct.values()], roots, listings_uri)
    for candidate in inventory.candidates:
        if not candidate.file.crc32c:
            candidate.file.crc32c = distinct[candidate.file.uri].crc32c
    if not unreadable:
        return inventory
    rejected = [
        _reject_unreadable(candidate, unreadable[candidate.file.uri])
        for candidate in inventory.candidates
        if not candidate.file.crc32c
    ]
    return dataclasses.replace(
        inventory,
        candidates=tuple(each for each in inventory.candidates if each.file.crc32c),
        rejected=tuple(
            sorted([*inventory.rejected, *rejected], key=lambda rejection: rejection.path)
        ),
    )


def _reject_unreadable(candidate: CandidatePicture, detail: str) -> Rejection:
    return Rejection(
        path=candidate.file.path,
        label=candidate.label,
        split=candidate.split,
        reason="unreadable",
        detail=detail,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _SplitPictures:
    """The pictures of a dataset by their numbers in the inventory.

    A million `SourcePicture`s would need as much memory as all of the rest, so each is made when
    it is needed, and dropped.

    Attributes:
        inventory: The pictures, with checksums.
        labels: All labels; labels[i] has class id i + 1.
        splits: The split of each picture.
        groups: What names the group of each picture, see `group_digests`.
        by_split: The numbers of the pictures of each split, sorted by class id, name and content.
            So the order does not depend on folders, of which other inputs know nothing.
        class_ids: The labels' numbers.
        is_plain: Whether no picture has more than a name, a content, a label and a split.
    """

    inventory: Inventory
    labels: tuple[str, ...]
    splits: Sequence[Split]
    groups: Sequence[str]
    by_split: Mapping[Split, Sequence[int]]
    class_ids: Mapping[str, int]
    is_plain: bool

    def source(self, number: int) -> SourcePicture:
        """Return what a builder needs to know of a picture."""
        inventory = self.inventory
        candidate = inventory.candidates[number]
        file, label = candidate.file, candidate.label
        return SourcePicture(
            label=label,
            class_id=self.class_ids[label],
            uri=file.uri,
            path=file.path,
            size_bytes=file.size_bytes,
            crc32c=file.crc32c,
            version=file.version,
            part=file.part,
            text=inventory.texts.get(label, ""),
            boxes=candidate.boxes if inventory.has_boxes else None,
            crop=candidate.crop,
            # Only training divides a split further.
            group=self.groups[number] if self.splits[number] == "train" else "",
            # Only the other splits are scored.
            columns=candidate.columns if self.splits[number] != "train" else (),
        )

    def content(self, number: int) -> str:
        """Return what identifies a picture's bytes and what it is cropped to."""
        candidate = self.inventory.candidates[number]
        return content_key(candidate.file.crc32c, candidate.file.size_bytes, candidate.crop)

    def class_counts(self) -> dict[Split, dict[str, int]]:
        """Return the number of pictures by split and label."""
        counts: dict[Split, dict[str, int]] = {
            split: dict.fromkeys(self.labels, 0) for split in SPLITS
        }
        for candidate, split in zip(self.inventory.candidates, self.splits, strict=True):
            counts[split][candidate.label] += 1
        return counts


def _split(
    inventory: Inventory, labels: tuple[str, ...], settings: DatasetSettings
) -> tuple[_SplitPictures, list[str]]:
    """Return the pictures of each split, and warnings."""
    candidates, pattern = inventory.candidates, settings.group_pattern
    groups = find_groups(candidates, pattern)
    splits = split_pictures(
        candidates,
        groups,
        validation_fraction=settings.validation_fraction,
        test_fraction=settings.test_fraction,
    )
    warnings = find_split_warnings(candidates, groups, splits, group_pattern=pattern)

    def order(number: int) -> tuple[object, ...]:
        file, crop = candidates[number].file, candidates[number].crop
        edges = (crop.xmin, crop.ymin, crop.xmax, crop.ymax) if crop else ()
        return file.name, file.crc32c, file.size_bytes, edges

    by_label: dict[str, list[int]] = defaultdict(list)
    for number, candidate in enumerate(candidates):
        by_label[candidate.label].append(number)
    by_split: dict[Split, list[int]] = {split: [] for split in SPLITS}
    # Label by label, so that the sort keys of one label at a time are in memory.
    for label in labels:
        for number in sorted(by_label[label], key=order):
            by_split[splits[number]].append(number)
    digests = group_digests(candidates, groups)
    return _SplitPictures(
        inventory=inventory,
        labels=labels,
        splits=splits,
        groups=digests,
        by_split=by_split,
        class_ids={label: class_id for class_id, label in enumerate(labels, start=1)},
        is_plain=not (
            inventory.texts
            or inventory.has_boxes
            or any(digests)
            or any(candidate.crop or candidate.columns for candidate in candidates)
        ),
    ), warnings


def _find_split_problems(pictures: _SplitPictures) -> list[str]:
    """Check that every label can be trained and that there is something to validate on."""
    problems = []
    num_trained = pictures.class_counts()["train"]
    if untrained := [label for label, number in num_trained.items() if not number]:
        problems.append(
            "Every label must have a picture to train on; these have none: "
            f"{join_names(map(repr, untrained))}. Add pictures, or remove the labels."
        )
    if not pictures.by_split["validation"]:
        problems.append(
            "Validation must have a picture; it has none, because the pictures of each label are "
            "copies of one picture, or belong to one group. Add other pictures, or correct "
            "the groups (--group-pattern, setting group_pattern)."
        )
    return problems


def _with_num_shards(settings: DatasetSettings, pictures: _SplitPictures) -> DatasetSettings:
    """Return the settings with shard counts of 0 replaced by the chosen number."""

    def resolve(requested: int, split: Split) -> int:
        num_pictures = len(pictures.by_split[split])
        if split == "test" and not num_pictures:
            return 0
        if settings.shard_layout == STABLE_LAYOUT:
            chosen = sharding.choose_num_stable_shards(num_pictures)
        else:
            chosen = sharding.choose_num_shards(num_pictures, settings.num_threads)
        num_shards = requested or chosen
        if num_shards > num_pictures:
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


def _assign_to_shards(
    pictures: _SplitPictures, settings: DatasetSettings
) -> dict[str, Sequence[int]]:
    """Return the numbers of the pictures of every shard of all splits, by shard name."""
    shards: dict[str, Sequence[int]] = {}
    for split, num_shards in _num_shards(settings).items():
        numbers = pictures.by_split[split]
        if settings.shard_layout == STABLE_LAYOUT:
            assigned = [
                [numbers[i] for i in shard]
                for shard in sharding.assign_to_stable_shards(
                    [content_hash(pictures.content(number)) for number in numbers],
                    num_shards=num_shards,
                )
            ]
        else:
            assigned = sharding.assign_to_shards(
                numbers, num_shards=num_shards, num_threads=settings.num_threads
            )
        shards |= {
            shard_name(split, index, num_shards): shard for index, shard in enumerate(assigned)
        }
    return shards


def _identity(pictures: _SplitPictures, number: int, split: Split) -> tuple[object, ...]:
    """Return what makes a picture's record what it is, whatever input it comes from."""
    candidate = pictures.inventory.candidates[number]
    file = candidate.file
    identity = file.name, file.size_bytes, file.crc32c, candidate.label, split
    if pictures.is_plain:
        return identity
    picture = pictures.source(number)
    if not (picture.text or picture.group or picture.crop or picture.columns) and (
        picture.boxes is None
    ):
        return identity
    boxes = None if picture.boxes is None else [_edges(box) for box in picture.boxes]
    crop = _edges(picture.crop) if picture.crop else None
    return *identity, picture.text, boxes, crop, picture.group, picture.columns


def _edges(box: Box) -> list[float]:
    """Return the edges of a box as records store them, in single precision."""
    return [float(np.float32(getattr(box, edge))) for edge in BOX_EDGES]


def _dataset_id(pictures: _SplitPictures, settings: DatasetSettings) -> str:
    """Return the id of the dataset, which does not depend on the order of its pictures."""
    digests = np.fromiter(
        (
            # The text of a tuple of texts, numbers, lists and tuples is unambiguous.
            hashlib.sha256(ascii(_identity(pictures, number, split)).encode()).digest()
            for split in SPLITS
            for number in pictures.by_split[split]
        ),
        "S32",
        len(pictures.splits),
    )
    digests.sort()
    content = {
        "format": FORMAT_VERSION,
        "labels": pictures.labels,
        "num_shards": _num_shards(settings),
        "num_threads": settings.num_threads,
        "layout": settings.shard_layout,
        "pictures": hashlib.sha256(digests.tobytes()).hexdigest(),
        "rejected": [
            (item.path, item.reason)
            for item in pictures.inventory.rejected
            if item.reason not in EXEMPT_REASONS
        ],
    }
    return layout.content_id(content)
