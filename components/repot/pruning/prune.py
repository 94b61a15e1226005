"""Find what a storage no longer needs, and delete it on request."""

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from repot import layout, storage
from repot.errors import StorageError, UsageError
from repot.json_record import JsonRecord
from repot.pruning.delete import Deleter
from repot.pruning.inventory import Unit, take_inventory
from repot.pruning.retention import Decision, Limits, decide

MIN_AGE_SECONDS = 24 * 3600.0
"""A run may write nothing for hours, while it waits for a GPU or in a long epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunedUnit(JsonRecord):
    """Something that a storage has.

    Attributes:
        kind: What it is, see `repot.pruning.inventory.Kind`.
        name: Its folder or file under the storage URI.
        num_files, size_bytes: Its files, and their size.
        written_at: When something in it was last written, in UTC.
        is_kept: Whether it is needed.
        reason: Why, or why not.
        is_deleted: Whether it was deleted.
    """

    kind: str
    name: str
    num_files: int
    size_bytes: int
    written_at: str
    is_kept: bool
    reason: str
    is_deleted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneReport(JsonRecord):
    """What `repot prune` found and did.

    Attributes:
        storage_uri: Root of all stored files.
        older_than_seconds, keep_versions: What is kept whatever else is true.
        is_dry_run: Whether nothing was to be deleted.
        total_bytes: Size of everything.
        removable_bytes: How much deleting the rest frees.
        num_deleted_files: Files that were deleted.
        units: Everything, by name.
    """

    storage_uri: str
    older_than_seconds: float
    keep_versions: int
    is_dry_run: bool
    total_bytes: int
    removable_bytes: int
    num_deleted_files: int
    units: tuple[PrunedUnit, ...]


def prune(
    storage_uri: str, limits: Limits, *, delete: bool, now: float | None = None
) -> PruneReport:
    """Find what a storage does not need, and delete it on request.

    Args:
        storage_uri: Root of all stored files.
        limits: What is kept.
        delete: Delete the rest.
        now: The present time, in seconds since 1970; None for that of the store's clock, or of
            this machine's if nothing is to be deleted.

    Raises:
        UsageError: The storage has nothing that repot stored.
        ModelError: A champion.json is damaged.
        DataError: The record of something that is kept is damaged.
        StorageError: Something cannot be read, or cannot be deleted.
    """
    uri = storage.normalise(storage_uri)
    if now is None:
        has_clock = delete and _has_content(uri)
        now = storage.read_clock(layout.uses_uri(uri)) if has_clock else time.time()
    inventory = take_inventory(uri)
    if not inventory.units:
        raise UsageError(
            f"The storage to prune must have something that repot stored; {uri} has nothing. "
            "Check --storage-uri."
        )
    decisions, uses = decide(inventory, limits, now=now)
    removable = [decision.unit for decision in decisions if not decision.is_kept]
    deleter = Deleter(
        uri,
        cutoff=now - limits.age_seconds,
        keep_versions=limits.keep_versions,
        model_names=inventory.model_names,
        uses=uses,
    )
    deleted: dict[str, int] = {}
    try:
        for each in deleter.delete(removable) if delete else ():
            if not each.is_skipped:
                deleted[each.unit.name] = each.num_files
    except StorageError as err:
        raise StorageError(
            f"Not everything could be deleted; {sum(deleted.values()):,} files were, and what is "
            f"left is usable. {err}"
        ) from err
    return PruneReport(
        storage_uri=uri,
        older_than_seconds=limits.age_seconds,
        keep_versions=limits.keep_versions,
        is_dry_run=not delete,
        total_bytes=freed_bytes(decision.unit for decision in decisions),
        removable_bytes=freed_bytes(removable),
        num_deleted_files=sum(deleted.values()),
        units=tuple(_describe(decision, deleted) for decision in decisions),
    )


def freed_bytes(units: Iterable[Unit]) -> int:
    """Return how much room units take that nothing else needs.

    A local file with several names takes room until the last one is deleted, see `storage.link`.
    """
    size_bytes = 0
    num_deleted: defaultdict[str, int] = defaultdict(int)
    files: dict[str, tuple[int, int]] = {}
    for unit in units:
        size_bytes += unit.size_bytes
        for file_id, (file_bytes, num_here, num_names) in unit.linked_bytes.items():
            num_deleted[file_id] += num_here
            files[file_id] = (file_bytes, num_names)
    for file_id, (file_bytes, num_names) in files.items():
        is_gone = num_deleted[file_id] >= num_names
        size_bytes -= file_bytes * (num_deleted[file_id] - is_gone)
    return size_bytes


def _has_content(uri: str) -> bool:
    """Return whether a storage exists; reading its clock would create it."""
    return not storage.is_local(uri) or storage.local_path(uri).is_dir()


def _describe(decision: Decision, deleted: dict[str, int]) -> PrunedUnit:
    unit = decision.unit
    return PrunedUnit(
        kind=unit.kind,
        name=unit.name,
        num_files=unit.num_files,
        size_bytes=unit.size_bytes,
        written_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unit.written_at)),
        is_kept=decision.is_kept,
        reason=decision.reason,
        is_deleted=unit.name in deleted and not decision.is_kept,
    )
