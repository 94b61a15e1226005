"""The bytes of listed pictures, in order, a few of them read ahead; each is what it was when it was listed."""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from repot import storage
from repot.errors import DataError, NotFoundError
from repot.images import MAX_FILE_BYTES, Rejected
from repot.shard_builder.work import SourcePicture

_NUM_READERS = 8
# Read ahead: up to so many pictures and bytes, but always one.
_MAX_PICTURES = 16
_MAX_BYTES = 64 << 20


def read_ahead(pictures: Sequence[SourcePicture]) -> Generator[tuple[SourcePicture, Future[bytes]]]:
    """Yield every picture with its bytes, in order.

    The future's result raises:
        Rejected: The file is larger than a picture may be; it is not read.
        DataError: The file was changed or deleted since it was listed.
        StorageError: It cannot be read.
    """
    readers = ThreadPoolExecutor(_NUM_READERS)
    waiting: deque[tuple[SourcePicture, Future[bytes]]] = deque()
    waiting_bytes = 0
    try:
        for picture in pictures:
            while waiting and (len(waiting) >= _MAX_PICTURES or waiting_bytes + picture.size_bytes > _MAX_BYTES):
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
        raise Rejected("too_large", f"{picture.size_bytes} bytes")
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
