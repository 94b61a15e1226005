"""The plan of a data set on storage: what every builder works from.

<data set>/work/<shard>.json   the pictures of one shard, in the order of its records
<data set>/plan.json           written after them: labels, settings, the shards and their numbers of pictures
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from repot import storage
from repot.errors import DataError, NotFoundError, UsageError
from repot.manifest import MANIFEST_NAME, RECEIPTS_FOLDER, Rejection

PLAN_NAME = "plan.json"
WORK_FOLDER = "work"

_NUM_WRITERS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePicture:
    """A file that is to become a record.

    Attributes:
        uri: Where it is.
        path: Its path relative to PICTURES.
        label: The name of its class.
        class_id: The number of its class, in 1..N.
        size_bytes: Its size when it was listed.
        crc32c: CRC32C of its bytes, 8 hex digits.
        version: Its version when it was listed, see `repot.storage.ObjectInfo`.
    """

    uri: str
    path: str
    label: str
    class_id: int
    size_bytes: int
    crc32c: str
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetPlan:
    """What a data set is going to be.

    Attributes:
        dataset_uri: Its folder.
        dataset_id: Its content id.
        pictures_uri: Where the pictures are.
        labels: Label names; labels[i] has class id i + 1.
        settings: The DatasetSettings as JSON, shard counts resolved.
        num_pictures: Pictures by shard, rejected ones included.
        num_found: Files found.
        rejected: Files that are no pictures by their path, or cannot be read.
        exists: Whether the data set is there already; then nothing was written.
    """

    dataset_uri: str
    dataset_id: str
    pictures_uri: str
    labels: tuple[str, ...]
    settings: dict[str, Any]
    num_pictures: dict[str, int]
    num_found: int
    rejected: tuple[Rejection, ...]
    exists: bool = False

    @property
    def shard_names(self) -> list[str]:
        """Return the names of all shards, sorted."""
        return sorted(self.num_pictures)


def write_unless_existing(
    plan: DatasetPlan, shards: Mapping[str, Sequence[SourcePicture]]
) -> DatasetPlan:
    """Write the work lists and the plan, and return it; if the data set exists, only say so.

    Raises:
        UsageError: The folder holds another data set.
    """
    manifest_uri = storage.join(plan.dataset_uri, MANIFEST_NAME)
    existing = storage.read_json(manifest_uri) if storage.exists(manifest_uri) else None
    existing_id = (
        existing.get("dataset_id", "something else")
        if isinstance(existing, dict)
        else "something else"
    )
    if existing_id == plan.dataset_id:
        return dataclasses.replace(plan, exists=True)
    if existing is not None:
        raise UsageError(
            f"The output folder must be empty or hold this very data set, {plan.dataset_id}; {plan.dataset_uri} holds "
            f"{existing_id}, of other pictures or settings. Choose another folder, or delete that data set."
        )
    _clear_unfinished(plan.dataset_uri, plan.dataset_id)
    _write(plan, shards)
    return plan


def read_plan(dataset_uri: str) -> DatasetPlan:
    """Return the plan of a data set.

    Raises:
        DataError: There is none.
    """
    try:
        facts = storage.read_json(storage.join(dataset_uri, PLAN_NAME))
    except NotFoundError as err:
        raise DataError(
            f"A data set must be planned before it is built; {dataset_uri} has no {PLAN_NAME}."
        ) from err
    rejected = tuple(Rejection(**item) for item in facts["rejected"])
    return DatasetPlan(
        **{
            **facts,
            "dataset_uri": dataset_uri,
            "labels": tuple(facts["labels"]),
            "rejected": rejected,
        }
    )


def read_work(dataset_uri: str, shard: str) -> list[SourcePicture]:
    """Return the pictures of one shard.

    Raises:
        DataError: The shard is not in the plan.
    """
    try:
        facts = storage.read_json(_work_uri(dataset_uri, shard))
    except NotFoundError as err:
        raise DataError(
            f"A shard must be in the plan; {dataset_uri} has no work list for {shard}."
        ) from err
    return [SourcePicture(**item) for item in facts["pictures"]]


def _write(plan: DatasetPlan, shards: Mapping[str, Sequence[SourcePicture]]) -> None:
    """Write the work list of every shard, then the plan."""

    def write_list(name: str) -> None:
        pictures = [dataclasses.asdict(picture) for picture in shards[name]]
        storage.write_json(_work_uri(plan.dataset_uri, name), {"shard": name, "pictures": pictures})

    with ThreadPoolExecutor(_NUM_WRITERS) as writers:
        list(writers.map(write_list, plan.shard_names))
    facts = dataclasses.asdict(plan)
    del facts["dataset_uri"], facts["exists"]
    storage.write_json(storage.join(plan.dataset_uri, PLAN_NAME), facts)


def _clear_unfinished(dataset_uri: str, dataset_id: str) -> None:
    """Delete what an unfinished data set of another id left in the folder, and nothing else."""
    plan_uri = storage.join(dataset_uri, PLAN_NAME)
    if not storage.exists(plan_uri) or storage.read_json(plan_uri)["dataset_id"] == dataset_id:
        return
    storage.delete_folder(storage.join(dataset_uri, RECEIPTS_FOLDER))
    for shard in read_plan(dataset_uri).shard_names:
        storage.delete(storage.join(dataset_uri, shard))
    storage.delete_folder(storage.join(dataset_uri, WORK_FOLDER))
    storage.delete(plan_uri)


def _work_uri(dataset_uri: str, shard: str) -> str:
    return storage.join(dataset_uri, WORK_FOLDER, f"{shard}.json")


_ITEM = re.compile(r"([0-9a-f]{16}):(\d{1,5})/(\d{1,5})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One pod's part of a data set: part `share_index` in [0, num_shares)."""

    dataset_id: str
    share_index: int
    num_shares: int


def format_item(share: Share) -> str:
    """Return the loop item `<dataset_id>:<share_index>/<num_shares>`."""
    return f"{share.dataset_id}:{share.share_index}/{share.num_shares}"


def parse_item(item: str) -> Share:
    """Return the share that a loop item names.

    Raises:
        UsageError: It is not a loop item.
    """
    match = _ITEM.fullmatch(item)
    if not match or not int(match[2]) < int(match[3]):
        raise UsageError(
            f"A work item must look like <dataset_id>:<share_index>/<num_shares>, the index below the number; "
            f"got item={item!r}. Take the items from `plan`."
        )
    return Share(dataset_id=match[1], share_index=int(match[2]), num_shares=int(match[3]))


def share_of(shard_names: Sequence[str], share_index: int, num_shares: int) -> list[str]:
    """Return the shards of one share, dealt round-robin (share_index in [0, num_shares))."""
    return list(shard_names[share_index::num_shares])
