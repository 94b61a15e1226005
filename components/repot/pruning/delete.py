"""Delete units of a storage, so that nothing that is left looks complete but is not.

What was written last is deleted first: an interrupted deletion leaves what an interrupted run
leaves, which no run takes for finished, and which the next `repot prune` deletes. Before that goes
checksums.json, so that `repot verify` misses nothing that was deleted on purpose.

Just before a unit is deleted it is looked at once more: whatever was written or noted as used in
the meantime is left alone. Units that were made from others are deleted before those.
"""

import functools
import itertools
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from repot import layout, storage
from repot.dataset_plan import NewestDataset
from repot.errors import NotFoundError
from repot.evaluation_record import EvaluationRecord
from repot.feature_store import part_files
from repot.json_record import checked_text, read_or_none, read_record
from repot.layout import (
    CHECKPOINT_NAME,
    CHECKSUMS_NAME,
    COMPOSITIONS_FOLDER,
    EVALUATION_FOLDER,
    EXPORT_NAME,
    MANIFEST_NAME,
    METRICS_NAME,
    MODEL_RECORD_NAME,
    PLAN_NAME,
    RECEIPTS_FOLDER,
    REMOVED_NAME,
    STATE_NAME,
    TRAINING_NAME,
    StoredFolder,
)
from repot.model_registry import read_champion, utc_time
from repot.progress import ProgressCounter
from repot.pruning.inventory import Kind, Unit, is_record_of_a_run
from repot.pruning.retention import last_in_production
from repot.pruning.uses import NotedUse, read_uses
from repot.training_record import RemovedTraining, TrainingRecord

NUM_AT_ONCE = 256
"""Files of a dataset that are deleted between two looks at whether a run builds it again."""

_NUM_UNITS = 8
_CHAMPION_SECONDS = 2.0
_LAST_TURN = 3
_NUM_DELETIONS = 64
_MARKERS = (
    *(MODEL_RECORD_NAME, TRAINING_NAME, METRICS_NAME, EXPORT_NAME, MANIFEST_NAME),
    *(CHECKPOINT_NAME, STATE_NAME),
)
"""Files that complete a folder."""
_ORDER: tuple[tuple[Kind, ...], ...] = (
    ("version",),
    ("training", "training state"),
    ("dataset",),
    ("newest dataset", "checkpoint", "features", "predictions", "unpacked archive", "listing"),
    ("notification", "use", "temporary file", "unfinished upload"),
)
_FOLDERS = ("version", "training", "training state", "dataset", "checkpoint")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deleted:
    """What was deleted of a unit; not all if it was used or written in the meantime."""

    unit: Unit
    is_skipped: bool = False
    num_files: int = 0


class Deleter:
    """Deletes units of a storage.

    Args:
        storage_uri: Root of all stored files.
        cutoff: What was written since then is kept; seconds since 1970 by the store's clock.
        keep_versions: Versions that were last in production, of each model.
        model_names: The models that have a champion.
        uses: What runs had noted to use when it was decided what to delete.
    """

    def __init__(
        self,
        storage_uri: str,
        *,
        cutoff: float,
        keep_versions: int,
        model_names: Sequence[str],
        uses: dict[str, NotedUse],
    ) -> None:
        self._storage_uri = storage_uri
        self._cutoff = cutoff
        self._keep_versions = keep_versions
        self._model_names = model_names
        self._uses = uses
        self._lock = threading.Lock()
        self._in_production: frozenset[str] = frozenset()
        self._champions_read_at = -_CHAMPION_SECONDS

    def delete(self, units: Iterable[Unit]) -> Iterator[Deleted]:
        """Delete units; yield each when it is done.

        Raises:
            StorageError: Something could not be deleted. What was not deleted yet stays.
        """
        left = sorted(units, key=lambda unit: unit.name)
        counter = ProgressCounter("prune", sum(unit.num_files for unit in left), unit="files")
        with ThreadPoolExecutor(_NUM_DELETIONS) as files, ThreadPoolExecutor(_NUM_UNITS) as pool:
            for kinds in _ORDER:
                futures = [
                    pool.submit(self._delete, unit, files) for unit in left if unit.kind in kinds
                ]
                try:
                    for future in futures:
                        deleted = future.result()
                        counter.add(deleted.unit.num_files)
                        yield deleted
                finally:
                    for future in futures:
                        future.cancel()

    def _delete(self, unit: Unit, files: ThreadPoolExecutor) -> Deleted:
        uri = storage.join(self._storage_uri, unit.name)
        if unit.kind in _FOLDERS:
            return self._delete_folder(unit, uri, files)
        if unit.upload:
            storage.abort_upload(unit.upload)
            return Deleted(unit=unit, num_files=1)
        is_kept = (unit.kind == "newest dataset" and _names_a_dataset(uri)) or (
            unit.kind == "use" and unit.name in self._noted_meanwhile
        )
        if is_kept:
            return Deleted(unit=unit, is_skipped=True)
        uris = [uri]
        if unit.kind in ("features", "predictions"):
            folder, _, part = uri.rpartition("/")
            uris = [storage.join(folder, name) for name in part_files(part)]
        for each in uris:
            storage.delete(each)
        storage.delete_empty_folders(storage.parent(uri))
        return Deleted(unit=unit, num_files=len(uris))

    def _delete_folder(self, unit: Unit, uri: str, files: ThreadPoolExecutor) -> Deleted:
        """Delete the files of a unit that is a folder, unless it is in use now."""
        is_training = unit.kind == "training"
        stored = {storage.relative_name(each.uri, uri): each for each in storage.scan_stored(uri)}
        is_new = any(
            each.written_at >= self._cutoff
            for name, each in stored.items()
            if not (is_training and name == REMOVED_NAME)
        )
        if is_new or self._is_used(unit):
            _log.info("%s is kept: it has been used in the meantime", uri)
            return Deleted(unit=unit, is_skipped=True)
        if is_training:
            _note_removal(uri)
        names = [name for name in stored if not (is_training and is_record_of_a_run(name))]
        names.sort(key=lambda name: (_turn(name), name))
        num_files = 0
        for turn, group in itertools.groupby(names, key=_turn):
            in_turn = [storage.join(uri, name) for name in group]
            for start in range(0, len(in_turn), NUM_AT_ONCE):
                if turn == _LAST_TURN and unit.kind == "dataset" and _is_planned(uri):
                    _log.info("%s is built again; what is left of it stays", uri)
                    return Deleted(unit=unit, is_skipped=True, num_files=num_files)
                # A barrier: what comes next is deleted when these files are.
                num_files += len(
                    list(files.map(storage.delete, in_turn[start : start + NUM_AT_ONCE]))
                )
        # An unfinished training may have been nothing but its state.
        storage.delete_empty_folders(storage.parent(uri) if unit.kind == "training state" else uri)
        return Deleted(unit=unit, num_files=num_files)

    def _is_used(self, unit: Unit) -> bool:
        """Return whether a unit came into use after it was decided to delete it."""
        names = {unit.name}
        if unit.kind == "version":
            names.add(f"{StoredFolder.RUNS}/{unit.id}")  # It is used where its training is.
        elif unit.kind == "training state":
            run = unit.name.rpartition("/")[0]
            if storage.exists(storage.join(self._storage_uri, run, TRAINING_NAME)):
                return False  # No run needs the state of a finished training.
            names.add(run)
        return bool(names & self._names_in_use())

    def _names_in_use(self) -> set[str]:
        """Return the names of units that came into use after it was decided what to delete."""
        names = set(self._names_in_production())
        for noted in self._read_new_uses():
            names |= {
                f"{StoredFolder.DATASETS}/{noted.use.dataset_id}",
                f"{StoredFolder.CHECKPOINTS}/{noted.use.checkpoint_id}",
                f"{StoredFolder.RUNS}/{noted.use.training_id}",
            }
        return names

    @functools.cached_property
    def _noted_meanwhile(self) -> frozenset[str]:
        """The files of uses that were noted again; uses are the last that is deleted."""
        return frozenset(noted.name for noted in self._read_new_uses())

    def _read_new_uses(self) -> list[NotedUse]:
        """Return the uses that were noted after it was decided what to delete."""
        found = read_uses(self._storage_uri, self._uses)
        return [noted for name, noted in found.items() if self._uses.get(name) != noted]

    def _names_in_production(self) -> frozenset[str]:
        """Return the versions to keep, their trainings, and the champions' datasets.

        People change champions by hand, and seldom: every few seconds is often enough.
        """
        with self._lock:
            if time.monotonic() - self._champions_read_at > _CHAMPION_SECONDS:
                self._in_production = frozenset(self._read_champions())
                self._champions_read_at = time.monotonic()
            return self._in_production

    def _read_champions(self) -> Iterator[str]:
        for model_name in self._model_names:
            champion = read_champion(layout.champion_uri(self._storage_uri, model_name)).champion
            for version in last_in_production(champion, self._keep_versions) if champion else ():
                yield f"{StoredFolder.MODELS}/{model_name}/{version}"
                yield f"{StoredFolder.RUNS}/{version}"
            if champion:
                yield f"{StoredFolder.DATASETS}/{champion.dataset_id}"


def _turn(name: str) -> int:
    """Return when a file of a folder is deleted: 0 first."""
    folder, _, file = name.rpartition("/")
    if file == CHECKSUMS_NAME:
        return 0
    if file in _MARKERS:
        return 1
    # A dataset is built again once it has a plan, a shard is complete once it has a receipt, and a
    # composition stands for packs.
    if name == PLAN_NAME or folder in (RECEIPTS_FOLDER, COMPOSITIONS_FOLDER):
        return 2
    return _LAST_TURN


def _is_planned(dataset_uri: str) -> bool:
    """Return whether a dataset whose plan was deleted has another one: a run builds it again."""
    return storage.exists(storage.join(dataset_uri, PLAN_NAME))


def _names_a_dataset(uri: str) -> bool:
    """Return whether the dataset that a pointer names exists."""
    try:
        dataset_uri = read_record(uri, NewestDataset).dataset_uri
    except NotFoundError:
        return False
    return storage.exists(storage.join(dataset_uri, MANIFEST_NAME))


def _note_removal(run_uri: str) -> None:
    """Write removed.json of a finished training."""
    training = read_or_none(storage.join(run_uri, TRAINING_NAME), TrainingRecord)
    if training is None:
        return
    metrics_uri = storage.join(run_uri, EVALUATION_FOLDER, METRICS_NAME)
    evaluation = read_or_none(metrics_uri, EvaluationRecord)
    record = RemovedTraining(
        removed_at=utc_time(),
        backbone=training.settings.backbone,
        recipe=training.settings.recipe,
        dataset_id=training.dataset_id,
        epochs=training.epochs,
        seconds=training.seconds,
        num_train_examples=training.num_examples["train"],
        precision_at_1=evaluation.precision_at_1 if evaluation else None,
        interval=evaluation.precision_at_1_interval if evaluation else None,
        num_examples=evaluation.num_examples if evaluation else 0,
        macro_recall=evaluation.macro_recall if evaluation else None,
    )
    storage.write_text(storage.join(run_uri, REMOVED_NAME), checked_text(record.to_json()))
