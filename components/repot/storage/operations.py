"""The operations of `repot.storage` on objects and folders, on any backend.

Folder operations copy several objects in parallel. Each object is copied as a whole, and objects
that exist only in the target folder are kept.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from repot.errors import NotFoundError, StorageError
from repot.storage.backend import (
    Backend,
    Content,
    ObjectInfo,
    OtherEntry,
    StoredObject,
    UnfinishedUpload,
    new_hidden_name,
)
from repot.storage.local import objects as local_objects
from repot.storage.local.files import link_file
from repot.storage.uris import folder_prefix, is_local, relative_name, scheme_of, split_bucket

_NUM_THREADS = 8


def find_backend(scheme: str) -> Backend:
    """Return the backend of a URI scheme; "" is a local path.

    Those of object stores are imported when they are first used: HTTP and TLS take a fifth of the
    start of a process that reads local files only.
    """
    if scheme == "gs":
        from repot.storage.gcs import objects as gcs_objects

        return gcs_objects
    if scheme == "s3":
        from repot.storage.s3 import objects as s3_objects

        return s3_objects
    return local_objects


def stat(uri: str) -> ObjectInfo | None:
    """Return the state of the object, or None if it does not exist."""
    return _backend(uri).stat(uri)


def exists(uri: str) -> bool:
    """Return whether the object exists; a folder is not an object."""
    return stat(uri) is not None


def check_size(uri: str, max_bytes: int) -> None:
    """Check that an object is not too large to be read whole; one that does not exist passes.

    For a file that a stranger may have written. Nothing of it is read.

    Args:
        uri: The object.
        max_bytes: The largest size that makes sense.

    Raises:
        StorageError: It is larger, or is a local pipe or device, which has no end.
    """
    info = stat(uri)
    if info is None and is_local(uri) and Path(uri).exists() and not Path(uri).is_dir():
        raise StorageError(f"{uri} must be a regular file; it is not. Restore it from a backup.")
    if info is not None and info.size_bytes > max_bytes:
        raise StorageError(
            f"{uri} must have at most {max_bytes:,} bytes; it has {info.size_bytes:,}. Restore it "
            "from a backup."
        )


def list_objects(folder_uri: str) -> list[ObjectInfo]:
    """Return every object below a folder, at any depth, sorted by the code points of their names.

    Links to folders are followed. Folder placeholders and repot's own hidden files are left out.

    Returns:
        The objects; empty for a folder that does not exist.

    Raises:
        StorageError: The folder cannot be listed.
    """
    return _backend(folder_uri).list_objects(folder_uri)


def scan_folder(folder_uri: str) -> Iterator[ObjectInfo | OtherEntry]:
    """Yield every object below a folder, and what would go unnoticed there, as it is listed.

    Local files come sorted by the code points of their names, objects in the order of the service.

    Raises:
        StorageError: The folder cannot be listed.
    """
    return _backend(folder_uri).scan_folder(folder_uri)


def scan_stored(folder_uri: str) -> Iterator[StoredObject]:
    """Yield every object below a folder and when it was written, repot's hidden files included.

    Nothing for a folder that does not exist. Links are not followed, except the folder itself.

    Raises:
        StorageError: The folder cannot be listed.
    """
    return _backend(folder_uri).scan_stored(folder_uri)


def list_unfinished_uploads(folder_uri: str) -> list[UnfinishedUpload]:
    """Return the uploads to objects below a folder that were begun and not completed.

    Only S3 keeps their parts; a killed program leaves them there.

    Raises:
        StorageError: They cannot be listed.
    """
    return _backend(folder_uri).list_unfinished_uploads(folder_uri)


def abort_upload(upload: UnfinishedUpload) -> None:
    """Delete the parts of an unfinished upload, if they still exist."""
    _backend(upload.uri).abort_upload(upload)


def read_clock(folder_uri: str) -> float:
    """Return the present time by the clock that stamps the objects of a folder.

    A hidden object is written, listed and deleted, so this also checks that all of that is allowed.

    Returns:
        Seconds since 1970.

    Raises:
        StorageError: One of these fails; the message says why, and what to do.
    """
    probe_uri = f"{folder_prefix(folder_uri)}{new_hidden_name('clock')}"
    backend = _backend(folder_uri)
    backend.write_bytes(f"{probe_uri}/now", b"")
    written_at = max((found.written_at for found in backend.scan_stored(probe_uri)), default=0.0)
    delete_folder(probe_uri)
    return written_at


def read_object(uri: str, *, version: str | None = None) -> Content:
    """Return the content of the object and its state, of one and the same version.

    The stored bytes are verified against the CRC32C of the object store; then they are decompressed
    if the object has `Content-Encoding: gzip`.

    Args:
        uri: The object.
        version: The version to read, as listed; None for the current one. An object that other
            processes replace, such as champion.json, is read without it: between a listing and a
            read, that version may be gone.

    Raises:
        NotFoundError: The object does not exist, or no longer has that version.
        ContentEncodingError: It cannot be decompressed.
        StorageError: It cannot be read, or arrives damaged.
    """
    return _backend(uri).read_object(uri, version=version)


def read_bytes(uri: str, *, version: str | None = None) -> bytes:
    """Return the content of the object; otherwise as `read_object`."""
    return read_object(uri, version=version).data


def read_crc32c_hex(uri: str, *, version: str | None = None) -> str:
    """Return the CRC32C of the object's stored bytes, 8 hex digits.

    For objects whose `ObjectInfo.crc32c` is None. The whole object is read, unless the service
    itself has the CRC32C of a version.

    Args:
        uri: The object.
        version: As in `read_object`.

    Raises:
        NotFoundError: The object does not exist, or no longer has that version.
        StorageError: It cannot be read, or arrives damaged.
    """
    return _backend(uri).read_crc32c_hex(uri, version=version)


def read_range(uri: str, *, offset: int, num_bytes: int, version: str | None = None) -> bytes:
    """Return a range of the object's stored bytes, fewer at its end.

    No checksum of the object store covers a range: callers verify what they read. The bytes are not
    decompressed, whatever the object's Content-Encoding.

    Args:
        uri: The object.
        offset: First byte, below the object's size.
        num_bytes: Number of bytes, at least 1.
        version: As in `read_object`.

    Raises:
        NotFoundError: The object does not exist, or no longer has that version.
        StorageError: It cannot be read, or ends before `offset`.
    """
    return _backend(uri).read_range(uri, offset=offset, num_bytes=num_bytes, version=version)


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
            f"{uri} must be JSON; got {err.msg} in line {err.lineno}, column {err.colno}. "
            "Delete or repair it."
        ) from err
    except RecursionError as err:
        raise StorageError(
            f"{uri} must be JSON; it is nested too deeply. Delete or repair it."
        ) from err
    except ValueError as err:  # a number of thousands of digits
        raise StorageError(f"{uri} must be JSON; got {err}. Delete or repair it.") from err


def write_bytes(uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
    """Write the object atomically: readers see all of it or nothing.

    Args:
        uri: The object; the folders of a local file are created.
        data: The whole content.
        if_absent: Fail if the object already exists.

    Raises:
        AlreadyExistsError: `if_absent`, and the object exists.
        StorageError: It cannot be written.
    """
    return _backend(uri).write_bytes(uri, data, if_absent=if_absent)


def write_text(uri: str, text: str, *, if_absent: bool = False) -> ObjectInfo:
    """Write text in UTF-8; otherwise as `write_bytes`."""
    return write_bytes(uri, text.encode(), if_absent=if_absent)


def write_json(uri: str, value: Any, *, if_absent: bool = False) -> ObjectInfo:
    """Write JSON; equal values give equal bytes.

    Keys are sorted, text is ASCII, indentation is two spaces, and the last line ends with a
    newline.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    return write_text(uri, f"{text}\n", if_absent=if_absent)


def swap_bytes(uri: str, data: bytes, *, expected_version: str | None) -> ObjectInfo:
    """Replace the object if it still has `expected_version`; exactly one of racing swaps succeeds.

    Args:
        uri: The object. It must never be written except by swaps.
        data: The whole new content.
        expected_version: Its `ObjectInfo.version`; None if the object must not exist.

    Raises:
        ConflictError: The object has another version.
        StorageError: It cannot be written.
    """
    return _backend(uri).swap_bytes(uri, data, expected_version=expected_version)


def download(uri: str, path: Path, *, version: str | None = None) -> ObjectInfo:
    """Copy the object's content atomically to a local file; otherwise as `read_object`.

    Returns:
        The state of the object; size and CRC32C are those of the stored bytes, which differ from
        the content if the object has `Content-Encoding: gzip`.
    """
    return _backend(uri).download(uri, path, version=version)


def upload(path: Path, uri: str, *, if_absent: bool = False) -> ObjectInfo:
    """Copy a local file to the object without loading it whole; otherwise as `write_bytes`."""
    return _backend(uri).upload(path, uri, if_absent=if_absent)


def copy(source_uri: str, target_uri: str) -> None:
    """Copy one object to another; within one object store the data does not leave the service.

    Raises:
        NotFoundError: The source does not exist.
        StorageError: An object cannot be read or written.
    """
    if scheme_of(source_uri) == scheme_of(target_uri):
        _backend(source_uri).copy(source_uri, target_uri)
        return
    with as_local_file(source_uri) as path:
        upload(path, target_uri)


def link(source_uri: str, target_uri: str) -> None:
    """Make an object that must never change available under another name too.

    On one disk it is a hard link, which takes no room; in an object store, and where links are
    impossible, it is a copy.

    Raises:
        NotFoundError: The source does not exist.
        StorageError: An object cannot be read or written.
    """
    are_local = is_local(source_uri) and is_local(target_uri)
    if not (are_local and link_file(Path(source_uri), Path(target_uri))):
        copy(source_uri, target_uri)


def delete(uri: str) -> None:
    """Delete the object if it exists."""
    _backend(uri).delete(uri)


@contextlib.contextmanager
def as_local_file(uri: str) -> Iterator[Path]:
    """Yield a local path with the object's content.

    It is the file itself if the object is local, otherwise a download that is deleted at the end.
    """
    if is_local(uri):
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="repot-") as folder:
        path = Path(folder, PurePosixPath(uri).name)
        download(uri, path)
        yield path


def download_folder(uri: str, folder: Path) -> None:
    """Copy every object below `uri` into the local `folder`, under its relative name.

    Raises:
        NotFoundError: There is no object below `uri`.
        StorageError: An object cannot be copied, or its name is not valid as a local path.
    """
    _run_parallel(download, [(source, folder / name) for source, name in _list_files(uri)])


def upload_folder(folder: Path, uri: str) -> None:
    """Copy every file below the local `folder` to `uri`, under its relative name.

    Raises:
        NotFoundError: There is no file in `folder`.
        StorageError: A file cannot be copied.
    """
    sources = _list_names(str(folder.absolute()))
    _run_parallel(upload, [(Path(source), folder_prefix(uri) + name) for source, name in sources])


def copy_folder(source_uri: str, target_uri: str) -> None:
    """Copy every object below `source_uri` to `target_uri`, under its relative name.

    Raises:
        NotFoundError: There is no object below `source_uri`.
        StorageError: An object cannot be copied, or its name is not valid as a local path.
    """
    sources = _list_files(source_uri) if is_local(target_uri) else _list_names(source_uri)
    _run_parallel(copy, [(source, folder_prefix(target_uri) + name) for source, name in sources])


def delete_folder(uri: str) -> None:
    """Delete everything below a folder, if it exists.

    Raises:
        StorageError: It is a whole bucket or disk, or cannot be deleted.
    """
    is_folder = Path(uri) != Path("/") if is_local(uri) else bool(split_bucket(uri)[1])
    if not is_folder:
        raise StorageError(
            f"{uri} must be a folder in a bucket or on a disk, not the whole bucket or disk. "
            "Give a folder."
        )
    _backend(uri).delete_folder(uri)


def delete_empty_folders(folder_uri: str) -> None:
    """Delete a local folder and those below it, as far as they contain nothing.

    An object store has no folders. One that cannot be deleted is left.
    """
    if is_local(folder_uri):
        for folder, _, _ in os.walk(folder_uri, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def check_writable(uri: str) -> None:
    """Check that objects can be written, read, listed and deleted below a folder.

    Raises:
        StorageError: One of these fails; the message says why, and what to do.
    """
    _backend(uri).check_writable(uri)


def _backend(uri: str) -> Backend:
    return find_backend(scheme_of(uri))


def _list_names(folder_uri: str) -> list[tuple[str, str]]:
    """Return URI and relative name of every object below a folder that must not be empty."""
    infos = list_objects(folder_uri)
    if not infos:
        raise NotFoundError(f"{folder_uri} must contain files; found none. Check the name.")
    return [(info.uri, relative_name(info.uri, folder_uri)) for info in infos]


def _list_files(folder_uri: str) -> list[tuple[str, str]]:
    """Return the same as `_list_names`, with names that are valid as paths in a local folder."""
    sources = _list_names(folder_uri)
    for uri, name in sources:
        if {"", ".", ".."} & set(name.split("/")):
            raise StorageError(
                f"{uri} must have a name that is valid as a local path. Rename that object."
            )
    return sources


def _run_parallel(transfer: Callable[..., object], arguments: Sequence[tuple[Any, Any]]) -> None:
    """Call `transfer` with each pair in parallel; the first failure cancels the pending calls."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        futures = [pool.submit(transfer, *pair) for pair in arguments]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
