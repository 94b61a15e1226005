"""CRC32C (Castagnoli), the checksum that Google Cloud Storage and the receipts of shards have in common."""

import base64
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from repot.storage.local.errors import explained

BLOCK_BYTES = 1 << 20


def crc32c_hex(data: bytes) -> str:
    """Return the CRC32C of `data` as 8 lower-case hex digits."""
    return f"{google_crc32c.value(data):08x}"


def file_crc32c_hex(path: Path) -> str:
    """Return the CRC32C of a local file's bytes as 8 lower-case hex digits.

    Raises:
        NotFoundError: There is no such file.
        StorageError: It cannot be read.
    """
    with explained("read", path), path.open("rb") as file:
        return stream_crc32c_hex(file)


def stream_crc32c_hex(stream: BinaryIO) -> str:
    """Return the CRC32C of everything in a seekable stream as 8 lower-case hex digits; go back to its start."""
    crc = 0
    stream.seek(0)
    while block := stream.read(BLOCK_BYTES):
        crc = google_crc32c.extend(crc, block)
    stream.seek(0)
    return f"{crc:08x}"


def crc32c_from_base64(digest: str) -> str:
    """Return the 8 hex digits of a CRC32C in base64, most significant byte first (Google's spelling)."""
    return base64.b64decode(digest).hex()


def crc32c_to_base64(digits: str) -> str:
    """Return Google's base64 spelling of 8 hex digits."""
    return base64.b64encode(bytes.fromhex(digits)).decode()
