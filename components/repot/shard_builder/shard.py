"""One shard: its pictures made into records, in order, then its receipt."""

from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from repot import records, storage
from repot.dataset_plan import SourcePicture, read_work
from repot.errors import DataError, NotFoundError, explain_disk_errors
from repot.manifest import Receipt, Rejection, shard_split
from repot.pictures import MAX_FILE_BYTES, RejectedPicture, normalise_picture
from repot.shard_builder.receipts import write_receipt


def build_shard(
    dataset_uri: str, shard: str, *, scratch_path: Path, on_picture: Callable[[], None]
) -> Receipt:
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
        with explain_disk_errors(scratch_path), path.open("wb") as file:
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
        except RejectedPicture as verdict:
            rejected.append(
                Rejection(
                    path=picture.path,
                    label=picture.label,
                    split=split,
                    reason=verdict.reason,
                    detail=verdict.detail,
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
    """Return the serialized record of a picture; RejectedPicture if it is none."""
    normal = normalise_picture(data)
    features = records.picture_features(
        jpeg=normal.jpeg,
        height=normal.height,
        width=normal.width,
        class_id=picture.class_id,
        label=picture.label,
        filename=picture.path.rpartition("/")[2],
    )
    return records.encode_example(features)


_NUM_READERS = 8
# Read ahead: up to so many pictures and bytes, but always one.
_MAX_PICTURES = 16
_MAX_BYTES = 64 << 20


def read_ahead(pictures: Sequence[SourcePicture]) -> Generator[tuple[SourcePicture, Future[bytes]]]:
    """Yield every picture with its bytes, in order.

    The future's result raises:
        RejectedPicture: The file is larger than a picture may be; it is not read.
        DataError: The file was changed or deleted since it was listed.
        StorageError: It cannot be read.
    """
    readers = ThreadPoolExecutor(_NUM_READERS)
    waiting: deque[tuple[SourcePicture, Future[bytes]]] = deque()
    waiting_bytes = 0
    try:
        for picture in pictures:
            while waiting and (
                len(waiting) >= _MAX_PICTURES or waiting_bytes + picture.size_bytes > _MAX_BYTES
            ):
                waiting_bytes -= waiting[0][0].size_bytes
                yield waiting.popleft()
            waiting.append((picture, readers.submit(read_picture, picture)))
            waiting_bytes += picture.size_bytes
        yield from waiting
    finally:
        readers.shutdown(wait=True, cancel_futures=True)


def read_picture(picture: SourcePicture) -> bytes:
    """Return the bytes of a picture; raises as the futures of `read_ahead`."""
    if picture.size_bytes > MAX_FILE_BYTES:
        raise RejectedPicture("too_large", f"{picture.size_bytes} bytes")
    try:
        data = storage.read_bytes(picture.uri, version=picture.version)
    except NotFoundError:
        data = _read_any_version(picture)
    if storage.crc32c_hex(data) != picture.crc32c:
        raise _changed(picture)
    return data


def _read_any_version(picture: SourcePicture) -> bytes:
    """Return the bytes as they are now: a new version of equal bytes is no change."""
    try:
        return storage.read_bytes(picture.uri)
    except NotFoundError as err:
        raise _changed(picture) from err


def _changed(picture: SourcePicture) -> DataError:
    return DataError(
        f"A picture must stay as it was when it was listed; {picture.uri} was changed or deleted since. "
        "Run again, to list the pictures anew."
    )
