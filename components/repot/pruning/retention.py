"""What of a storage is kept, and why; everything else may be deleted.

Kept is what was written or used lately; for each model the versions that were last in production;
and whatever one of these was made from: a version's training, a training's dataset and checkpoint,
the stored features of a dataset's pictures, the answers of a kept model for them.

Writing counts as use: a run on unchanged pictures writes the report of its verdict again. What a
run only reads is noted, see `repot.pruning.uses`.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from repot import layout, storage
from repot.dataset_plan import NewestDataset, read_base
from repot.errors import DataError, NotFoundError
from repot.example_digests import digests_uri, join_digests, read_stored
from repot.feature_store import Keys, read_keys
from repot.json_record import read_record
from repot.layout import MANIFEST_NAME, MODEL_RECORD_NAME, TRAINING_NAME, StoredFolder
from repot.manifest import SPLITS
from repot.model_registry import Champion, read_champion
from repot.prediction_store import AUTHORS, folder_name
from repot.pruning.inventory import Inventory, Kind, Unit
from repot.pruning.uses import NotedUse, read_uses

_NUM_READERS = 32
_NUM_DATASETS = 4
"""Datasets whose digests are read at the same time: 16 MB for a million pictures."""
_DAY_SECONDS = 24 * 3600

_REMOVAL_REASONS: dict[Kind, str] = {
    "version": "not lately in production",
    "training state": "its training is finished or is deleted",
    "notification": "no longer needed",
    "use": "its run has ended",
    "temporary file": "left by a program that was killed",
    "unfinished upload": "left by a program that was killed",
}
"""Why units are deleted that nothing keeps; others are not used by anything that is kept."""
_IN_PROGRESS = "may be in progress"
_MADE_FROM = "something that is kept was made from it"
_USED = "a run uses it, or did so lately"
_KEYS = {
    MODEL_RECORD_NAME: "dataset_id",
    TRAINING_NAME: "checkpoint_id",
    MANIFEST_NAME: "pictures_uri",
}
"""A key that must be in the file that completes a unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What is kept whatever else is true.

    Attributes:
        age_seconds: What was written or used in this time.
        keep_versions: Versions that were last in production, of each model.
    """

    age_seconds: float
    keep_versions: int

    @property
    def age_text(self) -> str:
        """Return the age for people."""
        days, rest = divmod(self.age_seconds, _DAY_SECONDS)
        if rest:
            return f"{self.age_seconds / 3600:g} hours"
        return f"{days:g} day{'' if days == 1 else 's'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Whether a unit is kept, and why."""

    unit: Unit
    is_kept: bool
    reason: str


def decide(
    inventory: Inventory, limits: Limits, *, now: float
) -> tuple[list[Decision], dict[str, NotedUse]]:
    """Decide what is kept.

    Args:
        inventory: What the storage has.
        limits: What is kept whatever else is true.
        now: The present time, in seconds since 1970 by the store's clock.

    Returns:
        A decision for each unit, and what runs noted to use, see `read_uses`.

    Raises:
        ModelError: A champion.json is damaged.
        DataError: The record of something that is kept is damaged, so that it is unknown what it
            was made from.
        StorageError: Reading failed.
    """
    uses = read_uses(inventory.storage_uri)
    retention = _Retention(inventory, limits, now, uses)
    retention.keep_versions()
    retention.keep_trainings()
    retention.keep_datasets()
    retention.keep_originals()
    retention.keep_answers_and_features()
    retention.keep_listings()
    return retention.decisions(), uses


def last_in_production(champion: Champion, number: int) -> list[str]:
    """Return the versions of a model that were last in production, the latest first."""
    changes = [change.version for change in champion.history]
    versions = (champion.version, champion.previous, *reversed(changes))
    return list(dict.fromkeys(filter(None, versions)))[:number]


class _Retention:
    """The units of a storage, and the reasons to keep some of them.

    Args:
        inventory, limits, now, uses: See `decide`.
    """

    def __init__(
        self, inventory: Inventory, limits: Limits, now: float, uses: dict[str, NotedUse]
    ) -> None:
        self._inventory = inventory
        self._limits = limits
        self._cutoff = now - limits.age_seconds
        self._uses = uses
        # Why units are kept that are not new, by name; the first reason counts.
        self._reasons: dict[str, str] = {}

    def keep_versions(self) -> None:
        """Keep the versions that are or were in production, and what kept ones were made from."""
        number = self._limits.keep_versions
        for model_name in self._inventory.model_names:
            uri = layout.champion_uri(self._inventory.storage_uri, model_name)
            champion = read_champion(uri).champion
            for version in last_in_production(champion, number) if champion else ():
                is_champion = champion is not None and version == champion.version
                self._keep(
                    f"{StoredFolder.MODELS}/{model_name}/{version}",
                    "in production" if is_champion else f"among the last {number} in production",
                )
        kept = [unit for unit in self._kept("version") if unit.is_complete]
        for unit in kept:
            self._keep(f"{StoredFolder.RUNS}/{unit.id}", _MADE_FROM)
        for record in self._read_records(kept, MODEL_RECORD_NAME):
            self._keep(f"{StoredFolder.DATASETS}/{record['dataset_id']}", _MADE_FROM)

    def keep_trainings(self) -> None:
        """Keep what runs in progress and those that started lately use, and finished trainings."""
        running = {unit.id for unit in self._inventory.of_kind("training") if self._is_open(unit)}
        for noted in self._uses.values():
            use = noted.use
            if noted.written_at >= self._cutoff or use.training_id in running:
                self._keep(noted.name, _IN_PROGRESS)
                self._keep(f"{StoredFolder.DATASETS}/{use.dataset_id}", _USED)
                self._keep(f"{StoredFolder.CHECKPOINTS}/{use.checkpoint_id}", _USED)
                self._keep(f"{StoredFolder.RUNS}/{use.training_id}", _USED)
        if running - {noted.use.training_id for noted in self._uses.values()}:
            # An earlier version of repot started it: what it uses is not known.
            for unit in (*self._not_kept("dataset"), *self._not_kept("checkpoint")):
                self._keep(unit.name, "may be used by a training in progress")
        kept = [unit for unit in self._kept("training") if unit.is_complete]
        # A run on unchanged pictures judges an old version again, and would publish it again.
        kept_ids = {unit.id for unit in kept}
        for unit in self._not_kept("version"):
            if unit.id in kept_ids:
                self._keep(unit.name, "its training is kept")
        for record in self._read_records(kept, TRAINING_NAME):
            self._keep(f"{StoredFolder.DATASETS}/{record['dataset_id']}", _MADE_FROM)
            self._keep(f"{StoredFolder.CHECKPOINTS}/{record['checkpoint_id']}", _MADE_FROM)

    def keep_datasets(self) -> None:
        """Keep what a dataset in progress is built on, and the pointers to kept datasets."""
        storage_uri = self._inventory.storage_uri
        for unit in self._inventory.of_kind("dataset"):
            base = read_base(self._uri(unit.name)) if self._is_open(unit) else None
            if base and base.base_uri:
                self._keep(storage.relative_name(base.base_uri, storage_uri), _USED)
        kept = {self._uri(unit.name) for unit in self._kept("dataset")}
        for unit in self._not_kept("newest dataset"):
            if read_record(self._uri(unit.name), NewestDataset).dataset_uri in kept:
                self._keep(unit.name, "names a dataset that is kept")
        if any(map(self._is_open, self._inventory.of_kind("dataset"))):
            for unit in self._not_kept("unpacked archive"):
                self._keep(unit.name, "a dataset in progress may be built from it")

    def keep_originals(self) -> None:
        """Keep the original files of checkpoints that are kept."""
        kept = {unit.name.rpartition("/")[0] for unit in self._kept("checkpoint")}
        for unit in self._not_kept("checkpoint"):
            if unit.id == layout.ORIGINAL_FOLDER and unit.name.rpartition("/")[0] in kept:
                self._keep(unit.name, _MADE_FROM)

    def keep_answers_and_features(self) -> None:
        """Keep the features of pictures in kept datasets, and kept versions' answers for them."""
        units = self._not_kept("features")
        if answers := self._not_kept("predictions"):
            folders = self._answer_folders()
            units += [unit for unit in answers if unit.name.split("/")[1] in folders]
        known = self._picture_keys() if units else None
        with ThreadPoolExecutor(_NUM_READERS) as pool:
            are_used = pool.map(lambda unit: self._is_of_pictures(unit, known), units)
            for unit, is_used in zip(units, are_used, strict=True):
                if is_used:
                    self._keep(unit.name, "of pictures in a dataset that is kept")

    def keep_listings(self) -> None:
        """Keep the checksums of the pictures of kept datasets."""
        listings = self._not_kept("listing")
        kept = [unit for unit in self._kept("dataset") if unit.is_complete] if listings else []
        manifests = self._read_records(kept, MANIFEST_NAME)
        ids = {name for each in manifests for name in layout.listing_ids(each["pictures_uri"])}
        for unit in listings:
            # A listing of very many pictures has several files, with digits after the id.
            if unit.id.removesuffix(".json").partition("-")[0] in ids:
                self._keep(unit.name, "of the pictures of a dataset that is kept")

    def decisions(self) -> list[Decision]:
        """Return the decision for each unit, by name."""
        units = sorted(self._inventory.units.values(), key=lambda unit: unit.name)
        return [self._decide(unit) for unit in units if unit.num_files]

    def _decide(self, unit: Unit) -> Decision:
        age = self._limits.age_text
        if unit.kind == "record":
            return Decision(unit=unit, is_kept=True, reason="small, and always kept")
        if unit.kind == "training state":
            owner = self._inventory.units[unit.name.rpartition("/")[0]]
            if not owner.is_complete and self._is_kept(owner):
                return Decision(unit=unit, is_kept=True, reason=_IN_PROGRESS)
        if reason := self._reasons.get(unit.name):
            return Decision(unit=unit, is_kept=True, reason=reason)
        is_open = unit.kind in ("version", "training", "dataset") and not unit.is_complete
        if self._is_new(unit):
            reason = _IN_PROGRESS if is_open else f"written in the last {age}"
            return Decision(unit=unit, is_kept=True, reason=reason)
        reason = _REMOVAL_REASONS.get(unit.kind, "not used by anything that is kept")
        if is_open:
            reason = "was never finished"
        return Decision(unit=unit, is_kept=False, reason=reason)

    def _answer_folders(self) -> set[str]:
        """Return the names of the folders with the answers of the kept versions."""
        units = [unit for unit in self._kept("version") if unit.is_complete]
        return {
            folder_name(self._uri(unit.name), num_labels=len(record["labels"]), author=author)
            for unit, record in zip(
                units, self._read_records(units, MODEL_RECORD_NAME), strict=True
            )
            for author in AUTHORS
        }

    def _picture_keys(self) -> Keys | None:
        """Return the keys of all pictures in kept datasets, sorted; None if one has no digests.

        Datasets in progress are left out: their features can be computed again.
        """
        uris = [self._uri(unit.name) for unit in self._kept("dataset") if unit.is_complete]

        def read(uri: str) -> Keys | None:
            stored = [read_stored(digests_uri(uri, split)) for split in SPLITS]
            if stored[0] is None:  # An earlier version of repot built it.
                return None
            return np.concatenate([each for each in stored if each is not None])

        known = join_digests([])
        with ThreadPoolExecutor(_NUM_DATASETS) as pool:
            # Datasets of consecutive nights mostly have the same pictures.
            for keys in pool.map(read, uris):
                if keys is None:
                    return None
                known = np.union1d(known, keys)
        return known

    def _is_of_pictures(self, unit: Unit, known: Keys | None) -> bool:
        """Return whether a part of features or answers has a picture of a kept dataset."""
        folder, _, part = self._uri(unit.name).rpartition("/")
        try:
            keys = read_keys(folder, part)
        except NotFoundError:
            return False  # Its first file was stored, and its second one was not.
        if known is None:
            return True
        places = np.searchsorted(known, keys)
        inside = places < len(known)
        return bool((known[places[inside]] == keys[inside]).any())

    def _read_records(self, units: Sequence[Unit], name: str) -> list[dict[str, Any]]:
        """Return the JSON objects in the files that complete units, by any version of repot."""

        def read(unit: Unit) -> dict[str, Any]:
            uri = storage.join(self._uri(unit.name), name)
            value = storage.read_json(uri)
            if not isinstance(value, dict) or not isinstance(value.get(_KEYS[name]), str):
                raise DataError(
                    f"{uri} must be a JSON object with {_KEYS[name]}, which says what is still "
                    "needed; it is not. Restore it, or delete its folder."
                )
            return value

        with ThreadPoolExecutor(_NUM_READERS) as pool:
            return list(pool.map(read, units))

    def _keep(self, name: str, reason: str) -> None:
        self._reasons.setdefault(name, reason)

    def _uri(self, name: str) -> str:
        return storage.join(self._inventory.storage_uri, name)

    def _is_new(self, unit: Unit) -> bool:
        return unit.written_at >= self._cutoff

    def _is_open(self, unit: Unit) -> bool:
        """Return whether a training or dataset may be in progress."""
        return self._is_new(unit) and not unit.is_complete

    def _is_kept(self, unit: Unit) -> bool:
        return unit.name in self._reasons or self._is_new(unit)

    def _kept(self, kind: Kind) -> list[Unit]:
        return [unit for unit in self._inventory.of_kind(kind) if self._is_kept(unit)]

    def _not_kept(self, kind: Kind) -> list[Unit]:
        return [unit for unit in self._inventory.of_kind(kind) if not self._is_kept(unit)]
