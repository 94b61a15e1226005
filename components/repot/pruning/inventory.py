"""What a storage has, as units: a unit is kept or deleted as a whole.

Only what repot itself stores belongs to a unit: folders whose names are ids, in the folders of
`repot.layout`. Whatever else lies under the storage URI, such as pictures, is never looked at.

Some files are so small, and tell so much, that they are always kept: champion.json and
comparisons.json, on which the gate builds; each verdict with its report; what a run was asked for;
and removed.json of a training that was deleted.
"""

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from repot import layout, storage
from repot.errors import StorageError
from repot.layout import (
    CHAMPION_NAME,
    CHECKPOINT_NAME,
    FETCHED_SOURCES_FOLDER,
    GATE_FOLDER,
    MANIFEST_NAME,
    MODEL_RECORD_NAME,
    NEWEST_DATASETS_FOLDER,
    REMOVED_NAME,
    RUN_REQUEST_NAME,
    STATE_FOLDER,
    TRAINING_NAME,
    StoredFolder,
)

Kind = Literal[
    "version",
    "training",
    "training state",
    "dataset",
    "newest dataset",
    "checkpoint",
    "features",
    "predictions",
    "unpacked archive",
    "listing",
    "notification",
    "use",
    "temporary file",
    "unfinished upload",
    "record",
]
"""Kinds of units; "record" is what is always kept."""

_log = logging.getLogger(__name__)

_IS_ID = rf"[0-9a-f]{{{layout.ID_LENGTH}}}"
_PART = r"[0-9a-f]{32}-[0-9a-f]{32}"
_RECORD_OF_A_RUN = re.compile(rf"{GATE_FOLDER}/[^/]+/{_IS_ID}/.+|{RUN_REQUEST_NAME}|{REMOVED_NAME}")


@dataclass(kw_only=True, slots=True)
class Unit:
    """Something that is kept or deleted as a whole.

    Attributes:
        kind: What it is.
        name: The folder or file under the storage URI; of features and predictions, what the
            names of the two files of a part have in common.
        is_complete: Whether the file that completes it exists.
        num_files, size_bytes: What deleting it deletes.
        written_at: When something in it was last written, in seconds since 1970.
        linked_bytes: Of local files with several names: size, number of names in this unit and
            number of all names, by file.
        upload: The unfinished upload that it is; None for others.
    """

    kind: Kind
    name: str
    is_complete: bool = False
    num_files: int = 0
    size_bytes: int = 0
    written_at: float = 0.0
    linked_bytes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    upload: storage.UnfinishedUpload | None = None

    @property
    def id(self) -> str:
        """Return the last part of its name, which is the id of a version, training or dataset."""
        return self.name.rpartition("/")[2]

    def add(self, stored: storage.StoredObject) -> None:
        """Add a file."""
        self.num_files += 1
        self.size_bytes += stored.size_bytes
        if stored.num_names > 1:
            _, num_here, num_names = self.linked_bytes.get(stored.file_id, (0, 0, stored.num_names))
            self.linked_bytes[stored.file_id] = (stored.size_bytes, num_here + 1, num_names)
        self.renew(stored)

    def renew(self, stored: storage.StoredObject) -> None:
        """Note that a file that belongs to it was written, one that stays included."""
        self.written_at = max(self.written_at, stored.written_at)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """Everything that repot has stored.

    Attributes:
        storage_uri: Root of all stored files.
        units: By name; see `of_kind`.
        model_names: Models that have a champion.json.
    """

    storage_uri: str
    units: dict[str, Unit]
    model_names: tuple[str, ...]

    def of_kind(self, kind: Kind) -> list[Unit]:
        """Return the units of a kind, by name; trainings that have only a state included."""
        found = [
            unit
            for unit in self.units.values()
            if unit.kind == kind and (unit.num_files or f"{unit.name}/{STATE_FOLDER}" in self.units)
        ]
        return sorted(found, key=lambda unit: unit.name)


def take_inventory(storage_uri: str) -> Inventory:
    """List everything that repot has stored.

    Raises:
        StorageError: The storage cannot be listed.
    """
    units: dict[str, Unit] = {}
    models: set[str] = set()
    folders = [folder.value for folder in StoredFolder]
    with ThreadPoolExecutor(len(folders)) as pool:
        # Each folder fills a dict of its own: the threads share nothing.
        found = pool.map(lambda folder: _list_folder(storage_uri, folder), folders)
        for units_of_folder, models_of_folder in found:
            units |= units_of_folder
            models |= models_of_folder
    for upload in _list_uploads(storage_uri):
        name = storage.relative_name(upload.uri, storage_uri)
        if name.partition("/")[0] in folders:
            key = f"{name}?uploadId={upload.upload_id}"
            units[key] = Unit(
                kind="unfinished upload",
                name=name,
                num_files=1,
                written_at=upload.started_at,
                upload=upload,
            )
    return Inventory(storage_uri=storage_uri, units=units, model_names=tuple(sorted(models)))


def _list_uploads(storage_uri: str) -> list[storage.UnfinishedUpload]:
    """Return the unfinished uploads; none if that is not allowed, or not known to the service."""
    try:
        return storage.list_unfinished_uploads(storage_uri)
    except StorageError as err:
        _log.warning("Unfinished uploads are left: %s", err)
        return []


def is_record_of_a_run(name: str) -> bool:
    """Return whether a file in the folder of a run is kept when the run is deleted.

    Args:
        name: Its name, relative to the folder of the run.
    """
    return bool(_RECORD_OF_A_RUN.fullmatch(name))


def _list_folder(storage_uri: str, folder: str) -> tuple[dict[str, Unit], set[str]]:
    """Return the units in a folder by name, and the models that have a champion."""
    units: dict[str, Unit] = {}
    models: set[str] = set()

    def unit(kind: Kind, name: str) -> Unit:
        return units.setdefault(name, Unit(kind=kind, name=name))

    for stored in storage.scan_stored(storage.join(storage_uri, folder)):
        name = storage.relative_name(stored.uri, storage_uri)
        kind, unit_name, marker = _place(name)
        if stored.is_hidden:
            unit("temporary file", name).add(stored)
            if kind:  # Someone may be writing it now.
                unit(kind, unit_name).renew(stored)
        elif kind == "training" and is_record_of_a_run(name.removeprefix(f"{unit_name}/")):
            unit("record", name).add(stored)
            if not name.endswith(f"/{REMOVED_NAME}"):
                unit(kind, unit_name).renew(stored)
        elif kind:
            unit(kind, unit_name).add(stored)
            unit(kind, unit_name).is_complete |= name == f"{unit_name}/{marker}"
        if kind == "training state":
            unit("training", unit_name.rpartition("/")[0]).renew(stored)
        if name.endswith(f"/{CHAMPION_NAME}") and kind == "record":
            models.add(name.split("/")[1])
    return units, models


def _place(name: str) -> tuple[Kind | None, str, str]:
    """Return kind and name of the unit of a file, and the file in it that is written last.

    Args:
        name: Name of the file under the storage URI.

    Returns:
        None for a file that repot did not store.
    """
    for kind, pattern, marker in _PLACES:
        if found := pattern.match(name):
            return kind, found[1], marker
    return None, "", ""


def _pattern(folder: StoredFolder, rest: str) -> re.Pattern[str]:
    return re.compile(f"({folder}/{rest})")


_PLACES: tuple[tuple[Kind, re.Pattern[str], str], ...] = (
    ("dataset", _pattern(StoredFolder.DATASETS, f"{_IS_ID}(?=/)"), MANIFEST_NAME),
    ("newest dataset", _pattern(StoredFolder.DATASETS, f"{NEWEST_DATASETS_FOLDER}/[^/]+$"), ""),
    ("training state", _pattern(StoredFolder.RUNS, f"{_IS_ID}/{STATE_FOLDER}(?=/)"), ""),
    ("training", _pattern(StoredFolder.RUNS, f"{_IS_ID}(?=/)"), TRAINING_NAME),
    ("version", _pattern(StoredFolder.MODELS, f"[^/]+/{_IS_ID}(?=/)"), MODEL_RECORD_NAME),
    ("record", _pattern(StoredFolder.MODELS, "[^/]+/[^/]+$"), ""),
    (
        "checkpoint",
        _pattern(StoredFolder.CHECKPOINTS, "[0-9a-f]{64}/[^/]+(?=/)"),
        CHECKPOINT_NAME,
    ),
    ("record", _pattern(StoredFolder.CHECKPOINTS, f"{FETCHED_SOURCES_FOLDER}/[^/]+$"), ""),
    ("features", _pattern(StoredFolder.FEATURES, rf"[^/]+/{_PART}(?=\.\w+$)"), ""),
    ("predictions", _pattern(StoredFolder.PREDICTIONS, rf"[^/]+/{_PART}(?=\.\w+$)"), ""),
    ("unpacked archive", _pattern(StoredFolder.UNPACKED, "[^/]+$"), ""),
    ("listing", _pattern(StoredFolder.LISTINGS, "[^/]+$"), ""),
    ("notification", _pattern(StoredFolder.NOTIFICATIONS, "[^/]+/[^/]+$"), ""),
    ("use", _pattern(StoredFolder.USES, "[^/]+$"), ""),
)
"""Kind of unit, its name, and the file in it that is written last, by the names of its files."""
