"""Existing shards of the 2016 schema: TFRecord files of tf.train.Example messages.

Each record is a picture: its bytes are a range of the shard. Label, name and boxes come from the
record, the split from the name of the shard, such as train-00000-of-00128.
"""

from collections.abc import Iterator
from typing import Any

from repot import records, storage
from repot.errors import CorruptShardError, UsageError
from repot.file_parts import FilePart
from repot.planner.inputs.stored_file import cached_index, open_stored
from repot.progress import ProgressCounter
from repot.records import BOX_EDGES

HEAD_BYTES = 12
"""How many bytes `is_tfrecord` needs."""


def is_tfrecord(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a TFRecord file."""
    return records.is_frame(head)


def list_shard(info: storage.ObjectInfo, listings_uri: str | None) -> list[dict[str, Any]]:
    """Return one entry per record: where the picture is, and what the record says about it.

    Args:
        info: The shard.
        listings_uri: Folder of cached entries; None disables the cache.

    Raises:
        UsageError: A record is damaged, or has no picture with a label.
    """
    return cached_index(info, "tfrecord", listings_uri, lambda: list(_read_shard(info)))


def entry_part(entry: dict[str, Any]) -> FilePart:
    """Return where the picture of an entry is."""
    return FilePart(offset=entry["offset"], num_bytes=entry["size"])


def _read_shard(info: storage.ObjectInfo) -> Iterator[dict[str, Any]]:
    counter = ProgressCounter("read shard", info.size_bytes >> 20, unit="MiB")
    num_read = 0
    with open_stored(info) as file:
        try:
            for index, (offset, data) in enumerate(records.read_frames(file, info.uri)):
                yield _to_entry(data, offset, f"record {index} of {info.uri}")
                counter.add((offset >> 20) - num_read)
                num_read = offset >> 20
        except CorruptShardError as err:
            raise UsageError(f"{err}") from err


def _to_entry(data: bytes, offset: int, where: str) -> dict[str, Any]:
    try:
        features = records.decode_example(data)
        encoded = features["image/encoded"][0]
        class_id = features["image/class/label"][0]
    except (CorruptShardError, KeyError, IndexError) as err:
        raise UsageError(
            "A shard must have records with image/encoded and image/class/label, as the programs "
            f"of 2016 write them; got {where}. Give the shards of a dataset."
        ) from err
    if not isinstance(encoded, bytes) or not isinstance(class_id, int):
        raise UsageError(
            f"image/encoded must be bytes and image/class/label an integer; got {where}. "
            "Give the shards of a dataset."
        )
    text, synset = (
        b"".join(value for value in features.get(name, [])[:1] if isinstance(value, bytes)).decode(
            errors="replace"
        )
        for name in ("image/class/text", "image/class/synset")
    )
    filename = b"".join(
        value for value in features.get("image/filename", [])[:1] if isinstance(value, bytes)
    ).decode(errors="surrogateescape")
    entry: dict[str, Any] = {
        "offset": offset + data.index(encoded),
        "size": len(encoded),
        "crc32c": storage.crc32c_hex(encoded),
        "class_id": class_id,
        "label": synset or text,
        "name": filename,
    }
    if synset:
        entry["text"] = text
    edges = [features.get(f"image/object/bbox/{edge}") for edge in BOX_EDGES]
    if all(edge is not None for edge in edges):
        entry["boxes"] = [list(box) for box in zip(*edges, strict=True)]
    return entry
