"""What a data set is going to be: labels, split, shards and its id; everything that is wrong is said here, at once."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from repot import layout
from repot.dataset_plan import DatasetPlan, Share, SourcePicture, format_item, write_unless_existing
from repot.manifest import SPLITS, Rejection, Split, shard_name
from repot.pictures import EXEMPT_REASONS
from repot.planner import sharding
from repot.planner.checksums import add_checksums
from repot.planner.folders import FolderContents, LabelledFile, find_misplaced, sort_files
from repot.planner.labels import (
    find_label_problems,
    find_line_problems,
    find_name_problems,
    find_overlap,
    find_too_few_labels,
    raise_problems,
    read_labels,
)
from repot.planner.listing import PictureRoots, list_files
from repot.planner.preflight import Parameters
from repot.planner.split import split_pictures
from repot.settings import DatasetSettings

# Part of every data set's id: to be raised when the same pictures would give other shards.
FORMAT_VERSION = 1

_log = logging.getLogger(__name__)

PicturesBySplit = dict[Split, list[SourcePicture]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedWork:
    """A data set's id, and one loop item for each builder pod."""

    dataset_id: str
    items: tuple[str, ...]


def plan_work(parameters: Parameters) -> PlannedWork:
    """Plan the data set of a pipeline run; one item if it exists already. Raises as `plan_dataset`."""
    plan = plan_dataset(
        PictureRoots(pictures_uri=parameters.run.pictures_uri),
        dataset_folder=lambda dataset_id: layout.dataset_uri(
            parameters.run.storage_uri, dataset_id
        ),
        listings_uri=layout.listings_uri(parameters.run.storage_uri),
        settings=parameters.dataset,
        labels_file_uri=parameters.run.labels_file_uri,
    )
    num_shares = 1 if plan.exists else min(parameters.run.builder_pods, len(plan.shard_names))
    shares = [
        Share(dataset_id=plan.dataset_id, share_index=index, num_shares=num_shares)
        for index in range(num_shares)
    ]
    return PlannedWork(dataset_id=plan.dataset_id, items=tuple(map(format_item, shares)))


def plan_dataset(
    roots: PictureRoots,
    *,
    dataset_folder: Callable[[str], str],
    listings_uri: str | None,
    settings: DatasetSettings,
    labels_file_uri: str = "",
) -> DatasetPlan:
    """List the pictures and write what is to be done, unless the data set exists.

    Args:
        roots: Where the pictures are.
        dataset_folder: Gives the folder of a data set from its id.
        listings_uri: Folder that remembers checksums of local pictures; None remembers nothing.
        settings: How pictures become shards.
        labels_file_uri: One label a line, in the order of their ids; "" takes the names of the folders, sorted.

    Returns:
        The plan; its id depends on the pictures' paths, bytes, labels and splits and on the shards' layout, and not on
        where the pictures lie nor on files that are no pictures anyway (`EXEMPT_REASONS`).

    Raises:
        UsageError: A folder, the labels file or the target is wrong; every problem is listed.
        DataError: The pictures cannot make a data set; every problem is listed.
    """
    raise_problems(usage=find_overlap(roots, dataset_folder("")))
    files = list_files(roots)
    lines = read_labels(labels_file_uri) if labels_file_uri else None
    contents = sort_files(files, listed_labels=lines)
    labels = tuple(sorted(contents.labels) if lines is None else lines)
    raise_problems(
        usage=find_line_problems(lines, contents.labels, labels_file_uri)
        if lines is not None
        else (),
        data=[
            *find_misplaced(contents),
            *find_name_problems(contents.labels),
            *find_too_few_labels({*labels, *contents.hollow}),
            *find_label_problems(contents, contents.labels),
        ],
    )
    contents = _with_checksums(contents, roots, listings_uri)
    raise_problems(data=find_label_problems(contents, labels))
    pictures = _pictures_by_split(contents, labels, settings.validation_fraction)
    settings = _with_num_shards(settings, pictures)
    dataset_id = _dataset_id(pictures, labels, settings, contents.rejected)
    shards = _deal_all(pictures, settings)
    plan = DatasetPlan(
        dataset_uri=dataset_folder(dataset_id),
        dataset_id=dataset_id,
        pictures_uri=roots.description,
        labels=labels,
        settings=settings.to_json(),
        num_pictures={name: len(shard) for name, shard in shards.items()},
        num_found=len(files),
        rejected=contents.rejected,
    )
    return write_unless_existing(plan, shards)


def _with_checksums(
    contents: FolderContents, roots: PictureRoots, listings_uri: str | None
) -> FolderContents:
    """Return the contents with every picture's checksum; what cannot be read is rejected."""
    files, unreadable = add_checksums(
        [labelled.file for labelled in contents.files], roots, listings_uri
    )
    by_uri = {file.uri: file for file in files}
    rejected = [*contents.rejected]
    labelled_files = []
    for labelled in contents.files:
        if labelled.file.uri in by_uri:
            labelled_files.append(dataclasses.replace(labelled, file=by_uri[labelled.file.uri]))
        else:
            rejected.append(_unreadable(labelled, unreadable[labelled.file.path]))
    rejected.sort(key=lambda rejection: rejection.path)
    return dataclasses.replace(contents, files=tuple(labelled_files), rejected=tuple(rejected))


def _unreadable(labelled: LabelledFile, words: str) -> Rejection:
    return Rejection(
        path=labelled.file.path,
        label=labelled.label,
        split=labelled.split or "",
        reason="unreadable",
        detail=words,
    )


def _pictures_by_split(
    contents: FolderContents, labels: Sequence[str], validation_fraction: float
) -> PicturesBySplit:
    """Return the pictures of each split, by class id and then by path."""
    class_ids = {label: class_id for class_id, label in enumerate(labels, start=1)}
    splits = split_pictures(
        ((labelled.file.path, labelled.label) for labelled in contents.files), validation_fraction
    )
    pictures: PicturesBySplit = {split: [] for split in SPLITS}
    for labelled in sorted(contents.files, key=lambda labelled: class_ids[labelled.label]):
        picture = SourcePicture(
            label=labelled.label,
            class_id=class_ids[labelled.label],
            **dataclasses.asdict(labelled.file),
        )
        pictures[labelled.split or splits[labelled.file.path]].append(picture)
    return pictures


def _with_num_shards(settings: DatasetSettings, pictures: PicturesBySplit) -> DatasetSettings:
    """Return the settings with the numbers of shards that were left to us."""

    def resolved(requested: int, split: Split) -> int:
        num_pictures = len(pictures[split])
        num_shards = requested or sharding.choose_num_shards(num_pictures, settings.num_threads)
        if num_shards > num_pictures:
            _log.warning(
                "%s: %d shards for %d pictures, some will be empty", split, num_shards, num_pictures
            )
        return num_shards

    return dataclasses.replace(
        settings,
        train_shards=resolved(settings.train_shards, "train"),
        validation_shards=resolved(settings.validation_shards, "validation"),
    )


def _num_shards(settings: DatasetSettings) -> dict[Split, int]:
    return {"train": settings.train_shards, "validation": settings.validation_shards}


def _dataset_id(
    pictures: PicturesBySplit,
    labels: Sequence[str],
    settings: DatasetSettings,
    rejected: Sequence[Rejection],
) -> str:
    rows = [
        (picture.path, picture.size_bytes, picture.crc32c, picture.label, split)
        for split in SPLITS
        for picture in pictures[split]
    ]
    facts = {
        "format": FORMAT_VERSION,
        "labels": labels,
        "num_shards": _num_shards(settings),
        "num_threads": settings.num_threads,
        "pictures": sorted(rows),
        "rejected": [
            (item.path, item.reason) for item in rejected if item.reason not in EXEMPT_REASONS
        ],
    }
    return layout.content_id(facts)


def _deal_all(
    pictures: PicturesBySplit, settings: DatasetSettings
) -> dict[str, list[SourcePicture]]:
    """Return the pictures of every shard of both splits, by the shard's name."""
    return {
        shard_name(split, index, num_shards): shard
        for split, num_shards in _num_shards(settings).items()
        for index, shard in enumerate(
            sharding.deal(pictures[split], num_shards=num_shards, num_threads=settings.num_threads)
        )
    }
