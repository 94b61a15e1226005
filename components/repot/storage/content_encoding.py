"""Content-Encoding: objects that were compressed by whoever uploaded them.

`gsutil cp -Z` and many uploaders store gzip data and label it with `Content-Encoding: gzip`;
its content is what a web browser would show, which is the decompressed data. Checksums and sizes of
the services are those of the stored, compressed bytes, so an object is verified first and decoded
afterwards.
https://cloud.google.com/storage/docs/transcoding
"""

import gzip
import io
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import BinaryIO

from repot.errors import ContentEncodingError
from repot.storage.checksums import BLOCK_BYTES

# Names for gzip, and names of compressions that are not supported (RFC 9110 and the IANA registry).
# Any other value, such as utf-8, base64 or aws-chunked, is a common mistake and changes no byte.
_GZIP = ("gzip", "x-gzip")
_UNSUPPORTED = ("br", "compress", "dcb", "dcz", "deflate", "x-compress", "zstd")
_GZIP_MAGIC = b"\x1f\x8b"
# Such a name means the compressed file itself: uploaders label archives as well.
_GZIP_SUFFIXES = (".gz", ".tgz")
# Gzip compresses up to a thousandfold. Whatever is read into memory is far smaller than this.
_MAX_BYTES_IN_MEMORY = 1 << 30


def decode_bytes(data: bytes, encoding: str | None, uri: str) -> bytes:
    """Return the content of an object from its stored bytes.

    Args:
        data: The stored bytes.
        encoding: The value of Content-Encoding, if the object has one.
        uri: The object.

    Raises:
        ContentEncodingError: The encoding is not supported, or the bytes are damaged.
    """
    for _ in range(_num_gzip_layers(encoding, uri)):
        target = io.BytesIO()
        if not _decode(io.BytesIO(data), target, uri, max_bytes=_MAX_BYTES_IN_MEMORY):
            break
        data = target.getvalue()
    return data


def decode_file(file: BinaryIO, encoding: str | None, uri: str, folder: Path) -> None:
    """Replace the stored bytes in a seekable file by the content of the object.

    Args:
        file: The stored bytes.
        encoding: The value of Content-Encoding, if the object has one.
        uri: The object.
        folder: Where there is room for a second file.

    Raises:
        ContentEncodingError: The encoding is not supported, or the bytes are damaged.
    """
    for _ in range(_num_gzip_layers(encoding, uri)):
        with tempfile.TemporaryFile(dir=folder) as target:
            file.seek(0)
            if not _decode(file, target, uri, max_bytes=None):
                break
            for stream in (file, target):
                stream.seek(0)
            file.truncate()
            shutil.copyfileobj(target, file, BLOCK_BYTES)


def _num_gzip_layers(encoding: str | None, uri: str) -> int:
    """Return how many times the stored bytes are compressed with gzip according to the label."""
    names = [name.strip().lower() for name in (encoding or "").split(",")]
    unsupported = sorted({name for name in names if name in _UNSUPPORTED})
    if unsupported:
        raise ContentEncodingError(
            f"{uri} must be stored as it is or compressed with gzip; got "
            f"Content-Encoding={encoding!r}. Upload it again without that compression."
        )
    return sum(name in _GZIP for name in names)


def _decode(source: BinaryIO, target: BinaryIO, uri: str, *, max_bytes: int | None) -> bool:
    """Decompress one layer of gzip; return False if the stored bytes are the content already."""
    head = source.read(len(_GZIP_MAGIC))
    source.seek(0)
    if head != _GZIP_MAGIC:
        return False
    num_bytes = 0
    try:
        # It reads several members in one stream, and checks the CRC-32 and size of each.
        with gzip.GzipFile(fileobj=source, mode="rb") as reader:
            while block := reader.read(BLOCK_BYTES):
                if num_bytes == 0 and uri.endswith(_GZIP_SUFFIXES) and block[:2] != _GZIP_MAGIC:
                    return False
                num_bytes += len(block)
                if max_bytes is not None and num_bytes > max_bytes:
                    raise ContentEncodingError(
                        f"{uri} must have at most {max_bytes} bytes after decompression; it has "
                        "more. Check what it is."
                    )
                target.write(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as err:
        raise ContentEncodingError(
            f"{uri} must hold gzip data, as its Content-Encoding says; it is damaged ({err}). "
            "Upload it again."
        ) from err
    return True
