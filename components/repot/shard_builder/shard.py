"""One shard: its pictures made into records, in order, then its receipt."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from repot import images, records, storage
from repot.manifest import Receipt, Rejection, shard_split
from repot.scratch import room_in
from repot.shard_builder.reading import read_ahead
from repot.shard_builder.receipts import write_receipt
from repot.shard_builder.work import SourcePicture, read_work


def build_shard(dataset_uri: str, shard: str, *, scratch_path: Path, on_picture: Callable[[], None]) -> Receipt:
    """Build a shard, write it, then its receipt, and return that.

    Args:
        dataset_uri: The data set, planned.
        shard: The shard's name.
        scratch_path: Local folder that has room for a shard.
        on_picture: Called after every picture.

    Raises:
        DataError: A picture was changed or deleted since it was listed.
        StorageError: Something cannot be read or written, or the scratch folder has no room.
    """
    path = scratch_path / shard
    try:
        with room_in(scratch_path), path.open("wb") as file:
            receipt = _write_records(read_work(dataset_uri, shard), shard, file, on_picture)
        storage.upload(path, storage.join(dataset_uri, shard))
    finally:
        path.unlink(missing_ok=True)
    write_receipt(dataset_uri, receipt)
    return receipt


def _write_records(
    pictures: list[SourcePicture], shard: str, file: BinaryIO, on_picture: Callable[[], None]
) -> Receipt:
    split = shard_split(shard)
    class_counts: Counter[str] = Counter()
    rejected = []
    crc = 0
    for picture, data in read_ahead(pictures):
        try:
            record = records.frame_record(_example(picture, data.result()))
        except images.Rejected as verdict:
            rejected.append(
                Rejection(
                    path=picture.path, label=picture.label, split=split, reason=verdict.reason, detail=verdict.detail
                )
            )
        else:
            file.write(record)
            crc = google_crc32c.extend(crc, record)
            class_counts[picture.label] += 1
        on_picture()
    return Receipt(
        shard=shard,
        split=split,
        num_records=class_counts.total(),
        size_bytes=file.tell(),
        crc32c=f"{crc:08x}",
        class_counts=dict(sorted(class_counts.items())),
        rejected=tuple(rejected),
    )


def _example(picture: SourcePicture, data: bytes) -> bytes:
    """Return the serialized record of a picture; Rejected if it is none."""
    normal = images.normalise(data)
    features = records.picture_features(
        jpeg=normal.jpeg,
        height=normal.height,
        width=normal.width,
        class_id=picture.class_id,
        label=picture.label,
        filename=picture.path.rpartition("/")[2],
    )
    return records.encode_example(features)
