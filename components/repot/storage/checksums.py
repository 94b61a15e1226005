"""CRC32C (Castagnoli): the checksum of Google Cloud Storage, S3 and the shards' receipts."""

import base64
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


def crc32c_from_base64(digest: str) -> str:
    """Return a CRC32C in the base64 form of Google and Amazon (big-endian) as 8 hex digits."""
    return base64.b64decode(digest).hex()


def crc32c_to_base64(digits: str) -> str:
    """Return a CRC32C of 8 hex digits in the base64 form of Google and Amazon (big-endian)."""
    return base64.b64encode(bytes.fromhex(digits)).decode()
