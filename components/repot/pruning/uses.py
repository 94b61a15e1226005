"""uses/<id>.json: what a run uses, so that `repot prune` leaves it alone.

What a run finds in the storage, such as the dataset of an earlier run, may be old. Until the run
has written something itself, nothing else shows that it is in use. Plan therefore notes its
dataset, checkpoint and finished training, and the trainer notes what it trains on. Writing the file
again renews it: when it was written is all that counts.
"""

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from repot import layout, storage
from repot.errors import NotFoundError
from repot.json_record import JsonRecord, checked_text, read_record

_NUM_READERS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Use(JsonRecord):
    """What a run uses; "" for what is not known yet."""

    dataset_id: str
    checkpoint_id: str = ""
    training_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotedUse:
    """A use, the name of its file under the storage URI, and when it was written."""

    use: Use
    name: str
    written_at: float


def note_use(storage_uri: str, use: Use) -> None:
    """Note that a run uses something, now."""
    uri = layout.use_uri(storage_uri, layout.content_id(use.to_json()))
    storage.write_text(uri, checked_text(use.to_json()))


def read_uses(storage_uri: str, known: Mapping[str, NotedUse] | None = None) -> dict[str, NotedUse]:
    """Return every noted use by the name of its file.

    Args:
        storage_uri: Root of all stored files.
        known: What an earlier call returned: files that have not been written since are not read.

    Raises:
        DataError: A file is damaged.
        StorageError: Reading failed.
    """
    earlier = known or {}
    files = {
        storage.relative_name(found.uri, storage_uri): found.written_at
        for found in storage.scan_stored(layout.uses_uri(storage_uri))
        if not found.is_hidden
    }

    def read(name: str) -> NotedUse | None:
        if name in earlier and earlier[name].written_at == files[name]:
            return earlier[name]
        with contextlib.suppress(NotFoundError):  # Another `repot prune` has just deleted it.
            use = read_record(storage.join(storage_uri, name), Use)
            return NotedUse(use=use, name=name, written_at=files[name])
        return None

    with ThreadPoolExecutor(_NUM_READERS) as pool:
        return {noted.name: noted for noted in pool.map(read, files) if noted}
