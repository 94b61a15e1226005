"""Build one shard: read its pictures ahead, write their records in order, then its receipt.

What its pictures look like is stored before the receipt, see `repot.shard_builder.appearances`.
"""

import base64
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from repot import records, storage
from repot.dataset_plan import (
    SourcePicture,
    etag_checksum,
    is_etag_checksum,
    read_work_list,
)
from repot.errors import ContentEncodingError, DataError, NotFoundError, convert_disk_errors
from repot.example_digests import DIGEST_BYTES, example_digest
from repot.file_parts import FilePart, read_part
from repot.manifest import Receipt, Rejection, shard_split
from repot.picture_decoder import MAX_FILES, MAX_FILES_BYTES
from repot.picture_result import MAX_FILE_BYTES, Edges, Picture, RejectedPicture
from repot.shard_builder.appearances import measure, write_appearances
from repot.shard_builder.receipts import write_receipt

_NUM_READERS = 8
# Limits of reading ahead, in pictures and bytes. A single picture may exceed the limit of bytes.
# As many as are decoded at once, so that reading goes on meanwhile.
_MAX_PICTURES_AHEAD = MAX_FILES
_MAX_BYTES_AHEAD = 64 << 20

Decode = Callable[
    [Sequence[tuple[str, bytes]], Sequence[Edges | None]], Sequence[Picture | RejectedPicture]
]
"""Returns the result for each picture, given its name and its bytes, and what to crop it to."""


def build_shard(
    dataset_uri: str,
    shard: str,
    *,
    scratch_path: Path,
    decode: Decode,
    on_pictures: Callable[[int], None],
) -> Receipt:
    """Build and upload a shard, then write and return its receipt.

    Args:
        dataset_uri: Folder of a planned dataset.
        shard: Name of the shard.
        scratch_path: Local folder with room for one shard.
        decode: Decodes pictures, as `repot.picture_decoder.PictureDecoder.decode` does.
        on_pictures: Called with the number of pictures that were just done.

    Raises:
        DataError: A picture was changed or deleted after it was listed.
        StorageError: Reading or writing failed, or the scratch folder is full.
    """
    path = scratch_path / shard
    try:
        with convert_disk_errors(scratch_path), path.open("wb") as file:
            pictures = read_work_list(dataset_uri, shard)
            receipt, rows = _write_records(pictures, shard, file, decode, on_pictures)
        storage.upload(path, storage.join(dataset_uri, shard))
    finally:
        path.unlink(missing_ok=True)
    write_appearances(dataset_uri, shard, rows)
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
    """Return the bytes of a picture, verified against what was listed.

    Raises:
        RejectedPicture: The file is larger than any accepted picture (then it is not read), or it
            cannot be decompressed.
        DataError: The file was changed or deleted after it was listed.
        StorageError: The file cannot be read.
    """
    if picture.size_bytes > MAX_FILE_BYTES:
        raise RejectedPicture("too_large", f"{picture.size_bytes} bytes")
    if picture.part:
        data = _read_part(picture, picture.part)
        if storage.crc32c_hex(data) != picture.crc32c:
            raise _changed(picture)
        return data
    try:
        content = _read_content(picture)
    except ContentEncodingError as err:
        raise RejectedPicture("unreadable", str(err)) from err
    if not _is_listed(content.info, picture):
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


def _is_listed(info: storage.ObjectInfo, picture: SourcePicture) -> bool:
    """Return whether what was read, verified by its CRC32C, is what was listed."""
    if is_etag_checksum(picture.crc32c):
        listed = picture.crc32c, picture.size_bytes
        return (etag_checksum(info.version), info.size_bytes) == listed
    return info.crc32c == picture.crc32c


def _read_part(picture: SourcePicture, part: FilePart) -> bytes:
    """Return a part of the listed version of a file, or of the current one."""
    try:
        with contextlib.suppress(NotFoundError):
            return read_part(
                picture.uri, part, size_bytes=picture.size_bytes, version=picture.version
            )
        return read_part(picture.uri, part, size_bytes=picture.size_bytes)
    except (NotFoundError, DataError) as err:
        raise _changed(picture) from err


def _changed(picture: SourcePicture) -> DataError:
    return DataError(
        "A picture must not change after it is listed; "
        f"{picture.uri} was changed or deleted since. Run again to list the pictures again."
    )


def _write_records(
    pictures: Sequence[SourcePicture],
    shard: str,
    file: BinaryIO,
    decode: Decode,
    on_pictures: Callable[[int], None],
) -> tuple[Receipt, NDArray[np.void]]:
    """Return the receipt and what the pictures of the records look like."""
    split = shard_split(shard)
    rows = []
    num_done = 0
    class_counts: Counter[str] = Counter()
    digests, groups = [], []
    rejected = []
    crc = 0
    for batch in _batches(pictures):
        results = list(_decode(batch, decode))
        used = [i for i, result in enumerate(results) if isinstance(result, Picture)]
        rows.append(measure([result for result in results if isinstance(result, Picture)]))
        rows[-1]["picture"] = [num_done + i for i in used]
        rows[-1]["class_id"] = [batch[i][0].class_id for i in used]
        num_done += len(batch)
        for (picture, _), result in zip(batch, results, strict=True):
            if isinstance(result, Picture):
                record = records.frame_record(_to_example(picture, result))
                file.write(record)
                crc = google_crc32c.extend(crc, record)
                digests.append(example_digest(result.jpeg))
                groups.append(bytes.fromhex(picture.group).rjust(DIGEST_BYTES, b"\0"))
                class_counts[picture.label] += 1
            else:
                rejected.append(
                    Rejection(
                        path=picture.path,
                        label=picture.label,
                        split=split,
                        reason=result.reason,
                        detail=result.detail,
                    )
                )
        on_pictures(len(batch))
    receipt = Receipt(
        shard=shard,
        split=split,
        num_records=class_counts.total(),
        size_bytes=file.tell(),
        crc32c=f"{crc:08x}",
        class_counts=dict(sorted(class_counts.items())),
        rejected=tuple(rejected),
        digests=base64.b64encode(b"".join(digests)).decode(),
        groups=base64.b64encode(b"".join(groups)).decode() if any(map(any, groups)) else "",
    )
    return receipt, np.concatenate([*rows, measure([])])


def _batches(
    pictures: Sequence[SourcePicture],
) -> Iterator[list[tuple[SourcePicture, bytes | RejectedPicture]]]:
    """Yield the pictures in order, each with its bytes, or with why they cannot be used."""
    batch: list[tuple[SourcePicture, bytes | RejectedPicture]] = []
    batch_bytes = 0
    for picture, future in read_ahead(pictures):
        try:
            data: bytes | RejectedPicture = future.result()
        except RejectedPicture as rejection:
            data = rejection
        size_bytes = len(data) if isinstance(data, bytes) else 0
        if batch and (len(batch) == MAX_FILES or batch_bytes + size_bytes > MAX_FILES_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append((picture, data))
        batch_bytes += size_bytes
    if batch:
        yield batch


def _decode(
    batch: Sequence[tuple[SourcePicture, bytes | RejectedPicture]], decode: Decode
) -> Iterator[Picture | RejectedPicture]:
    files = [(picture.uri, data) for picture, data in batch if isinstance(data, bytes)]
    crops = [crop_edges(picture) for picture, data in batch if isinstance(data, bytes)]
    decoded = iter(decode(files, crops))
    for _, data in batch:
        yield next(decoded) if isinstance(data, bytes) else data


def crop_edges(picture: SourcePicture) -> Edges | None:
    """Return what to crop a picture to, see `repot.picture_decoder`; None for all of it."""
    box = picture.crop
    return (box.xmin, box.ymin, box.xmax, box.ymax) if box else None


def _to_example(picture: SourcePicture, normal: Picture) -> bytes:
    """Return a picture's serialized tf.train.Example."""
    features = records.picture_features(
        jpeg=normal.jpeg,
        height=normal.height,
        width=normal.width,
        class_id=picture.class_id,
        label=picture.label,
        filename=picture.path.rpartition("/")[2],
        text=picture.text,
        boxes=picture.boxes,
    )
    return records.encode_example(features)
