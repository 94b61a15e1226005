"""Stored checkpoints, found by checksum or by the source that they were fetched from.

<checkpoints_uri>/
  <sha256>/original/                       the files as they were fetched
  <sha256>/<backbone>-<values>/            weights.h5, checkpoint.json (last)
  by-source/<content id of the URI>.json   the checksum of the files last fetched from that URI
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from repot import layout, storage
from repot.checkpoint_fetcher.originals import Original, read_original
from repot.checkpoint_record import CheckpointRecord, checkpoint_id
from repot.errors import CheckpointError
from repot.json_record import JsonRecord, read_record, write_record
from repot.layout import (
    CHECKPOINT_NAME,
    FETCHED_SOURCES_FOLDER,
    ORIGINAL_FOLDER,
    WEIGHTS_NAME,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _FetchedSource(JsonRecord):
    """One file below by-source/; the source's URI is left out because it can hold secrets."""

    version: str
    sha256: str


def find_checkpoint(checkpoints_uri: str, *, sha256: str, backbone: str, values: str) -> str:
    """Return the id of a stored checkpoint; "" if it is not stored.

    "auto" finds averaged values (EMA), and raw values only if the original has no others.
    """
    for stored_values in ("ema", "raw") if values == "auto" else (values,):
        stored_id = checkpoint_id(sha256=sha256, backbone=backbone, values=stored_values)
        record_uri = storage.join(checkpoints_uri, stored_id, CHECKPOINT_NAME)
        if not storage.exists(record_uri):
            continue
        if values == "auto" and stored_values == "raw":
            record = read_record(record_uri, CheckpointRecord, error=CheckpointError)
            if record.available_values != ("raw",):
                continue
        return stored_id
    return ""


def save_checkpoint(folder_uri: str, weights_path: Path, record: CheckpointRecord) -> None:
    """Store a converted checkpoint; its record is written last."""
    storage.upload(weights_path, storage.join(folder_uri, WEIGHTS_NAME))
    write_record(storage.join(folder_uri, CHECKPOINT_NAME), record)


def load_original(checkpoints_uri: str, sha256: str, folder: Path) -> Original | None:
    """Return a stored original; None if it is not stored. A damaged one is deleted.

    Args:
        checkpoints_uri: Folder of all stored checkpoints.
        sha256: Checksum of the original files.
        folder: Local folder to download to.
    """
    folder_uri = storage.join(checkpoints_uri, sha256, ORIGINAL_FOLDER)
    uris = [info.uri for info in storage.list_objects(folder_uri)]
    if not uris:
        return None
    original = read_original(uris, folder)
    if original.sha256 == sha256:
        return original
    _log.warning("%s is damaged and will be fetched again", folder_uri)
    storage.delete_folder(folder_uri)
    return None


def save_original(checkpoints_uri: str, original: Original) -> None:
    """Store the original files that are not stored yet."""
    for path in original.paths:
        uri = storage.join(checkpoints_uri, original.sha256, ORIGINAL_FOLDER, path.name)
        if not storage.exists(uri):
            storage.upload(path, uri)


def find_sha256(checkpoints_uri: str, *, source_uri: str, version: str | None) -> str:
    """Return the checksum of the files last fetched from a source.

    Args:
        checkpoints_uri: Folder of all stored checkpoints.
        source_uri: Where they were fetched from.
        version: Current version of the source; None if unknown, then it is assumed to be unchanged.

    Returns:
        "" if nothing was fetched from the source, or if it has changed since.
    """
    uri = _fetched_source_uri(checkpoints_uri, source_uri)
    if not storage.exists(uri):
        return ""
    fetched = read_record(uri, _FetchedSource, error=CheckpointError)
    return fetched.sha256 if version in (None, fetched.version) else ""


def save_sha256(checkpoints_uri: str, *, source_uri: str, version: str, sha256: str) -> None:
    """Store the checksum of the files fetched from a source, with the version of the source."""
    uri = _fetched_source_uri(checkpoints_uri, source_uri)
    write_record(uri, _FetchedSource(version=version, sha256=sha256))


def _fetched_source_uri(checkpoints_uri: str, source_uri: str) -> str:
    return storage.join(
        checkpoints_uri, FETCHED_SOURCES_FOLDER, f"{layout.content_id(source_uri)}.json"
    )
