"""Objects in Amazon S3, and in every service that speaks its language (MinIO, SeaweedFS, Ceph, ...).

An object's version is its ETag, which changes with its bytes: a read of a listed object is pinned to it, and swaps
compare it. A listing tells no checksum, so `ObjectInfo.crc32c` is None there; `stat` tells that of what repot wrote.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from repot.errors import NotFoundError
from repot.storage.backend import HIDDEN_PREFIX, ObjectInfo
from repot.storage.local import errors
from repot.storage.local.files import hidden_name, write_file
from repot.storage.problems import already_exists, conflict
from repot.storage.s3.client import ask, is_amazon, place
from repot.storage.s3.conditions import are_honoured, send_where
from repot.storage.s3.errors import PreconditionError, endpoint, explained
from repot.storage.s3.transfer import fetch, info_of, look, send
from repot.storage.uris import join, split_bucket

_NUM_THREADS = 8

_log = logging.getLogger(__name__)


def stat(uri: str) -> ObjectInfo | None:
    """Return what is known about an object; None if there is none."""
    answer = look(uri)
    return None if answer is None else info_of(uri, answer)


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
    store = _send_if_absent if if_absent else send
    return store(uri, io.BytesIO(data))


def swap_bytes(uri: str, data: bytes, *, expected_version: str | None) -> ObjectInfo:
    """Write an object if it has the expected ETag (None: if there is none)."""
    try:
        return send_where(uri, io.BytesIO(data), version=expected_version)
    except PreconditionError as err:
        raise conflict(uri, expected_version) from err


def download(uri: str, path: Path, *, version: str | None = None) -> None:
    """Copy an object to a local file that appears whole; NotFoundError if it changed since `version`."""
    write_file(path, lambda file: fetch(uri, file, version=version))


def upload(path: Path, uri: str, *, if_absent: bool = False) -> ObjectInfo:
    """Copy a local file to an object."""
    with errors.explained("read", path), path.open("rb") as file:
        store = _send_if_absent if if_absent else send
        return store(uri, file)


def copy(source_uri: str, target_uri: str) -> None:
    """Copy an object inside the service, with what it says about itself."""
    with explained("copied", source_uri):
        target = place(target_uri)
        ask(lambda client: client.copy_object(CopySource=place(source_uri), **target))


def delete(uri: str) -> None:
    """Delete an object, if there is one."""
    with contextlib.suppress(NotFoundError), explained("deleted", uri):
        ask(lambda client: client.delete_object(**place(uri)))


def delete_folder(uri: str) -> None:
    """Delete every object below a folder."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        list(pool.map(delete, [info.uri for info in _list(uri)]))


def check_writable(uri: str) -> None:
    """Prove that objects can be written, read, listed and deleted below a folder; warn where swaps are not safe."""
    probe = join(uri, hidden_name("check"))
    write_bytes(probe, b"repot may write here\n")
    read_bytes(probe)
    next(_list(uri), None)
    if not is_amazon() and not are_honoured(probe):
        _log.warning(
            "%s ignores conditions on writes: of two runs that promote a model within the same second, one is told "
            "afterwards that it lost, and if it stalls meanwhile neither is. Use a newer release of that service.",
            endpoint(),
        )
    delete(probe)


def _send_if_absent(uri: str, file: BinaryIO) -> ObjectInfo:
    try:
        return send_where(uri, file, version=None)
    except PreconditionError as err:
        raise already_exists(uri) from err


def _list(folder_uri: str) -> Iterator[ObjectInfo]:
    """Yield every object below a folder."""
    bucket, name = split_bucket(folder_uri)
    wanted = {"Bucket": bucket, "Prefix": f"{name}/" if name else ""}
    with explained("listed", folder_uri):
        wanted["Prefix"].encode()
        while True:
            page = ask(lambda client: client.list_objects_v2(**wanted))
            for facts in page.get("Contents", []):
                yield info_of(f"s3://{bucket}/{facts['Key']}", facts)
            if not page.get("IsTruncated"):
                return
            wanted["ContinuationToken"] = page["NextContinuationToken"]
