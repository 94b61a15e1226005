"""Pictures that are part of a larger file: a member of a tar or zip file, a value in a TFRecord.

A part is a range of the stored bytes, so that any process can read one picture of an archive in an
object store without the rest.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

from repot import storage
from repot.errors import DataError

Method = Literal["stored", "deflated"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePart:
    """Where a picture is in a file.

    Attributes:
        offset: First byte.
        num_bytes: Number of stored bytes.
        method: "deflated" if they are compressed with raw DEFLATE (RFC 1951), as in a zip file.
    """

    offset: int
    num_bytes: int
    method: Method = "stored"


def read_part(uri: str, part: FilePart, *, size_bytes: int, version: str | None = None) -> bytes:
    """Return a part's content.

    Args:
        uri: The file.
        part: Where the content is in it.
        size_bytes: Size of the content; no more than this is decompressed.
        version: Version of the file, see `repot.storage.read_object`.

    Raises:
        DataError: The part is not complete, or does not have that size.
        StorageError: The file cannot be read.
    """
    if part.num_bytes == 0:
        return b""
    stored = storage.read_range(uri, offset=part.offset, num_bytes=part.num_bytes, version=version)
    data = stored if part.method == "stored" else inflate(stored, size_bytes)
    if len(stored) != part.num_bytes or len(data) != size_bytes:
        raise DataError(
            f"{uri} must have a file of {size_bytes} bytes at byte {part.offset}; it is damaged or "
            "was changed. Run again to list the pictures again."
        )
    return data


def inflate(stored: bytes, size_bytes: int) -> bytes:
    """Return decompressed raw DEFLATE data; more than `size_bytes` bytes if there is more.

    At most one byte more than expected is decompressed, so a bomb takes no memory. Damaged data
    gives what could be decompressed.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return inflater.decompress(stored, size_bytes + 1)
    except zlib.error:
        return b""
