"""Build one shard: read its pictures ahead, write their records in order, then its receipt.

A shard on a local disk is written in its place, any other one in a scratch folder, from where it is
uploaded. What its pictures look like is stored before the receipt, see
`repot.shard_builder.appearances`. What an earlier dataset has of the shard is taken over, see
`repot.shard_builder.reuse`.
"""

import base64
import contextlib
import io
import os
import queue
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO, TypeVar

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from repot import records, storage
from repot.composition import encode_numbers
from repot.errors import ContentEncodingError, DataError, NotFoundError, convert_disk_errors
from repot.example_digests import DIGEST_BYTES, example_digest
from repot.file_parts import FilePart, read_part
from repot.manifest import Receipt, Rejection, shard_split
from repot.picture_decoder import MAX_FILES, MAX_FILES_BYTES
from repot.picture_result import MAX_FILE_BYTES, Edges, Picture, RejectedPicture
from repot.shard_builder.appearances import RowWriter, appearances_uri, measure
from repot.shard_builder.receipts import write_receipt
from repot.shard_builder.reuse import build_on_base
from repot.work_list import SourcePicture, etag_checksum, is_etag_checksum, read_work_list

_MAX_LOCAL_READERS = 8
# A request takes as long as decoding eighty pictures, and hardly any computing.
_NUM_STORE_READERS = 2 * MAX_FILES
# Limits of reading ahead, in pictures and bytes. A single picture may exceed the limit of bytes.
# As many as are decoded at once, so that reading goes on meanwhile.
_MAX_LOCAL_PICTURES_AHEAD = MAX_FILES
# While a batch is decoded, nothing is requested: enough for it must be under way or here.
_MAX_STORE_PICTURES_AHEAD = 4 * MAX_FILES
_MAX_BYTES_AHEAD = 64 << 20
# One thread reads what the system has in memory in half of the time of several, which wait for each
# other. If a disk or network makes the builder wait for so long, another one is added.
_MAX_WAIT_SECONDS = 0.005
# Local files are read several at a time: handing over each one alone takes longer than reading it.
# From a store, each is requested by itself, so that as many are under way as there are readers.
_LOCAL_PICTURES_AT_ONCE = 16

# Linux and macOS write 1024 at a time.
_MAX_PIECES = 1000

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

FileBytes = bytes | RejectedPicture
"""The bytes of a picture file, or why they cannot be used."""

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
        scratch_path: Local folder with room for one shard; it is created if it is needed.
        decode: Decodes pictures, as `repot.picture_decoder.PictureDecoder.decode` does.
        on_pictures: Called with the number of pictures that were just done.

    Raises:
        DataError: A picture was changed or deleted after it was listed.
        StorageError: Reading or writing failed, or the scratch folder is full.
    """
    pictures = read_work_list(dataset_uri, shard)
    path = scratch_path / shard

    def write_new(new: Sequence[SourcePicture], file: BinaryIO) -> tuple[Receipt, NDArray[np.void]]:
        writer = _RecordWriter(shard)
        rows = [writer.write(file, batch, _decode(batch, decode)) for batch in _batches(new)]
        return writer.receipt(), np.concatenate([measure([]), *rows])

    with convert_disk_errors(scratch_path):
        taken_over = build_on_base(dataset_uri, shard, pictures, path, write_new)
    if taken_over:
        write_receipt(dataset_uri, taken_over)
        on_pictures(len(pictures))
        return taken_over
    writer = _RecordWriter(shard)

    def write(file: BinaryIO, rows_file: BinaryIO) -> None:
        rows = RowWriter(rows_file)
        for batch in _batches(pictures):
            rows.write(writer.write(file, batch, _decode(batch, decode)))
            on_pictures(len(batch))
        rows.finish()

    _store_both(
        (storage.join(dataset_uri, shard), appearances_uri(dataset_uri, shard)), path, write
    )
    receipt = writer.receipt()
    write_receipt(dataset_uri, receipt)
    return receipt


def _store_both(
    uris: tuple[str, str], scratch_path: Path, write: Callable[[BinaryIO, BinaryIO], None]
) -> None:
    """Store two files that are written together, the first one first.

    Args:
        uris: Their locations, both local or neither.
        scratch_path: Local file, to which the first one is written if it is not local.
        write: Writes them.

    Raises:
        StorageError: Writing failed.
    """
    first, second = uris
    if storage.is_local(first):
        storage.write_atomically(
            Path(second),
            lambda second_file: storage.write_atomically(
                Path(first), lambda file: write(file, second_file), is_nameless=True
            ),
            is_nameless=True,
        )
        return
    paths = scratch_path, scratch_path.with_name(f"{scratch_path.name}.rows")
    try:
        with convert_disk_errors(scratch_path.parent):
            scratch_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with paths[0].open("wb") as file, paths[1].open("wb") as second_file:
                write(file, second_file)
        for path, uri in zip(paths, uris, strict=True):
            storage.upload(path, uri)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def read_ahead(pictures: Sequence[SourcePicture]) -> Generator[tuple[SourcePicture, FileBytes]]:
    """Yield every picture with its bytes, in order, reading the next ones in threads.

    Raises:
        DataError, StorageError: As `read_picture`.
    """
    is_local = all(storage.is_local(picture.uri) for picture in pictures)
    readers = Readers(1 if is_local else _NUM_STORE_READERS)
    max_ahead = _MAX_LOCAL_PICTURES_AHEAD if is_local else _MAX_STORE_PICTURES_AHEAD
    pending: deque[tuple[list[SourcePicture], Future[list[FileBytes]]]] = deque()
    num_pending = pending_bytes = 0

    def next_read() -> Iterator[tuple[SourcePicture, FileBytes]]:
        group, future = pending.popleft()
        started = time.monotonic()
        found = future.result()
        is_slow = time.monotonic() - started > _MAX_WAIT_SECONDS
        if is_slow and readers.max_threads < _MAX_LOCAL_READERS:
            readers.max_threads += 1
        return zip(group, found, strict=True)

    try:
        for group in _groups(pictures):
            group_bytes = _size(group)
            while pending and (
                num_pending + len(group) > max_ahead
                or pending_bytes + group_bytes > _MAX_BYTES_AHEAD
            ):
                first = pending[0][0]
                num_pending, pending_bytes = num_pending - len(first), pending_bytes - _size(first)
                yield from next_read()
            pending.append((group, readers.submit(_read_group, group)))
            num_pending, pending_bytes = num_pending + len(group), pending_bytes + group_bytes
        while pending:
            yield from next_read()
    finally:
        readers.close()


class Readers:
    """Threads that read.

    Unlike those of an executor, the program does not wait for them when it ends: reading from a
    disk that is gone never returns.

    Attributes:
        max_threads: Number of threads at most; a new one starts with a task.
    """

    def __init__(self, max_threads: int) -> None:
        self.max_threads = max_threads
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._num_threads = 0

    def submit(self, read: Callable[[_Item], _Result], item: _Item) -> "Future[_Result]":
        """Return the future result of reading an item, by a new thread if one may be started."""
        future: Future[_Result] = Future()

        def run() -> None:
            try:
                future.set_result(read(item))
            except BaseException as err:  # noqa: BLE001 (raised by whoever wants the result)
                future.set_exception(err)

        self._tasks.put(run)
        if self._num_threads < self.max_threads:
            self._num_threads += 1
            threading.Thread(target=self._run, daemon=True).start()
        return future

    def close(self) -> None:
        """Begin no further task, and end the threads."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in range(self._num_threads):
            self._tasks.put(None)

    def _run(self) -> None:
        while task := self._tasks.get():
            task()


def _groups(pictures: Iterable[SourcePicture]) -> Iterator[list[SourcePicture]]:
    """Yield what is read at once: some local files, or one file of a store."""
    group: list[SourcePicture] = []
    group_bytes = 0
    for picture in pictures:
        group_bytes += picture.size_bytes
        is_full = group_bytes > _MAX_BYTES_AHEAD // _MAX_LOCAL_READERS
        is_local = storage.is_local(picture.uri)
        if group and (is_full or not is_local):
            yield group
            group, group_bytes = [], picture.size_bytes
        group.append(picture)
        if len(group) == _LOCAL_PICTURES_AT_ONCE or not is_local:
            yield group
            group, group_bytes = [], 0
    if group:
        yield group


def _size(group: Sequence[SourcePicture]) -> int:
    return sum(picture.size_bytes for picture in group)


def _read_group(group: Sequence[SourcePicture]) -> list[FileBytes]:
    found: list[FileBytes] = []
    for picture in group:
        try:
            found.append(read_picture(picture))
        except RejectedPicture as rejection:
            found.append(rejection)
    return found


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
        if storage.crc32c_hex(data) != picture.checksum:
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
    if is_etag_checksum(picture.checksum):
        listed = picture.checksum, picture.size_bytes
        return (etag_checksum(info.version), info.size_bytes) == listed
    return info.crc32c == picture.checksum


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


class _RecordWriter:
    """Writes records to a shard, and keeps what its receipt needs."""

    def __init__(self, shard: str) -> None:
        self._shard, self._split = shard, shard_split(shard)
        self._crc, self._size_bytes, self._num_pictures = 0, 0, 0
        self._class_counts: Counter[str] = Counter()
        self._digests, self._groups, self._record_crcs = bytearray(), bytearray(), bytearray()
        self._record_bytes = array("I")
        self._rejected: list[Rejection] = []

    def write(
        self,
        file: BinaryIO,
        batch: Sequence[tuple[SourcePicture, FileBytes]],
        results: Sequence[Picture | RejectedPicture],
    ) -> NDArray[np.void]:
        """Write the records of some pictures; return what they look like."""
        rows = self._measure(batch, results)
        pieces: list[bytes] = []
        for (picture, _), result in zip(batch, results, strict=True):
            if isinstance(result, Picture):
                record = records.frame_picture(_features(picture, result))
                pieces += record
                for piece in record:
                    self._crc = google_crc32c.extend(self._crc, piece)
                size_bytes = len(record[0]) + len(record[1]) + len(record[2])
                self._size_bytes += size_bytes
                self._record_bytes.append(size_bytes)
                self._record_crcs += record[-1][-4:]
                self._digests += example_digest(result.jpeg)
                self._groups += bytes.fromhex(picture.group).rjust(DIGEST_BYTES, b"\0")
                self._class_counts[picture.label] += 1
            else:
                self._rejected.append(
                    Rejection(
                        path=picture.path,
                        label=picture.label,
                        split=self._split,
                        reason=result.reason,
                        detail=result.detail,
                    )
                )
        _write(file, pieces)
        return rows

    def receipt(self) -> Receipt:
        """Return the receipt of all that was written."""
        return Receipt(
            shard=self._shard,
            split=self._split,
            num_records=self._class_counts.total(),
            size_bytes=self._size_bytes,
            crc32c=f"{self._crc:08x}",
            class_counts=dict(sorted(self._class_counts.items())),
            rejected=tuple(self._rejected),
            digests=base64.b64encode(self._digests).decode(),
            groups=base64.b64encode(self._groups).decode() if any(self._groups) else "",
            record_bytes=encode_numbers(np.array(self._record_bytes, np.uint32)),
            record_crcs=base64.b64encode(self._record_crcs).decode(),
        )

    def _measure(
        self,
        batch: Sequence[tuple[SourcePicture, FileBytes]],
        results: Sequence[Picture | RejectedPicture],
    ) -> NDArray[np.void]:
        used = [i for i, result in enumerate(results) if isinstance(result, Picture)]
        rows = measure([result for result in results if isinstance(result, Picture)])
        rows["picture"] = [self._num_pictures + i for i in used]
        rows["class_id"] = [batch[i][0].class_id for i in used]
        self._num_pictures += len(batch)
        return rows


def _batches(
    pictures: Sequence[SourcePicture],
) -> Iterator[list[tuple[SourcePicture, FileBytes]]]:
    """Yield the pictures in order, as many as are decoded at once, each with its bytes."""
    batch: list[tuple[SourcePicture, FileBytes]] = []
    batch_bytes = 0
    for picture, data in read_ahead(pictures):
        size_bytes = len(data) if isinstance(data, bytes) else 0
        if batch and (len(batch) == MAX_FILES or batch_bytes + size_bytes > MAX_FILES_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append((picture, data))
        batch_bytes += size_bytes
    if batch:
        yield batch


def _decode(
    batch: Sequence[tuple[SourcePicture, FileBytes]], decode: Decode
) -> list[Picture | RejectedPicture]:
    files = [(picture.uri, data) for picture, data in batch if isinstance(data, bytes)]
    crops = [crop_edges(picture) for picture, data in batch if isinstance(data, bytes)]
    decoded = iter(decode(files, crops))
    return [next(decoded) if isinstance(data, bytes) else data for _, data in batch]


def crop_edges(picture: SourcePicture) -> Edges | None:
    """Return what to crop a picture to, see `repot.picture_decoder`; None for all of it."""
    box = picture.crop
    return (box.xmin, box.ymin, box.xmax, box.ymax) if box else None


def _features(picture: SourcePicture, normal: Picture) -> dict[str, list[records.Value]]:
    """Return the features of a picture's tf.train.Example."""
    return records.picture_features(
        jpeg=normal.jpeg,
        height=normal.height,
        width=normal.width,
        class_id=picture.class_id,
        label=picture.label,
        filename=picture.path.rpartition("/")[2],
        text=picture.text,
        boxes=picture.boxes,
    )


def _write(file: BinaryIO, pieces: Sequence[bytes]) -> None:
    """Append bytes to a file; with a few calls, which take a third of the time of many."""
    file.flush()
    for start in range(0, len(pieces), _MAX_PIECES):
        some = pieces[start : start + _MAX_PIECES]
        written = os.writev(file.fileno(), some)
        # It ends early where the disk is full, and beyond 2 GiB.
        rest = memoryview(b"".join(some))[written:] if written < sum(map(len, some)) else b""
        while rest:
            rest = rest[os.write(file.fileno(), rest) :]
    # The file object learns where it is.
    file.seek(0, io.SEEK_END)
