"""What is stored of checkpoints already, found by checksum or by where it came from.

<checkpoints_uri>/
  <sha256>/original/                       the files as they were fetched
  <sha256>/<backbone>-<values>/            weights.h5, checkpoint.json (last)
  by-source/<content id of the URI>.json   the checksum of what was once fetched from there
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repot import layout, storage
from repot.checkpoint_fetcher.originals import Original, read_original
from repot.checkpoint_files import FACTS_NAME, WEIGHTS_NAME

_ORIGINAL = "original"
_BY_SOURCE = "by-source"

_log = logging.getLogger(__name__)


def find_stored(checkpoints_uri: str, *, sha256: str, backbone: str, values: str) -> str:
    """Return the id of a stored checkpoint, "" if it is not stored.

    "auto" means the averaged values (EMA); stored raw ones count only if the original has no others.
    """
    for chosen in ("ema", "raw"):
        if values not in ("auto", chosen):
            continue
        checkpoint_id = f"{sha256}/{backbone}-{chosen}"
        facts_uri = storage.join(checkpoints_uri, checkpoint_id, FACTS_NAME)
        if storage.exists(facts_uri) and (values == chosen or _is_first_choice(facts_uri, chosen)):
            return checkpoint_id
    return ""


def store(folder_uri: str, weights_path: Path, facts: Mapping[str, Any]) -> None:
    """Store a converted checkpoint; its facts come last."""
    storage.upload(weights_path, storage.join(folder_uri, WEIGHTS_NAME))
    storage.write_json(storage.join(folder_uri, FACTS_NAME), facts)


def find_original(checkpoints_uri: str, sha256: str, folder: Path) -> Original | None:
    """Return the stored original; None if there is none, or it is not whole."""
    folder_uri = storage.join(checkpoints_uri, sha256, _ORIGINAL)
    uris = [info.uri for info in storage.list_objects(folder_uri)]
    if not uris:
        return None
    original = read_original(uris, folder)
    if original.sha256 == sha256:
        return original
    _log.warning("%s is not whole and is fetched again", folder_uri)
    storage.delete_folder(folder_uri)
    return None


def store_original(checkpoints_uri: str, original: Original) -> None:
    """Store the original files, except those that are there."""
    for path in original.paths:
        uri = storage.join(checkpoints_uri, original.sha256, _ORIGINAL, path.name)
        if not storage.exists(uri):
            storage.upload(path, uri)


def recall(checkpoints_uri: str, *, source_uri: str, version: str | None) -> str:
    """Return the checksum of what was fetched from a source, "" if nothing was, or the source changed since.

    Args:
        checkpoints_uri: Where checkpoints are stored.
        source_uri: The source.
        version: Its version now; None where it cannot be asked, and then what was fetched counts.
    """
    uri = _memory_uri(checkpoints_uri, source_uri)
    if not storage.exists(uri):
        return ""
    memory = storage.read_json(uri)
    return str(memory["sha256"]) if version in (None, memory["version"]) else ""


def remember(checkpoints_uri: str, *, source_uri: str, version: str, sha256: str) -> None:
    """Remember the checksum of what was fetched from a source."""
    storage.write_json(
        _memory_uri(checkpoints_uri, source_uri), {"version": version, "sha256": sha256}
    )


def _is_first_choice(facts_uri: str, chosen: str) -> bool:
    available: list[str] = storage.read_json(facts_uri)["available_values"]
    return chosen == "ema" or available == [chosen]


def _memory_uri(checkpoints_uri: str, source_uri: str) -> str:
    return storage.join(checkpoints_uri, _BY_SOURCE, f"{layout.content_id(source_uri)}.json")
