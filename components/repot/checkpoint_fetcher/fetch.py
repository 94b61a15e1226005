"""Fetch a checkpoint once, verify it, and store the backbone's weights under the checksum of the original.

TensorFlow is not imported until something has to be converted, so that a second start takes a moment only.
"""

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repot import checkpoint_files, quiet_tensorflow, storage
from repot.checkpoint_fetcher import stored
from repot.checkpoint_fetcher.originals import Original, fetch_original
from repot.checkpoints import Source, find_source, find_version
from repot.errors import explain_disk_errors

_log = logging.getLogger(__name__)


def fetch_checkpoint(
    source: str, *, backbone: str, values: str, checkpoints_uri: str, sha256: str = ""
) -> str:
    """Return the id of a stored checkpoint, after fetching and converting it if it is not stored yet.

    Args:
        source: A known name, a path or a URI; see `repot.checkpoints`.
        backbone: A key of `repot.zoo.BACKBONES`.
        values: Which values of a TensorFlow checkpoint: "ema", "raw", or "auto" for the averaged ones if there are any.
        checkpoints_uri: Where checkpoints are stored.
        sha256: What the original must hash to, "" for no check. With it a stored checkpoint is found without a look
            at the source; without it the source is asked whether it changed, and a web server that does not say so
            is believed to hold what it held.

    Returns:
        `<sha256 of the original>/<backbone>-<values>`, a folder below `checkpoints_uri`.

    Raises:
        UsageError: The words are wrong.
        CheckpointError: It cannot be fetched, is not what `sha256` promises, is damaged, or does not fit.
        StorageError: It cannot be stored, or the temporary folder has no room.
    """
    found = find_source(source, backbone=backbone, sha256=sha256, values=values)
    version = find_version(found)
    known_sha256 = found.sha256 or stored.recall(
        checkpoints_uri, source_uri=found.uri, version=version
    )
    if known_sha256:
        stored_id = stored.find_stored(
            checkpoints_uri, sha256=known_sha256, backbone=backbone, values=values
        )
        if stored_id:
            _log.info("checkpoint %s is stored already", stored_id)
            return stored_id
    with _scratch_folder() as scratch:
        original = (
            stored.find_original(checkpoints_uri, known_sha256, scratch / "stored")
            if known_sha256
            else None
        )
        original = original or fetch_original(found.uri, scratch / "fetched", sha256=found.sha256)
        weights_path, facts = _convert(
            original, found, backbone=backbone, values=values, folder=scratch
        )
        stored.store_original(checkpoints_uri, original)
        checkpoint_id = f"{original.sha256}/{backbone}-{facts['values']}"
        stored.store(storage.join(checkpoints_uri, checkpoint_id), weights_path, facts)
    if not found.sha256:
        stored.remember(
            checkpoints_uri, source_uri=found.uri, version=version or "", sha256=original.sha256
        )
    _log.info("checkpoint %s: %d parameters", checkpoint_id, facts["num_parameters"])
    return checkpoint_id


def convert_to_folder(
    source: str, *, backbone: str, values: str, folder_uri: str, sha256: str = ""
) -> dict[str, Any]:
    """Fetch a checkpoint and put its weights.h5 and checkpoint.json into a folder; nothing else is kept.

    Returns:
        The facts in checkpoint.json.

    Raises:
        UsageError, CheckpointError: As in `fetch_checkpoint`.
    """
    found = find_source(source, backbone=backbone, sha256=sha256, values=values)
    with _scratch_folder() as scratch:
        original = fetch_original(found.uri, scratch / "fetched", sha256=found.sha256)
        weights_path, facts = _convert(
            original, found, backbone=backbone, values=values, folder=scratch
        )
        # Facts of other weights must not stand beside these for a moment.
        storage.delete(storage.join(folder_uri, checkpoint_files.FACTS_NAME))
        stored.store(folder_uri, weights_path, facts)
    return facts


def _convert(
    original: Original, source: Source, *, backbone: str, values: str, folder: Path
) -> tuple[Path, dict[str, Any]]:
    quiet_tensorflow.import_tensorflow()
    from repot.checkpoint_fetcher.convert import convert

    converted = convert(
        original.paths,
        backbone=backbone,
        values=values,
        is_averaged=source.is_averaged,
        folder=folder,
    )
    facts = dataclasses.asdict(converted)
    weights_path: Path = facts.pop("weights_path")
    facts |= {"source": source.name, "sha256": original.sha256, "backbone": backbone}
    return weights_path, facts


@contextlib.contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder; a full disk is an error that says so."""
    with tempfile.TemporaryDirectory(prefix="repot-") as folder, explain_disk_errors(Path(folder)):
        yield Path(folder)
