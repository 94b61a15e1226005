"""Plan a dataset: its labels, splits, shards and id. All problems are reported at once."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from repot import layout, progress, storage
from repot.data_checks import DataLimits
from repot.dataset_description import describe_dataset
from repot.dataset_plan import (
    BaseDataset,
    DatasetPlan,
    NewestDataset,
    Share,
    is_built,
    read_plan,
    write_plan,
)
from repot.errors import DataError, NotFoundError, UsageError
from repot.json_record import read_record
from repot.manifest import SPLITS, Rejection, Split, shard_split
from repot.planner.arrangement import Arrangement, arrange_pictures
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
from repot.planner.listing import PictureRoots, find_overlap
from repot.planner.preflight import Parameters
from repot.settings import STABLE_LAYOUT, DatasetSettings, InputSettings

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
    """The work of a run's builders.

    Attributes:
        dataset_id: The dataset.
        is_built: Whether it exists already.
        items: A work item for each builder pod.
        facts: What KFP shows of the dataset.
    """

    dataset_id: str
    is_built: bool
    items: tuple[str, ...]
    facts: dict[str, int]


def plan_work(parameters: Parameters, *, run_id: str = "") -> PlannedWork:
    """Plan the dataset of a pipeline run and divide it among builder pods.

    Args:
        parameters: The checked parameters of the run.
        run_id: The run, see `Share`; "" outside KFP.

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
            run_id="" if planned.exists else run_id,
        ).to_item()
        for index in range(num_shares)
    )
    return PlannedWork(dataset_id=dataset_id, is_built=planned.exists, items=items, facts=facts)


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
    base_uri: str = "",
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
        base_uri: An earlier dataset in the `stable` layout, to build on instead of the newest.
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
            *find_layout_problems(
                inventory,
                max_rejected_fraction=max_rejected_fraction,
                has_labels_file=bool(lines),
            ),
            *find_label_name_problems(inventory.labels),
            *find_label_count_problems(
                {*labels, *inventory.folders_without_files},
                inventory.empty_label_folders,
                inventory.rejected,
            ),
            *find_picture_count_problems(inventory, inventory.labels),
        ],
    )
    inventory = _with_checksums(inventory, roots, listings_uri)
    corrections = ""
    if inputs.corrections_file_uri:
        inventory, corrections = apply_corrections(inventory, inputs.corrections_file_uri, labels)
    raise_problems(data=find_picture_count_problems(inventory, labels))
    arrangement = arrange_pictures(inventory, labels, settings)
    raise_problems(data=arrangement.find_problems())
    dataset_id = arrangement.dataset_id()
    dataset_uri = dataset_folder(dataset_id)
    exists = is_built(dataset_uri, dataset_id)
    num_pictures = _read_shard_sizes(dataset_uri) if exists else {}
    shards = {} if num_pictures else arrangement.assign_to_shards()
    plan = DatasetPlan(
        dataset_id=dataset_id,
        pictures_uri=roots.description,
        labels=labels,
        settings=arrangement.settings,
        num_pictures=num_pictures or {name: len(shard) for name, shard in shards.items()},
        num_found=inventory.num_found,
        rejected=inventory.rejected,
        empty_label_folders=inventory.empty_label_folders,
    )
    _announce(arrangement)
    if not exists:
        is_stable = settings.shard_layout == STABLE_LAYOUT
        write_plan(
            dataset_uri,
            plan,
            lambda name: [*map(arrangement.source, shards[name].tolist())],
            base=_find_base(base_uri, newest_uri, dataset_uri) if is_stable else None,
        )
        if corrections:
            storage.write_text(storage.join(dataset_uri, layout.CORRECTIONS_NAME), corrections)
    return PlannedDataset(dataset_uri=dataset_uri, plan=plan, exists=exists)


def _read_shard_sizes(dataset_uri: str) -> dict[str, int]:
    """Return the number of pictures per shard of a dataset that is built; empty if unknown."""
    try:
        return read_plan(dataset_uri).num_pictures
    except DataError:  # an earlier version wrote it
        return {}


def _find_base(base_uri: str, newest_uri: str, dataset_uri: str) -> BaseDataset | None:
    """Return what a dataset can be built on: another one."""
    if newest_uri and not base_uri:
        try:
            base_uri = read_record(newest_uri, NewestDataset).dataset_uri
        except NotFoundError:
            pass
        except DataError as err:
            _log.warning("%s", err)
    if not (base_uri or newest_uri):
        return None
    return BaseDataset(base_uri=base_uri if base_uri != dataset_uri else "", newest_uri=newest_uri)


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
        boxes = inventory.candidates.boxes.values()
        labels |= {box.label for each in boxes for box in each} - {""}
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


def _announce(arrangement: Arrangement) -> None:
    """Tell the user what was found and what is suspicious."""
    inventory = arrangement.inventory
    for line in describe_dataset(arrangement.class_counts(), inventory.rejected):
        progress.notice("plan", line)
    for warning in (*find_suspicious_labels(inventory), *arrangement.split_warnings):
        progress.notice("plan", warning, is_warning=True)


def _with_checksums(
    inventory: Inventory, roots: PictureRoots, listings_uri: str | None
) -> Inventory:
    """Add the checksum of every candidate; reject files that cannot be read."""
    pictures = inventory.candidates
    unreadable = add_checksums(pictures.files, roots, listings_uri)
    if not unreadable:
        return inventory
    rejected = [
        _reject_unreadable(pictures[number], unreadable) for number in pictures.files.unknown
    ]
    is_unknown = set(pictures.files.unknown)
    return dataclasses.replace(
        inventory,
        candidates=pictures.take([n for n in range(len(pictures)) if n not in is_unknown]),
        rejected=tuple(
            sorted([*inventory.rejected, *rejected], key=lambda rejection: rejection.path)
        ),
    )


def _reject_unreadable(candidate: CandidatePicture, unreadable: Mapping[str, str]) -> Rejection:
    return Rejection(
        path=candidate.file.path,
        label=candidate.label,
        split=candidate.split,
        reason="unreadable",
        detail=unreadable[candidate.file.uri],
    )
