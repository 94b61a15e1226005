"""Store checkpoints, and load the original files of one; `repot.checkpoint_record` finds them.

<checkpoints_uri>/
  <sha256>/original/                       the files as they were fetched
  <sha256>/<backbone>-<values>/            weights.h5, checkpoint.json (last)
"""

import logging
from pathlib import Path

from repot import storage
from repot.checkpoint_fetcher.originals import Original, read_original
from repot.checkpoint_record import CheckpointRecord
from repot.folder_checksums import write_last
from repot.json_record import record_text
from repot.layout import CHECKPOINT_NAME, ORIGINAL_FOLDER, WEIGHTS_NAME

_log = logging.getLogger(__name__)


def save_checkpoint(folder_uri: str, weights_path: Path, record: CheckpointRecord) -> None:
    """Store a converted checkpoint; its record is written last."""
    storage.upload(weights_path, storage.join(folder_uri, WEIGHTS_NAME))
    write_last(folder_uri, CHECKPOINT_NAME, record_text(record), parts=[WEIGHTS_NAME])


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
