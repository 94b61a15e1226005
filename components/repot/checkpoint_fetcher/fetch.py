"""Fetch a checkpoint once, verify it, and store the backbone's weights under its checksum.

TensorFlow is imported only when something has to be converted, so repeating a run takes a moment.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from repot import quiet_tensorflow, storage
from repot.checkpoint_fetcher import checkpoint_store
from repot.checkpoint_fetcher.originals import Original, fetch_original
from repot.checkpoint_files import find_version
from repot.checkpoint_record import CheckpointRecord, find_checkpoint, find_sha256, save_sha256
from repot.checkpoints import CheckpointSource, resolve_source
from repot.errors import convert_disk_errors
from repot.layout import CHECKPOINT_NAME, WEIGHTS_NAME

_log = logging.getLogger(__name__)


def fetch_checkpoint(
    source: str, *, backbone: str, values: str, checkpoints_uri: str, sha256: str = ""
) -> str:
    """Return the id of a stored checkpoint; fetch and convert it first if it is not stored yet.

    Args:
        source: A known name, a path or a URI, see `repot.checkpoints`.
        backbone: A key of `repot.zoo.BACKBONES`.
        values: Which values of a TensorFlow checkpoint: "ema", "raw", or "auto" for the averages if
            the checkpoint has them.
        checkpoints_uri: Folder of all stored checkpoints.
        sha256: Expected checksum of the original files; "" to skip the check. With it, a stored
            checkpoint is found without contacting the source. Without it, the source is queried for
            its current version; a web server that does not tell is assumed to be unchanged.

    Returns:
        `<sha256 of the original>/<backbone>-<values>`, a folder below `checkpoints_uri`.

    Raises:
        UsageError: An argument is invalid.
        CheckpointError: The checkpoint cannot be fetched, has another checksum than `sha256`, is
            damaged, or does not fit the backbone.
        StorageError: It cannot be stored, or the temporary folder is full.
    """
    resolved = resolve_source(source, backbone=backbone, sha256=sha256, values=values)
    if resolved.sha256:
        version, known_sha256 = None, resolved.sha256
    else:
        version = find_version(resolved.uri)
        known_sha256 = find_sha256(checkpoints_uri, source_uri=resolved.uri, version=version)
    if known_sha256:
        stored_id = find_checkpoint(
            checkpoints_uri, sha256=known_sha256, backbone=backbone, values=values
        )
        if stored_id:
            _log.info("checkpoint %s is already stored", stored_id)
            return stored_id
    with _scratch_folder() as scratch:
        original = None
        if known_sha256:
            original = checkpoint_store.load_original(
                checkpoints_uri, known_sha256, scratch / "stored"
            )
        if original is None:
            original = fetch_original(resolved.uri, scratch / "fetched", sha256=resolved.sha256)
        weights_path = scratch / WEIGHTS_NAME
        record = _convert(
            original, resolved, backbone=backbone, values=values, weights_path=weights_path
        )
        checkpoint_store.save_original(checkpoints_uri, original)
        folder_uri = storage.join(checkpoints_uri, record.checkpoint_id)
        checkpoint_store.save_checkpoint(folder_uri, weights_path, record)
    if not resolved.sha256:
        save_sha256(
            checkpoints_uri,
            source_uri=resolved.uri,
            version=version or "",
            sha256=original.sha256,
        )
    _log.info("checkpoint %s: %d parameters", record.checkpoint_id, record.num_parameters)
    return record.checkpoint_id


def convert_to_folder(
    source: str, *, backbone: str, values: str, folder_uri: str, sha256: str = ""
) -> CheckpointRecord:
    """Fetch a checkpoint, and write its weights.h5 and checkpoint.json into a folder.

    Nothing is cached.

    Args:
        source, backbone, values, sha256: See `fetch_checkpoint`.
        folder_uri: The folder.

    Returns:
        The contents of checkpoint.json.

    Raises:
        UsageError, CheckpointError, StorageError: See `fetch_checkpoint`.
    """
    resolved = resolve_source(source, backbone=backbone, sha256=sha256, values=values)
    with _scratch_folder() as scratch:
        original = fetch_original(resolved.uri, scratch / "fetched", sha256=resolved.sha256)
        weights_path = scratch / WEIGHTS_NAME
        record = _convert(
            original, resolved, backbone=backbone, values=values, weights_path=weights_path
        )
        # An earlier record must not describe the new weights, not even for a moment.
        storage.delete(storage.join(folder_uri, CHECKPOINT_NAME))
        checkpoint_store.save_checkpoint(folder_uri, weights_path, record)
    return record


def _convert(
    original: Original,
    source: CheckpointSource,
    *,
    backbone: str,
    values: str,
    weights_path: Path,
) -> CheckpointRecord:
    quiet_tensorflow.import_tensorflow()
    from repot.checkpoint_fetcher.convert import convert

    return convert(original, source, backbone=backbone, values=values, weights_path=weights_path)


@contextlib.contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder; raise a StorageError that explains itself if the disk is full."""
    with tempfile.TemporaryDirectory(prefix="repot-") as folder, convert_disk_errors(Path(folder)):
        yield Path(folder)
