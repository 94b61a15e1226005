"""The backend functions for Amazon S3 and compatible services (MinIO, SeaweedFS, Ceph, ...).

An object's version is its ETag, which changes with its bytes. Reads of listed objects are pinned
to it, and swaps compare it. Listings have no checksums, so `ObjectInfo.crc32c` is None there;
`stat` returns it for objects that repot wrote.

Conditional writes (create-only writes and swaps) need care. Amazon's service compares and writes
in one step. Other services do so only since a certain release (MinIO 2024, SeaweedFS 4.18 of March
2026), compare first and write later (SeaweedFS 3.97), or ignore the condition (both, earlier). On
all but Amazon's service, a conditional write is therefore verified after SETTLE_SECONDS. Each one
stores a random id in the object's metadata, after the ids of the writes that it builds on. A
writer that no longer finds its id there was overwritten, and reports a conflict. So of racing
writes only the one that stays reports success, provided that each of them takes less than
SETTLE_SECONDS.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

import contextlib
import io
import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

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
from repot.storage.local.errors import convert_os_errors
from repot.storage.local.files import write_atomically
from repot.storage.s3.client import bucket_and_key, is_amazon, request
from repot.storage.s3.errors import (
    ETagMismatchError,
    UnsupportedError,
    convert_s3_errors,
    endpoint_url,
    not_s3_service_error,
)
from repot.storage.s3.transfer import (
    Response,
    download_range,
    download_to_file,
    find_crc32c,
    find_object,
    read_directly,
    to_object_info,
    upload_from_file,
    user_metadata,
)
from repot.storage.uris import folder_prefix, join, object_prefix, split_bucket

SETTLE_SECONDS = 1.0
_WRITE_IDS = "repot-writes"
# How many ids the metadata keeps: more than the number of writes that can follow within
# SETTLE_SECONDS.
_MAX_WRITE_IDS = 32
_NUM_THREADS = 8

_log = logging.getLogger(__name__)


def stat(uri: str) -> ObjectInfo | None:
    """Return the state of an object, or None if it does not exist."""
    response = find_object(uri)
    return None if response is None else to_object_info(uri, response)


def list_objects(folder_uri: str) -> list[ObjectInfo]:
    """Return every object below a folder, sorted, without placeholders and hidden objects."""
    return select_visible(_list(folder_uri))


def scan_folder(folder_uri: str) -> Iterator[ObjectInfo | OtherEntry]:
    """Yield every object below a folder, and the empty folders."""
    return scan_objects(info for info in _list(folder_uri) if info.uri != folder_prefix(folder_uri))


def scan_stored(folder_uri: str) -> Iterator[StoredObject]:
    """Yield every object below a folder and when it was written, hidden ones included."""
    bucket = split_bucket(folder_uri)[0]
    for entry in _list_entries(folder_uri):
        if not entry["Key"].endswith("/"):
            yield StoredObject(
                uri=f"s3://{bucket}/{entry['Key']}",
                size_bytes=int(entry["Size"]),
                written_at=entry["LastModified"].timestamp(),
            )


def list_unfinished_uploads(folder_uri: str) -> list[UnfinishedUpload]:
    """Return the multipart uploads to objects below a folder that were not completed."""
    bucket, found = split_bucket(folder_uri)[0], []
    arguments = {"Bucket": bucket, "Prefix": object_prefix(folder_uri)}
    with convert_s3_errors("listed", folder_uri):
        while True:
            page = request(lambda client: client.list_multipart_uploads(**arguments))
            found += [
                UnfinishedUpload(
                    uri=f"s3://{bucket}/{entry['Key']}",
                    upload_id=entry["UploadId"],
                    started_at=entry["Initiated"].timestamp(),
                )
                for entry in page.get("Uploads", [])
            ]
            if not page.get("IsTruncated"):
                return found
            arguments["KeyMarker"] = page["NextKeyMarker"]
            arguments["UploadIdMarker"] = page["NextUploadIdMarker"]


def abort_upload(upload: UnfinishedUpload) -> None:
    """Delete the parts of an unfinished upload, if they still exist."""
    arguments = {**bucket_and_key(upload.uri), "UploadId": upload.upload_id}
    with contextlib.suppress(NotFoundError), convert_s3_errors("deleted", upload.uri):
        request(lambda client: client.abort_multipart_upload(**arguments))


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
    """Return the CRC32C of an object's stored bytes; of a version from its metadata, if there."""
    if version is not None and (crc32c := find_crc32c(uri, version=version)):
        return crc32c
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
    """Write an object if it has the expected ETag (None: if it does not exist)."""
    try:
        return _upload_if_version(uri, io.BytesIO(data), version=expected_version)
    except ETagMismatchError as err:
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
    """Copy an object and its metadata inside the service."""
    with convert_s3_errors("copied", source_uri):
        source, target = bucket_and_key(source_uri), bucket_and_key(target_uri)
        request(lambda client: client.copy_object(CopySource=source, **target))


def delete(uri: str) -> None:
    """Delete an object if it exists."""
    with contextlib.suppress(NotFoundError), convert_s3_errors("deleted", uri):
        request(lambda client: client.delete_object(**bucket_and_key(uri)))


def delete_folder(uri: str) -> None:
    """Delete every object below a folder."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        list(pool.map(delete, [info.uri for info in _list(uri)]))


def check_writable(uri: str) -> None:
    """Check that objects can be written, read, listed and deleted; warn if swaps are not safe."""
    probe_uri = join(uri, new_hidden_name("check"))
    write_bytes(probe_uri, b"repot may write here\n")
    read_object(probe_uri)
    next(_list(uri), None)
    if not is_amazon() and not _supports_conditions(probe_uri):
        _log.warning(
            "%s ignores conditions on writes: if two runs promote a model within the same second, "
            "one learns only afterwards that it lost, and if it stalls in between, neither does. "
            "Use a newer release of that service.",
            endpoint_url(),
        )
    delete(probe_uri)


def _list(folder_uri: str) -> Iterator[ObjectInfo]:
    """Yield every object below a folder."""
    bucket = split_bucket(folder_uri)[0]
    for entry in _list_entries(folder_uri):
        yield to_object_info(f"s3://{bucket}/{entry['Key']}", entry)


def _list_entries(folder_uri: str) -> Iterator[Response]:
    """Yield what the service lists of every object below a folder."""
    arguments = {"Bucket": split_bucket(folder_uri)[0], "Prefix": object_prefix(folder_uri)}
    with convert_s3_errors("listed", folder_uri):
        arguments["Prefix"].encode()
        while True:
            page = request(lambda client: client.list_objects_v2(**arguments))
            yield from page.get("Contents", [])
            if not page.get("IsTruncated"):
                return
            if not page.get("NextContinuationToken"):
                raise not_s3_service_error(folder_uri)
            arguments["ContinuationToken"] = page["NextContinuationToken"]


def _upload_if_absent(uri: str, file: BinaryIO) -> ObjectInfo:
    try:
        return _upload_if_version(uri, file, version=None)
    except ETagMismatchError as err:
        raise already_exists_error(uri) from err


def _upload_if_version(uri: str, file: BinaryIO, *, version: str | None) -> ObjectInfo:
    """Upload a whole seekable file if the object has a version.

    Args:
        uri: The object.
        file: Its new content.
        version: The ETag that the object must have; None if it must not exist.

    Raises:
        ETagMismatchError: It has another version, or another write came first.
        StorageError: It cannot be written.
    """
    before = find_object(uri)
    if (None if before is None else to_object_info(uri, before).version) != version:
        raise ETagMismatchError(f"{uri} has another version.")
    write_id = secrets.token_hex(4)
    write_ids = [*_write_ids(before), write_id][-_MAX_WRITE_IDS:]
    condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": f'"{version}"'}
    try:
        info = _upload_with_condition(uri, file, write_ids, condition)
    except (ETagMismatchError, NotFoundError) as err:
        # The response to an earlier attempt may have been lost, and the object be this very write.
        after = find_object(uri)
        if after is None or write_id not in _write_ids(after):
            raise ETagMismatchError(f"{uri} was written by another process.") from err
        info = to_object_info(uri, after)
    if not is_amazon():
        time.sleep(SETTLE_SECONDS)
        if write_id not in _write_ids(find_object(uri)):
            raise ETagMismatchError(f"{uri} was overwritten by another process.")
    return info


def _upload_with_condition(
    uri: str, file: BinaryIO, write_ids: Sequence[str], condition: Mapping[str, str]
) -> ObjectInfo:
    """Upload with a condition, or without it if the service, not Amazon's, rejects conditions."""
    metadata = {_WRITE_IDS: " ".join(write_ids)}
    try:
        return upload_from_file(uri, file, metadata=metadata, condition=condition)
    except UnsupportedError:
        if is_amazon():
            raise
        return upload_from_file(uri, file, metadata=metadata)


def _supports_conditions(existing_uri: str) -> bool:
    """Return whether the service refuses a create-only write to an existing object."""
    try:
        upload_from_file(existing_uri, io.BytesIO(), condition={"IfNoneMatch": "*"})
    except ETagMismatchError:
        return True
    except UnsupportedError:
        return False
    return False


def _write_ids(response: Response | None) -> list[str]:
    """Return the ids of the conditional writes that an object is built on."""
    return [] if response is None else user_metadata(response).get(_WRITE_IDS, "").split()
