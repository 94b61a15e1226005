"""Bytes to and from Google Cloud Storage, checked by CRC32C in both directions."""

import contextlib
import io
import mimetypes
import secrets
from typing import Any, BinaryIO

from repot.errors import NotFoundError, StorageError
from repot.storage.backend import ObjectInfo
from repot.storage.checksums import crc32c_from_base64, crc32c_to_base64, stream_crc32c_hex
from repot.storage.gcs.client import blob_of, request_options
from repot.storage.gcs.errors import PreconditionError, explained
from repot.storage.problems import already_exists, changed, damaged

# Up to this much goes in one request, more in a resumable upload of several (a limit of the client).
_SINGLE_REQUEST_BYTES = 8 << 20
# A resumable upload holds one chunk in memory; a multiple of 256 KiB.
_CHUNK_BYTES = 32 << 20
_NUM_FETCHES = 3
# Custom metadata that tells a write of ours, repeated because its answer got lost, from somebody else's.
_WRITE_ID = "repot-write-id"


def look(uri: str) -> Any | None:
    """Return the client's handle of an object with its metadata, or None if there is none."""
    try:
        with explained("looked at", uri):
            blob = blob_of(uri)
            blob.reload(**request_options())
    except NotFoundError:
        return None
    return blob


def info_of(uri: str, blob: Any) -> ObjectInfo:
    """Return what a handle's metadata say."""
    crc32c = crc32c_from_base64(blob.crc32c) if blob.crc32c else None
    return ObjectInfo(
        uri=uri, size_bytes=int(blob.size), crc32c=crc32c, version=str(blob.generation)
    )


def fetch(uri: str, file: BinaryIO, *, version: str | None) -> None:
    """Fill an empty file with an object's bytes as they are stored; what got damaged on the way is fetched again.

    Raises:
        NotFoundError: There is no such object, or no longer in that version.
        StorageError: It cannot be read, or arrives damaged again and again.
    """
    for _ in range(_NUM_FETCHES):
        file.seek(0)
        file.truncate()
        blob = _download(uri, file, version)
        if blob.crc32c and stream_crc32c_hex(file) == crc32c_from_base64(blob.crc32c):
            return
    raise damaged(uri, _NUM_FETCHES)


def send_if_absent(uri: str, file: BinaryIO) -> ObjectInfo:
    """Upload a seekable file to where no object must be.

    Raises:
        AlreadyExistsError: There is one.
        StorageError: It cannot be written.
    """
    is_large = file.seek(0, io.SEEK_END) > _SINGLE_REQUEST_BYTES
    try:
        if is_large and look(uri) is not None:
            raise already_exists(uri)
        return send(uri, file, generation=0)
    except PreconditionError as err:
        raise already_exists(uri) from err


def send(uri: str, file: BinaryIO, *, generation: int | None = None) -> ObjectInfo:
    """Upload a seekable file.

    Args:
        uri: Where.
        file: What; from its start.
        generation: What the object's generation must be: 0 for no object there, None for any.

    Raises:
        PreconditionError: It has another generation.
        StorageError: It cannot be written, or got damaged on the way.
    """
    crc32c = stream_crc32c_hex(file)
    write_id = secrets.token_hex(8)
    try:
        blob = _upload(uri, file, crc32c=crc32c, generation=generation, write_id=write_id)
    except PreconditionError as err:
        blob = look(uri)
        if blob is None and generation == 0:
            # Not because of an object; the service says why, e.g. a rule of the bucket's owner.
            raise StorageError(str(err)) from err
        if blob is None or (blob.metadata or {}).get(_WRITE_ID) != write_id:
            raise
    info = info_of(uri, blob)
    if info.crc32c != crc32c:
        _discard(info)
        raise StorageError(
            f"{uri} must be stored as it was sent; its CRC32C became {info.crc32c}. Run again."
        )
    return info


def _download(uri: str, file: BinaryIO, version: str | None) -> Any:
    """Fetch the stored bytes, unchecked: the client checks no download that it had to resume."""
    try:
        with explained("read", uri):
            blob = blob_of(uri, version=version)
            blob.download_to_file(file, raw_download=True, checksum=None, **request_options())
    except NotFoundError as err:
        if version is None:
            raise
        raise changed(uri) from err
    return blob


def _upload(uri: str, file: BinaryIO, *, crc32c: str, generation: int | None, write_id: str) -> Any:
    """Upload with the checksum in the object's metadata: the service refuses what does not match."""
    with explained("written", uri):
        blob = blob_of(uri, chunk_bytes=_CHUNK_BYTES)
        blob.crc32c = crc32c_to_base64(crc32c)
        if generation is not None:
            blob.metadata = {_WRITE_ID: write_id}
        blob.upload_from_file(
            file,
            size=file.seek(0, io.SEEK_END),
            rewind=True,
            content_type=mimetypes.guess_type(uri)[0] or "application/octet-stream",
            checksum=None,
            if_generation_match=generation,
            **request_options(),
        )
    return blob


def _discard(info: ObjectInfo) -> None:
    """Delete a damaged version of an object, and no other."""
    with contextlib.suppress(NotFoundError, PreconditionError), explained("deleted", info.uri):
        blob_of(info.uri, version=info.version).delete(
            if_generation_match=int(info.version), **request_options()
        )
