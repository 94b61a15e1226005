"""CRC32C (Castagnoli): the checksum of Google Cloud Storage, S3 and the shards' receipts."""

import base64
import io
from typing import BinaryIO

import google_crc32c

BLOCK_BYTES = 1 << 20


def crc32c_hex(data: bytes) -> str:
    """Return the CRC32C of `data` as 8 lower-case hex digits."""
    return f"{google_crc32c.value(data):08x}"


def stream_crc32c_hex(stream: BinaryIO) -> str:
    """Return the CRC32C of a whole seekable stream as 8 lower-case hex digits, then rewind it."""
    crc = 0
    stream.seek(0)
    while block := stream.read(BLOCK_BYTES):
        crc = google_crc32c.extend(crc, block)
    stream.seek(0)
    return f"{crc:08x}"


class ChecksummedFile:
    """A file for writing that computes the CRC32C of its bytes as they arrive.

    It has the methods that the services' clients use for a download.

    Args:
        file: An empty file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._crc = 0
        self._num_bytes = 0

    def write(self, data: bytes) -> int:
        """Append bytes."""
        self._crc = google_crc32c.extend(self._crc, data)
        self._num_bytes += len(data)
        return self._file.write(data)

    def restart(self) -> None:
        """Delete everything that was written."""
        self.seek(0)
        self._file.truncate()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to the start, to write everything again, or to the end."""
        if (offset, whence) == (0, io.SEEK_SET):
            self._crc, self._num_bytes = 0, 0
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()

    def crc32c_hex(self) -> str:
        """Return the CRC32C of the file's bytes as 8 lower-case hex digits."""
        if self._file.seek(0, io.SEEK_END) != self._num_bytes:
            # It was written again from the start, and the end of the first attempt is still there.
            self._file.truncate(self._num_bytes)
        return f"{self._crc:08x}"


def crc32c_from_base64(digest: str) -> str:
    """Return a CRC32C in the base64 form of Google and Amazon (big-endian) as 8 hex digits."""
    return base64.b64decode(digest).hex()


def crc32c_to_base64(digits: str) -> str:
    """Return a CRC32C of 8 hex digits in the base64 form of Google and Amazon (big-endian)."""
    return base64.b64encode(bytes.fromhex(digits)).decode()
