"""Downloads and uploads of Google Cloud Storage, verified by CRC32C in both directions."""

import contextlib
import io
import mimetypes
import secrets
from typing import Any, BinaryIO

from repot.errors import NotFoundError, StorageError
from repot.storage.backend import ObjectInfo, changed_error, damaged_error
from repot.storage.checksums import (
    ChecksummedFile,
    crc32c_from_base64,
    crc32c_hex,
    crc32c_to_base64,
    stream_crc32c_hex,
)
from repot.storage.gcs.client import blob_handle, get_directly, request_options
from repot.storage.gcs.errors import GenerationMismatchError, convert_gcs_errors
from repot.storage.plain_http import Response

# A resumable upload holds one chunk in memory, and a builder uploads two shards at the same time. A
# multiple of 256 KiB.
_CHUNK_BYTES = 16 << 20
_NUM_DOWNLOADS = 3
# Custom metadata with a random id. It tells this process's own write, retried because the response
# was lost, from the write of another process.
_WRITE_ID = "repot-write-id"


def find_object(uri: str) -> Any | None:
    """Return the client's handle of an object with its metadata, or None if it does not exist."""
    try:
        with convert_gcs_errors("looked up", uri):
            blob = blob_handle(uri)
            blob.reload(**request_options())
    except NotFoundError:
        return None
    return blob


def to_object_info(uri: str, blob: Any) -> ObjectInfo:
    """Return the state of an object from the metadata of its handle."""
    crc32c = crc32c_from_base64(blob.crc32c) if blob.crc32c else None
    return ObjectInfo(
        uri=uri,
        size_bytes=int(blob.size),
        crc32c=crc32c,
        version=str(blob.generation),
        has_crc32c=True,
    )


def read_directly(uri: str, *, version: str) -> tuple[bytes, ObjectInfo, str | None] | None:
    """Return the stored bytes of a small object, its state and its Content-Encoding.

    Returns:
        None if the client has to read it: see `get_directly`; or the bytes are damaged.
    """
    response = get_directly(uri, version=version)
    if response is None:
        return None
    info = ObjectInfo(
        uri=uri,
        size_bytes=len(response.body),
        crc32c=crc32c_hex(response.body),
        version=response.headers.get("x-goog-generation", ""),
    )
    if (info.crc32c, info.version) != (_announced_crc32c(response), version):
        return None
    return response.body, info, response.headers.get("content-encoding")


def download_to_file(
    uri: str, file: BinaryIO, *, version: str | None
) -> tuple[ObjectInfo, str | None]:
    """Fill an empty file with an object's stored bytes; a damaged download is repeated.

    Returns:
        The state of the object that the bytes are from, and its Content-Encoding.

    Raises:
        NotFoundError: The object does not exist, or no longer has that version.
        StorageError: It cannot be read, or every download is damaged.
    """
    target = ChecksummedFile(file)
    for _ in range(_NUM_DOWNLOADS):
        target.restart()
        try:
            blob = _download(uri, target, version)
        except NotFoundError:
            # The client resumes a download from the version that it began with; that one is gone if
            # another process replaced the object in between.
            if version is None and file.seek(0, io.SEEK_END) > 0:
                continue
            raise
        crc32c = target.crc32c_hex()
        if blob.crc32c and crc32c == crc32c_from_base64(blob.crc32c):
            info = ObjectInfo(
                uri=uri,
                size_bytes=file.seek(0, io.SEEK_END),
                crc32c=crc32c,
                version=str(blob.generation),
            )
            return info, blob.content_encoding
    raise damaged_error(uri, _NUM_DOWNLOADS)


def download_range(uri: str, *, offset: int, num_bytes: int, version: str | None) -> bytes:
    """Return a range of an object's stored bytes.

    Raises:
        NotFoundError: The object does not exist, or no longer has that version.
        StorageError: It cannot be read.
    """
    if version is not None:
        byte_range = f"{offset}-{offset + num_bytes - 1}"
        if direct := get_directly(uri, version=version, byte_range=byte_range):
            return direct.body
    try:
        with convert_gcs_errors("read", uri):
            data: bytes = blob_handle(uri, version=version).download_as_bytes(
                start=offset,
                end=offset + num_bytes - 1,
                raw_download=True,
                checksum=None,
                **request_options(),
            )
    except NotFoundError as err:
        if version is None:
            raise
        raise changed_error(uri) from err
    return data


def upload_from_file(uri: str, file: BinaryIO, *, generation: int | None = None) -> ObjectInfo:
    """Upload a whole seekable file.

    Args:
        uri: The object.
        file: Its new content.
        generation: The generation that the object must have: 0 if it must not exist, None for any.

    Raises:
        GenerationMismatchError: It has another generation.
        StorageError: It cannot be written, or was damaged on the way.
    """
    crc32c = stream_crc32c_hex(file)
    write_id = secrets.token_hex(8)
    try:
        blob = _upload(uri, file, crc32c=crc32c, generation=generation, write_id=write_id)
    except GenerationMismatchError as err:
        blob = find_object(uri)
        if blob is None and generation == 0:
            # There is no object to conflict with: the service enforces another rule, e.g. a policy
            # of the bucket's owner, and its message says which.
            raise StorageError(str(err)) from err
        if blob is None or (blob.metadata or {}).get(_WRITE_ID) != write_id:
            raise
    info = to_object_info(uri, blob)
    if info.crc32c != crc32c:
        _delete_version(info)
        raise StorageError(
            f"{uri} must be stored as it was sent; its CRC32C became {info.crc32c}. Run again."
        )
    return info


def _announced_crc32c(response: Response) -> str:
    """Return the CRC32C in the header X-Goog-Hash: `crc32c=4gcgLQ==,md5=...`; "" without one."""
    for value in response.headers.get("x-goog-hash", "").split(","):
        name, _, digest = value.strip().partition("=")
        if name == "crc32c":
            return crc32c_from_base64(digest)
    return ""


def _download(uri: str, file: ChecksummedFile, version: str | None) -> Any:
    """Download the stored bytes without verification: the client skips it for resumed downloads."""
    try:
        with convert_gcs_errors("read", uri):
            blob = blob_handle(uri, version=version)
            blob.download_to_file(file, raw_download=True, checksum=None, **request_options())
    except NotFoundError as err:
        if version is None:
            raise
        raise changed_error(uri) from err
    return blob


def _upload(uri: str, file: BinaryIO, *, crc32c: str, generation: int | None, write_id: str) -> Any:
    """Upload with the checksum in the object's metadata; the service rejects other content."""
    with convert_gcs_errors("written", uri):
        blob = blob_handle(uri, chunk_bytes=_CHUNK_BYTES)
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


def _delete_version(info: ObjectInfo) -> None:
    """Delete a damaged version of an object, but no other version."""
    with (
        contextlib.suppress(NotFoundError, GenerationMismatchError),
        convert_gcs_errors("deleted", info.uri),
    ):
        blob_handle(info.uri, version=info.version).delete(
            if_generation_match=int(info.version), **request_options()
        )
