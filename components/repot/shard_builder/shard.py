"""Build one shard: read its pictures ahead, write their records in order, then its receipt."""

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from repot import records, storage
from repot.dataset_plan import SourcePicture, read_work_list
from repot.errors import ContentEncodingError, DataError, NotFoundError, convert_disk_errors
from repot.manifest import Receipt, Rejection, shard_split
from repot.pictures import MAX_FILE_BYTES, RejectedPicture, normalise_picture
from repot.shard_builder.receipts import write_receipt

_NUM_READERS = 8
# Limits of reading ahead, in pictures and bytes. A single picture may exceed the limit of bytes.
_MAX_PICTURES_AHEAD = 16
_MAX_BYTES_AHEAD = 64 << 20


def build_shard(
    dataset_uri: str, shard: str, *, scratch_path: Path, on_picture: Callable[[], None]
) -> Receipt:
    """Build and upload a shard, then write and return its receipt.

    Args:
        dataset_uri: Folder of a planned dataset.
        shard: Name of the shard.
        scratch_path: Local folder with room for one shard.
        on_picture: Called after every picture.

    Raises:
        DataError: A picture was changed or deleted after it was listed.
        StorageError: Reading or writing failed, or the scratch folder is full.
    """
    path = scratch_path / shard
    try:
        with convert_disk_errors(scratch_path), path.open("wb") as file:
            receipt = _write_records(read_work_list(dataset_uri, shard), shard, file, on_picture)
        storage.upload(path, storage.join(dataset_uri, shard))
    finally:
        path.unlink(missing_ok=True)
    write_receipt(dataset_uri, receipt)
    return receipt


def read_ahead(
    pictures: Sequence[SourcePicture],
) -> Generator[tuple[SourcePicture, Future[bytes]]]:
    """Yield every picture with a future of its bytes, in order, reading the next ones in threads.

    `result()` of a future raises as `read_picture`.
    """
    readers = ThreadPoolExecutor(_NUM_READERS)
    pending: deque[tuple[SourcePicture, Future[bytes]]] = deque()
    pending_bytes = 0
    try:
        for picture in pictures:
            while pending and (
                len(pending) >= _MAX_PICTURES_AHEAD
                or pending_bytes + picture.size_bytes > _MAX_BYTES_AHEAD
            ):
                pending_bytes -= pending[0][0].size_bytes
                yield pending.popleft()
            pending.append((picture, readers.submit(read_picture, picture)))
            pending_bytes += picture.size_bytes
        yield from pending
    finally:
        readers.shutdown(wait=True, cancel_futures=True)


def read_picture(picture: SourcePicture) -> bytes:
    """Return the bytes of a picture, verified against the checksum from when it was listed.

    Raises:
        RejectedPicture: The file is larger than any accepted picture (then it is not read), or it
            cannot be decompressed.
        DataError: The file was changed or deleted after it was listed.
        StorageError: The file cannot be read.
    """
    if picture.size_bytes > MAX_FILE_BYTES:
        raise RejectedPicture("too_large", f"{picture.size_bytes} bytes")
    try:
        content = _read_content(picture)
    except ContentEncodingError as err:
        raise RejectedPicture("unreadable", str(err)) from err
    if content.info.crc32c != picture.crc32c:
        raise _changed(picture)
    if len(content.data) > MAX_FILE_BYTES:
        raise RejectedPicture("too_large", f"{len(content.data)} bytes after decompression")
    return content.data


def _read_content(picture: SourcePicture) -> storage.Content:
    """Return the listed version, or the current one: equal bytes uploaded again do not differ."""
    try:
        with contextlib.suppress(NotFoundError):
            return storage.read_object(picture.uri, version=picture.version)
        return storage.read_object(picture.uri)
    except NotFoundError as err:
        raise _changed(picture) from err


def _changed(picture: SourcePicture) -> DataError:
    return DataError(
        "A picture must not change after it is listed; "
        f"{picture.uri} was changed or deleted since. Run again to list the pictures again."
    )


def _write_records(
    pictures: Sequence[SourcePicture], shard: str, file: BinaryIO, on_picture: Callable[[], None]
) -> Receipt:
    split = shard_split(shard)
    class_counts: Counter[str] = Counter()
    rejected = []
    crc = 0
    for picture, data in read_ahead(pictures):
        try:
            record = records.frame_record(_to_example(picture, data.result()))
        except RejectedPicture as rejection:
            rejected.append(
                Rejection(
                    path=picture.path,
                    label=picture.label,
                    split=split,
                    reason=rejection.reason,
                    detail=rejection.detail,
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


def _to_example(picture: SourcePicture, data: bytes) -> bytes:
    """Return a picture's serialized tf.train.Example; raises RejectedPicture."""
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
