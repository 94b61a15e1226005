"""The backend functions for Google Cloud Storage.

Create-only writes and swaps carry a generation precondition, all bytes are verified against the
CRC32C of the service, and a read of a listed object is pinned to its generation.
https://cloud.google.com/storage/docs/request-preconditions
"""

import contextlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from repot.errors import NotFoundError
from repot.storage.backend import (
    Content,
    ObjectInfo,
    OtherEntry,
    StoredObject,
    UnfinishedUpload,
    already_exists_error,
    conflict_error,
    new_hidden_name,
    scan_objects,
    select_visible,
)
from repot.storage.checksums import stream_crc32c_hex
from repot.storage.content_encoding import decode_bytes, decode_file
from repot.storage.gcs.client import blob_handle, bucket_handle, client, request_options
from repot.storage.gcs.errors import GenerationMismatchError, convert_gcs_errors
from repot.storage.gcs.transfer import (
    download_range,
    download_to_file,
    find_object,
    read_directly,
    to_object_info,
    upload_from_file,
)
from repot.storage.local.errors import convert_os_errors
from repot.storage.local.files import write_atomically
from repot.storage.uris import folder_prefix, join, object_prefix, split_bucket

_NUM_THREADS = 8
# The client sends up to this much in one request, and more in a resumable upload of several.
_SINGLE_REQUEST_BYTES = 8 << 20


def stat(uri: str) -> ObjectInfo | None:
    """Return the state of an object, or None if it does not exist."""
    blob = find_object(uri)
    return None if blob is None else to_object_info(uri, blob)


def list_objects(folder_uri: str) -> list[ObjectInfo]:
    """Return every object below a folder, sorted, without placeholders and hidden objects."""
    return select_visible(_list(folder_uri))


def scan_folder(folder_uri: str) -> Iterator[ObjectInfo | OtherEntry]:
    """Yield every object below a folder, and the empty folders."""
    return scan_objects(info for info in _list(folder_uri) if info.uri != folder_prefix(folder_uri))


def scan_stored(folder_uri: str) -> Iterator[StoredObject]:
    """Yield every object below a folder and when it was written, hidden ones included."""
    bucket = split_bucket(folder_uri)[0]
    for blob in _list_blobs(folder_uri, "name,size,updated"):
        if not blob.name.endswith("/"):
            yield StoredObject(
                uri=f"gs://{bucket}/{blob.name}",
                size_bytes=int(blob.size),
                written_at=blob.updated.timestamp(),
            )


def list_unfinished_uploads(folder_uri: str) -> list[UnfinishedUpload]:
    """Return nothing: the service itself deletes a resumable upload after a week.

    https://docs.cloud.google.com/storage/docs/resumable-uploads#session-uris
    """
    return []


def abort_upload(upload: UnfinishedUpload) -> None:
    """Do nothing: there are none."""


def read_object(uri: str, *, version: str | None = None) -> Content:
    """Return an object's content and state; NotFoundError if it no longer has `version`."""
    if version is not None and (found := read_directly(uri, version=version)):
        stored, info, encoding = found
    else:
        buffer = io.BytesIO()
        info, encoding = download_to_file(uri, buffer, version=version)
        stored = buffer.getvalue()
    return Content(data=decode_bytes(stored, encoding, uri), info=info)


def read_crc32c_hex(uri: str, *, version: str | None = None) -> str:
    """Return the CRC32C of an object's stored bytes, from the bytes themselves."""
    buffer = io.BytesIO()
    download_to_file(uri, buffer, version=version)
    return stream_crc32c_hex(buffer)


def read_range(uri: str, *, offset: int, num_bytes: int, version: str | None = None) -> bytes:
    """Return a range of an object's stored bytes; NotFoundError if it no longer has `version`."""
    return download_range(uri, offset=offset, num_bytes=num_bytes, version=version)


def write_bytes(uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
    """Write a whole object."""
    write = _upload_if_absent if if_absent else upload_from_file
    return write(uri, io.BytesIO(data))


def swap_bytes(uri: str, data: bytes, *, expected_version: str | None) -> ObjectInfo:
    """Write an object if it has the expected generation (None: if it does not exist)."""
    try:
        return upload_from_file(uri, io.BytesIO(data), generation=int(expected_version or 0))
    except GenerationMismatchError as err:
        raise conflict_error(uri, expected_version) from err


def download(uri: str, path: Path, *, version: str | None = None) -> ObjectInfo:
    """Copy an object atomically to a local file; NotFoundError if it no longer has `version`."""
    info: ObjectInfo

    def write(file: BinaryIO) -> None:
        nonlocal info
        info, encoding = download_to_file(uri, file, version=version)
        decode_file(file, encoding, uri, path.parent)

    write_atomically(path, write)
    return info


def upload(path: Path, uri: str, *, if_absent: bool = False) -> ObjectInfo:
    """Copy a local file to an object."""
    with convert_os_errors("read", path), path.open("rb") as file:
        write = _upload_if_absent if if_absent else upload_from_file
        return write(uri, file)


def copy(source_uri: str, target_uri: str) -> None:
    """Copy an object inside the service."""
    with convert_gcs_errors("copied", source_uri):
        source, target = blob_handle(source_uri), blob_handle(target_uri)
        token, _, _ = target.rewrite(source, **request_options())
        while token is not None:
            token, _, _ = target.rewrite(source, token=token, **request_options())


def delete(uri: str) -> None:
    """Delete an object if it exists."""
    with contextlib.suppress(NotFoundError), convert_gcs_errors("deleted", uri):
        blob_handle(uri).delete(**request_options())


def delete_folder(uri: str) -> None:
    """Delete every object below a folder."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        list(pool.map(delete, [info.uri for info in _list(uri)]))


def check_writable(uri: str) -> None:
    """Check that objects can be written, read, listed and deleted below a folder."""
    probe_uri = join(uri, new_hidden_name("check"))
    write_bytes(probe_uri, b"repot may write here\n")
    read_object(probe_uri)
    next(_list(uri), None)
    delete(probe_uri)


def _upload_if_absent(uri: str, file: BinaryIO) -> ObjectInfo:
    """Upload a whole seekable file to an object that must not exist yet."""
    is_large = file.seek(0, io.SEEK_END) > _SINGLE_REQUEST_BYTES
    try:
        # Do not send a large file that the precondition would reject.
        if is_large and find_object(uri) is not None:
            raise already_exists_error(uri)
        return upload_from_file(uri, file, generation=0)
    except GenerationMismatchError as err:
        raise already_exists_error(uri) from err


def _list(folder_uri: str) -> Iterator[ObjectInfo]:
    """Yield every object below a folder."""
    bucket = split_bucket(folder_uri)[0]
    for blob in _list_blobs(folder_uri, "name,size,crc32c,generation"):
        yield to_object_info(f"gs://{bucket}/{blob.name}", blob)


def _list_blobs(folder_uri: str, fields: str) -> Iterator[Any]:
    """Yield the client's handle of every object below a folder, with some of its metadata."""
    bucket, prefix = split_bucket(folder_uri)[0], object_prefix(folder_uri)
    with convert_gcs_errors("listed", folder_uri):
        yield from client().list_blobs(
            bucket_handle(bucket),
            prefix=prefix,
            fields=f"items({fields}),nextPageToken",
            **request_options(),
        )
