"""Existing shards of the 2016 schema: TFRecord files of tf.train.Example messages.

Each record is a picture: its bytes are a range of the shard. Label, name and boxes come from the
record, the split from the name of the shard, such as train-00000-of-00128.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from repot import records, storage
from repot.errors import CorruptShardError, UsageError
from repot.file_parts import FilePart
from repot.manifest import Split
from repot.planner.file_table import FoundFile
from repot.planner.inputs.inventory import CandidatePicture
from repot.planner.inputs.stored_file import cached_index, open_stored
from repot.progress import ProgressCounter
from repot.records import BOX_EDGES, Box


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPicture:
    """The picture of one record.

    Attributes:
        candidate: The picture.
        class_id: Number of its label in the shard.
        text: What the label means, for people, if it is a synset; otherwise "".
        has_boxes: Whether the record has the features of bounding boxes, even without any box.
    """

    candidate: CandidatePicture
    class_id: int
    text: str
    has_boxes: bool


def is_tfrecord(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a TFRecord file."""
    return records.is_frame(head)


def read_shard(
    info: storage.ObjectInfo,
    *,
    path: str,
    split: Split | Literal[""],
    listed_labels: Sequence[str],
    listings_uri: str | None,
) -> Iterator[ShardPicture]:
    """Yield the picture of every record.

    Args:
        info: The shard.
        path: Its path relative to PICTURES.
        split: The split of its pictures; "" if none is known.
        listed_labels: The lines of the labels file. A record without a text has only the number of
            its line, counted from 1.
        listings_uri: Folder of cached entries; None disables the cache.

    Raises:
        UsageError: A record is damaged, or has no picture with a label.
    """
    entries = cached_index(info, "tfrecord", listings_uri, lambda: list(_read_entries(info)))
    for number, entry in enumerate(entries):
        class_id = entry["class_id"]
        is_listed = 0 < class_id <= len(listed_labels)
        label = entry["label"] or (listed_labels[class_id - 1] if is_listed else str(class_id))
        name = PurePosixPath(entry["name"]).name or f"{number}.jpg"
        boxes = entry.get("boxes")
        file = FoundFile(
            uri=info.uri,
            path=f"{path}/{number}/{unicodedata.normalize('NFC', name)}",
            size_bytes=entry["size"],
            checksum=entry["crc32c"],
            version=info.version,
            part=FilePart(offset=entry["offset"], num_bytes=entry["size"]),
        )
        candidate = CandidatePicture(
            file=file,
            label=unicodedata.normalize("NFC", label.strip()),
            split=split,
            boxes=tuple(Box(**dict(zip(BOX_EDGES, edges, strict=True))) for edges in boxes or ()),
        )
        yield ShardPicture(
            candidate=candidate,
            class_id=class_id,
            text=entry.get("text", ""),
            has_boxes=boxes is not None,
        )


def _read_entries(info: storage.ObjectInfo) -> Iterator[dict[str, Any]]:
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
