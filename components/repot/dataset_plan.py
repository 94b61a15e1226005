"""The plan of a dataset: written by the planner, read by every shard builder.

    <dataset>/plan.json   written after the work lists (see `repot.work_list`): labels, settings and
                          shard sizes
    <dataset>/base.json   the earlier dataset that this one is built on, if it can be

Each builder pod gets one share of the plan, as a work item.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from repot import storage
from repot.data_checks import DataLimits
from repot.errors import DataError, NotFoundError, UsageError
from repot.json_record import JsonRecord, read_record, write_record
from repot.layout import (
    BASE_NAME,
    CHECKSUMS_NAME,
    DATASET_PARTS,
    LABELS_NAME,
    MANIFEST_NAME,
    PLAN_NAME,
    RECEIPTS_FOLDER,
)
from repot.manifest import Rejection
from repot.settings import DatasetSettings
from repot.work_list import SourcePicture, write_work_list

# Writers of work lists, and pictures that they may have in memory together: 0.4 KB each.
_NUM_WRITERS, _MAX_PICTURES = 16, 16 * 1024
_NUMBER = r"-?[0-9.]+(?:e-?[0-9]+)?"
_ITEM = re.compile(
    r"([0-9a-f]{16}):(\d{1,5})/(\d{1,5})(?:@([\w.-]{1,100}))?"
    rf":({_NUMBER}(?:,{_NUMBER}){{3}}):(.+)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetPlan(JsonRecord):
    """What a dataset will contain.

    Attributes:
        dataset_id: The dataset's content id.
        pictures_uri: The folder or folders of the pictures.
        labels: Label names; labels[i] has class id i + 1.
        settings: The settings of the dataset, shard counts resolved.
        num_pictures: Number of pictures per shard, before any is rejected.
        num_found: Number of files found.
        rejected: Files that cannot be read, or whose path shows that they are not pictures of a
            label.
        empty_label_folders: Paths of label folders without a file that could be a picture.
    """

    dataset_id: str
    pictures_uri: str
    labels: tuple[str, ...]
    settings: DatasetSettings
    num_pictures: dict[str, int]
    num_found: int
    rejected: tuple[Rejection, ...]
    empty_label_folders: tuple[str, ...] = ()

    @property
    def shard_names(self) -> list[str]:
        """Return the names of all shards, sorted."""
        return sorted(self.num_pictures)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseDataset(JsonRecord):
    """What a dataset in the `stable` layout can be built on: an earlier one in the same storage.

    It decides where records are read from, and never what they are: without it, the same dataset
    is built.

    Attributes:
        base_uri: The earlier dataset; "" if there is none.
        newest_uri: The file that the last builder makes name this dataset, for the next one.
    """

    base_uri: str
    newest_uri: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NewestDataset(JsonRecord):
    """The newest complete dataset of some pictures, in the `stable` layout."""

    dataset_uri: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The part of a dataset that one pod builds: part `share_index` in [0, num_shares).

    A work item has everything that a builder needs, because KFP's local runner replaces other
    inputs of a task in a loop by the item.

    Attributes:
        dataset_id, share_index, num_shares: The part.
        limits: What the run accepts of its pictures.
        storage_uri: Root of all stored files.
        run_id: The run that builds the dataset; "" if it exists. KFP takes equal items for equal
            work: it remembers that a dataset was built, but not that it was deleted since.
    """

    dataset_id: str
    share_index: int
    num_shares: int
    limits: DataLimits
    storage_uri: str
    run_id: str = ""

    def to_item(self) -> str:
        """Return the work item, see `from_item`."""
        share = f"{self.share_index}/{self.num_shares}"
        share += f"@{self.run_id}" if self.run_id else ""
        limits = ",".join(map(str, dataclasses.astuple(self.limits)))
        return f"{self.dataset_id}:{share}:{limits}:{self.storage_uri}"

    @classmethod
    def from_item(cls, item: str) -> Self:
        """Parse a work item.

        Raises:
            UsageError: The text is not a work item.
        """
        match = _ITEM.fullmatch(item)
        if not match or not int(match[2]) < int(match[3]):
            raise UsageError(
                "A work item must be <dataset_id>:<share_index>/<num_shares>[@<run id>]:"
                "<limits>:<storage_uri>, with the index below the number of shares; "
                f"got item={item!r}. Use the items that `plan` returned."
            )
        rejected, leaked, smallest, conflicts = match[5].split(",")
        return cls(
            dataset_id=match[1],
            share_index=int(match[2]),
            num_shares=int(match[3]),
            limits=DataLimits(
                max_rejected_fraction=float(rejected),
                max_leaked_fraction=float(leaked),
                min_pictures_per_label=int(smallest),
                max_conflicts=int(conflicts),
            ),
            storage_uri=match[6],
            run_id=match[4] or "",
        )

    def select(self, shard_names: Sequence[str]) -> list[str]:
        """Return the shards of this share; shards are assigned to shares round-robin."""
        return list(shard_names[self.share_index :: self.num_shares])


def is_built(dataset_uri: str, dataset_id: str) -> bool:
    """Return whether a folder contains a dataset with its manifest.

    Raises:
        UsageError: It contains another dataset, or the manifest of another program.
    """
    manifest_uri = storage.join(dataset_uri, MANIFEST_NAME)
    try:
        manifest = storage.read_json(manifest_uri)
    except NotFoundError:
        return False
    existing_id = manifest.get("dataset_id") if isinstance(manifest, dict) else None
    if existing_id != dataset_id:
        content = (
            f"dataset {existing_id}, made from other pictures or settings"
            if existing_id
            else f"a {MANIFEST_NAME} that is not from a dataset"
        )
        raise UsageError(
            f"The output folder must be empty or contain dataset {dataset_id}; {dataset_uri} "
            f"contains {content}. Choose another folder, or delete its content."
        )
    return True


def write_plan(
    dataset_uri: str,
    plan: DatasetPlan,
    pictures_of: Callable[[str], Sequence[SourcePicture]],
    *,
    base: BaseDataset | None = None,
) -> None:
    """Write the work lists and the plan of a dataset that is not built yet, see `is_built`.

    Args:
        dataset_uri: Folder of the dataset.
        plan: The plan.
        pictures_of: Returns the pictures of a shard of the plan. It is called once per shard, so
            that only the pictures of a few shards are in memory.
        base: What the dataset is built on.
    """
    _clear_unfinished(dataset_uri, plan.dataset_id)

    def write(shard: str) -> None:
        write_work_list(dataset_uri, shard, pictures_of(shard))

    largest = max(plan.num_pictures.values(), default=0)
    num_writers = max(1, min(_NUM_WRITERS, _MAX_PICTURES // max(1, largest)))
    with ThreadPoolExecutor(num_writers) as writers:
        list(writers.map(write, plan.shard_names))
    if base:
        write_record(storage.join(dataset_uri, BASE_NAME), base)
    write_record(storage.join(dataset_uri, PLAN_NAME), plan)


def read_plan(dataset_uri: str) -> DatasetPlan:
    """Read the plan of a dataset.

    Raises:
        DataError: The dataset has no plan, or the plan is invalid.
    """
    try:
        return read_record(storage.join(dataset_uri, PLAN_NAME), DatasetPlan)
    except NotFoundError as err:
        raise DataError(
            f"A dataset must be planned before it is built; {dataset_uri} has no {PLAN_NAME}."
        ) from err


def read_base(dataset_uri: str) -> BaseDataset | None:
    """Return what a dataset is built on; None if nothing was stated.

    Raises:
        DataError: The file is invalid.
    """
    try:
        return read_record(storage.join(dataset_uri, BASE_NAME), BaseDataset)
    except NotFoundError:
        return None


def _clear_unfinished(dataset_uri: str, dataset_id: str) -> None:
    """Delete the files of an unfinished dataset with another id; keep all other files.

    Some files are part of a few datasets only, so another one would take over what is left.
    """
    plan_uri = storage.join(dataset_uri, PLAN_NAME)
    if not storage.exists(plan_uri):
        return
    unfinished = read_plan(dataset_uri)
    if unfinished.dataset_id == dataset_id:
        return
    # Receipts first: they say which shards are finished. The plan last: it names the shards.
    for part in (f"{RECEIPTS_FOLDER}/", *DATASET_PARTS, CHECKSUMS_NAME, *unfinished.shard_names):
        uri = storage.join(dataset_uri, part)
        if part.endswith("/"):
            storage.delete_folder(uri)
        elif part not in (PLAN_NAME, LABELS_NAME):  # labels.txt may be a user's labels file
            storage.delete(uri)
    storage.delete(plan_uri)
