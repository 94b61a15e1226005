"""One object at a time, wherever it lies: bytes, text, JSON, files."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from repot.errors import StorageError
from repot.storage.backend import Backend, ObjectInfo
from repot.storage.checksums import crc32c_hex, file_crc32c_hex
from repot.storage.gcs import objects as gcs_objects
from repot.storage.local import objects as local_objects
from repot.storage.s3 import objects as s3_objects
from repot.storage.uris import is_local, scheme_of

BACKENDS: dict[str, Backend] = {"": local_objects, "gs": gcs_objects, "s3": s3_objects}


def backend_of(uri: str) -> Backend:
    """Return the functions for the kind of storage that `uri` is on."""
    return BACKENDS[scheme_of(uri)]


def stat(uri: str) -> ObjectInfo | None:
    """Return what is known about the object, or None if there is none."""
    return backend_of(uri).stat(uri)


def exists(uri: str) -> bool:
    """Return whether there is such an object (a folder is none)."""
    return stat(uri) is not None


def list_objects(folder_uri: str) -> list[ObjectInfo]:
    """Return every object below a folder, at any depth, in the code point order of their names.

    Links to folders are followed; folder placeholders and repot's own passing files are left out.

    Returns:
        The objects; empty for a folder that does not exist.

    Raises:
        StorageError: The folder cannot be listed, or holds a link to nothing.
    """
    return backend_of(folder_uri).list_objects(folder_uri)


def read_bytes(uri: str, *, version: str | None = None) -> bytes:
    """Return the object's bytes as they are stored, checked against the CRC32C that the store holds.

    Args:
        uri: The object.
        version: The version that it must have, as listed; None for any.

    Raises:
        NotFoundError: There is no such object, or no longer in that version.
        StorageError: It cannot be read, or arrives damaged.
    """
    return backend_of(uri).read_bytes(uri, version=version)


def read_crc32c_hex(uri: str, *, version: str | None = None) -> str:
    """Read the object for its CRC32C, 8 hex digits: for those that `ObjectInfo` tells none of; otherwise as above."""
    if is_local(uri) and version is None:
        return file_crc32c_hex(Path(uri))
    return crc32c_hex(read_bytes(uri, version=version))


def read_text(uri: str) -> str:
    """Return the object as text.

    Raises:
        StorageError: It is not UTF-8, or cannot be read.
    """
    try:
        return read_bytes(uri).decode()
    except UnicodeDecodeError as err:
        raise StorageError(
            f"{uri} must be UTF-8 text; byte {err.start} is not. Write it again in UTF-8."
        ) from err


def read_json(uri: str) -> Any:
    """Return the JSON value in the object.

    Raises:
        StorageError: It is not JSON, or cannot be read.
    """
    try:
        return json.loads(read_text(uri))
    except json.JSONDecodeError as err:
        raise StorageError(
            f"{uri} must be JSON; got {err.msg} in line {err.lineno}, column {err.colno}. Delete or repair it."
        ) from err


def write_bytes(uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
    """Write the object: it appears whole, or not at all.

    Args:
        uri: Where; a local file's folders are made.
        data: All of its bytes.
        if_absent: Whether there must be no such object yet.

    Raises:
        AlreadyExistsError: `if_absent`, and there is one.
        StorageError: It cannot be written.
    """
    return backend_of(uri).write_bytes(uri, data, if_absent=if_absent)


def write_text(uri: str, text: str, *, if_absent: bool = False) -> ObjectInfo:
    """Write text in UTF-8; otherwise as `write_bytes`."""
    return write_bytes(uri, text.encode(), if_absent=if_absent)


def write_json(uri: str, facts: Any, *, if_absent: bool = False) -> ObjectInfo:
    """Write JSON, the same bytes for the same facts: sorted keys, ASCII, two blanks a level, a newline at the end."""
    text = json.dumps(facts, indent=2, sort_keys=True, allow_nan=False)
    return write_text(uri, f"{text}\n", if_absent=if_absent)


def swap_bytes(uri: str, data: bytes, *, expected_version: str | None) -> ObjectInfo:
    """Replace the object if nobody else did since it had `expected_version`; of racing swaps one wins.

    Args:
        uri: The object; only swaps should ever write it.
        data: All of its new bytes.
        expected_version: `ObjectInfo.version`; None if there must be no such object.

    Raises:
        ConflictError: It has another version.
        StorageError: It cannot be written.
    """
    return backend_of(uri).swap_bytes(uri, data, expected_version=expected_version)


def download(uri: str, path: Path, *, version: str | None = None) -> None:
    """Copy the object to a local file, which appears whole or not at all; checks as in `read_bytes`."""
    backend_of(uri).download(uri, path, version=version)


def upload(path: Path, uri: str, *, if_absent: bool = False) -> ObjectInfo:
    """Copy a local file to the object without holding it in memory; otherwise as `write_bytes`."""
    return backend_of(uri).upload(path, uri, if_absent=if_absent)


def copy(source_uri: str, target_uri: str) -> None:
    """Copy one object to another, inside the store where both are in the same one.

    Raises:
        NotFoundError: There is no such object.
        StorageError: It cannot be read or written.
    """
    if scheme_of(source_uri) == scheme_of(target_uri):
        backend_of(source_uri).copy(source_uri, target_uri)
        return
    with as_local_file(source_uri) as path:
        upload(path, target_uri)


def delete(uri: str) -> None:
    """Delete the object; it is fine if there is none."""
    backend_of(uri).delete(uri)


@contextlib.contextmanager
def as_local_file(uri: str) -> Iterator[Path]:
    """Yield a path with the object's bytes: the file itself if it is local, else a download that goes at the end."""
    if is_local(uri):
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="repot-") as folder:
        path = Path(folder, PurePosixPath(uri).name)
        download(uri, path)
        yield path
