"""Objects in Google Cloud Storage.

Every write that may come second carries a generation precondition, every byte is checked against the CRC32C that the
service holds, and a read of a listed object is pinned to its generation.
https://cloud.google.com/storage/docs/request-preconditions
"""

import contextlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from repot.errors import NotFoundError
from repot.storage.backend import HIDDEN_PREFIX, ObjectInfo
from repot.storage.gcs.client import blob_of, client, request_options
from repot.storage.gcs.errors import PreconditionError, explained
from repot.storage.gcs.transfer import fetch, info_of, look, send, send_if_absent
from repot.storage.local import errors
from repot.storage.local.files import hidden_name, write_file
from repot.storage.problems import conflict
from repot.storage.uris import join, split_bucket

_NUM_THREADS = 8


def stat(uri: str) -> ObjectInfo | None:
    """Return what is known about an object; None if there is none."""
    blob = look(uri)
    return None if blob is None else info_of(uri, blob)


def list_objects(folder_uri: str) -> list[ObjectInfo]:
    """Return every object below a folder, sorted; neither folder placeholders nor repot's own passing objects."""
    hidden = f"/{HIDDEN_PREFIX}"
    shown = (
        info for info in _list(folder_uri) if not info.uri.endswith("/") and hidden not in info.uri
    )
    return sorted(shown, key=lambda info: info.uri)


def read_bytes(uri: str, *, version: str | None = None) -> bytes:
    """Return an object's bytes as they are stored; NotFoundError if it changed since `version`."""
    buffer = io.BytesIO()
    fetch(uri, buffer, version=version)
    return buffer.getvalue()


def write_bytes(uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
    """Write a whole object."""
    store = send_if_absent if if_absent else send
    return store(uri, io.BytesIO(data))


def swap_bytes(uri: str, data: bytes, *, expected_version: str | None) -> ObjectInfo:
    """Write an object if it has the expected generation (None: if there is none)."""
    try:
        return send(uri, io.BytesIO(data), generation=int(expected_version or 0))
    except PreconditionError as err:
        raise conflict(uri, expected_version) from err


def download(uri: str, path: Path, *, version: str | None = None) -> None:
    """Copy an object to a local file that appears whole; NotFoundError if it changed since `version`."""
    write_file(path, lambda file: fetch(uri, file, version=version))


def upload(path: Path, uri: str, *, if_absent: bool = False) -> ObjectInfo:
    """Copy a local file to an object."""
    with errors.explained("read", path), path.open("rb") as file:
        store = send_if_absent if if_absent else send
        return store(uri, file)


def copy(source_uri: str, target_uri: str) -> None:
    """Copy an object inside the service."""
    with explained("copied", source_uri):
        source, target = blob_of(source_uri), blob_of(target_uri)
        token, _, _ = target.rewrite(source, **request_options())
        while token is not None:
            token, _, _ = target.rewrite(source, token=token, **request_options())


def delete(uri: str) -> None:
    """Delete an object, if there is one."""
    with contextlib.suppress(NotFoundError), explained("deleted", uri):
        blob_of(uri).delete(**request_options())


def delete_folder(uri: str) -> None:
    """Delete every object below a folder."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        list(pool.map(delete, [info.uri for info in _list(uri)]))


def check_writable(uri: str) -> None:
    """Prove that objects can be written, read, listed and deleted below a folder."""
    probe = join(uri, hidden_name("check"))
    write_bytes(probe, b"repot may write here\n")
    read_bytes(probe)
    next(_list(uri), None)
    delete(probe)


def _list(folder_uri: str) -> Iterator[ObjectInfo]:
    """Yield every object below a folder."""
    bucket, name = split_bucket(folder_uri)
    prefix = f"{name}/" if name else ""
    fields = "items(name,size,crc32c,generation),nextPageToken"
    with explained("listed", folder_uri):
        for blob in client().list_blobs(bucket, prefix=prefix, fields=fields, **request_options()):
            yield info_of(f"gs://{bucket}/{blob.name}", blob)
