"""Whole folders: copied by several threads, each file whole, none deleted that is only in the target."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from repot.errors import NotFoundError, StorageError
from repot.storage.objects import backend_of, copy, download, list_objects, upload
from repot.storage.uris import is_local, relative_name, split_bucket

_NUM_THREADS = 8


def download_folder(uri: str, folder: Path) -> None:
    """Copy every object below `uri` into the local `folder`, under its relative name.

    Raises:
        NotFoundError: There is nothing below `uri`.
        StorageError: An object cannot be copied, or its name would lead out of the folder.
    """
    _run(download, [(source, folder / name) for source, name in _files_below(uri)])


def upload_folder(folder: Path, uri: str) -> None:
    """Copy every file below the local `folder` to `uri`, under its relative name.

    Raises:
        NotFoundError: There is nothing in `folder`.
        StorageError: A file cannot be copied.
    """
    _run(
        upload,
        [
            (Path(source), f"{uri}/{name}")
            for source, name in _objects_below(str(folder.absolute()))
        ],
    )


def copy_folder(source_uri: str, target_uri: str) -> None:
    """Copy every object below `source_uri` to `target_uri`, under its relative name.

    Raises:
        NotFoundError: There is nothing below `source_uri`.
        StorageError: An object cannot be copied, or its name would lead out of the folder.
    """
    below = _files_below(source_uri) if is_local(target_uri) else _objects_below(source_uri)
    _run(copy, [(source, f"{target_uri}/{name}") for source, name in below])


def delete_folder(uri: str) -> None:
    """Delete everything below a folder; it is fine if there is none.

    Raises:
        StorageError: It is a whole bucket or disk, or cannot be deleted.
    """
    below = Path(uri) != Path("/") if is_local(uri) else bool(split_bucket(uri)[1])
    if not below:
        raise StorageError(
            f"{uri} must be a folder in a bucket or on a disk, not the whole of it. Name a folder."
        )
    backend_of(uri).delete_folder(uri)


def check_writable(uri: str) -> None:
    """Prove that objects can be written, read, listed and deleted below a folder.

    Raises:
        StorageError: They cannot; says why, and what to do.
    """
    backend_of(uri).check_writable(uri)


def _objects_below(folder_uri: str) -> list[tuple[str, str]]:
    """Return URI and relative name of every object below a folder; there must be one."""
    below = [(info.uri, relative_name(info.uri, folder_uri)) for info in list_objects(folder_uri)]
    if not below:
        raise NotFoundError(f"{folder_uri} must hold files; there is none. Check the name.")
    return below


def _files_below(folder_uri: str) -> list[tuple[str, str]]:
    """Return the same, of objects that can all be files in one local folder."""
    below = _objects_below(folder_uri)
    for uri, name in below:
        if {"", ".", ".."} & set(name.split("/")):
            raise StorageError(
                f"{uri} must have a name that a local file can have too. Rename that object."
            )
    return below


def _run(transfer: Callable[..., object], arguments: Sequence[tuple[Any, Any]]) -> None:
    """Call `transfer` with each pair, several at a time; the first failure stops those that have not begun."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        futures = [pool.submit(transfer, *pair) for pair in arguments]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
