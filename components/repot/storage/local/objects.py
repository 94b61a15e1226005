"""Objects as files of this machine.

An object that is ever swapped is to be written by `swap_bytes` only: other writes do not take its lock.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import BinaryIO

from repot.errors import AlreadyExistsError
from repot.storage.backend import HIDDEN_PREFIX, ObjectInfo
from repot.storage.checksums import BLOCK_BYTES
from repot.storage.local.errors import explained
from repot.storage.local.files import hidden_name, locked, write_file
from repot.storage.problems import changed, conflict

_Inode = tuple[int, int]


def stat(uri: str) -> ObjectInfo | None:
    """Return what is known about a file; None if there is none, or a folder."""
    path = Path(uri)
    with explained("looked at", path):
        try:
            facts = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
    return _info(uri, facts) if path.is_file() else None


def list_objects(folder_uri: str) -> list[ObjectInfo]:
    """Return every regular file below a folder, sorted; links are followed, but never into a folder above."""
    with explained("listed", Path(folder_uri)):
        infos = list(_walk(folder_uri.rstrip("/")))
    return sorted(infos, key=lambda info: info.uri)


def read_bytes(uri: str, *, version: str | None = None) -> bytes:
    """Return a file's bytes; NotFoundError if it changed since `version`."""
    path = Path(uri)
    with explained("read", path), path.open("rb") as file:
        data = file.read()
        _check_version(uri, os.fstat(file.fileno()), version)
    return data


def write_bytes(uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
    """Write a whole file, making its folders."""
    return _info(uri, write_file(Path(uri), lambda file: file.write(data), if_absent=if_absent))


def swap_bytes(uri: str, data: bytes, *, expected_version: str | None) -> ObjectInfo:
    """Write a file if it has the expected version (None: if there is none)."""
    if expected_version is None:
        try:
            return write_bytes(uri, data, if_absent=True)
        except AlreadyExistsError as err:
            raise conflict(uri, expected_version) from err
    if stat(uri) is None:
        raise conflict(uri, expected_version)
    with locked(Path(uri)):
        current = stat(uri)
        if current is None or current.version != expected_version:
            raise conflict(uri, expected_version)
        return write_bytes(uri, data)


def download(uri: str, path: Path, *, version: str | None = None) -> None:
    """Copy a file; NotFoundError if it changed since `version`."""
    source = Path(uri)

    def copy_to(target: BinaryIO) -> None:
        shutil.copyfileobj(reader, target, BLOCK_BYTES)
        _check_version(uri, os.fstat(reader.fileno()), version)

    with explained("read", source), source.open("rb") as reader:
        write_file(path, copy_to)


def upload(path: Path, uri: str, *, if_absent: bool = False) -> ObjectInfo:
    """Copy a file, making the target's folders."""
    with explained("read", path), path.open("rb") as reader:
        facts = write_file(
            Path(uri),
            lambda file: shutil.copyfileobj(reader, file, BLOCK_BYTES),
            if_absent=if_absent,
        )
    return _info(uri, facts)


def copy(source_uri: str, target_uri: str) -> None:
    """Copy a file."""
    download(source_uri, Path(target_uri))


def delete(uri: str) -> None:
    """Delete a file, if there is one."""
    path = Path(uri)
    with explained("deleted", path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()


def delete_folder(uri: str) -> None:
    """Delete a folder and everything below it; of a link to a folder only the link."""
    path = Path(uri)
    with explained("deleted", path):
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)


def check_writable(uri: str) -> None:
    """Prove that files can be made, listed and deleted in a folder; it is made if need be."""
    folder = Path(uri)
    probe = folder / hidden_name("check")
    with explained("written", folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"repot may write here\n")
        os.scandir(folder).close()
        probe.unlink()


def _info(uri: str, facts: os.stat_result) -> ObjectInfo:
    version = f"{facts.st_size}-{facts.st_mtime_ns}"
    return ObjectInfo(uri=uri, size_bytes=facts.st_size, crc32c=None, version=version)


def _check_version(uri: str, facts: os.stat_result, version: str | None) -> None:
    if version is not None and _info(uri, facts).version != version:
        raise changed(uri)


def _walk(root: str) -> Iterator[ObjectInfo]:
    """Yield every file below `root`; a folder is entered once on each way down, so that circles of links end."""
    try:
        facts = Path(root or "/").stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    stack = [(root, _inode(facts), frozenset[_Inode]())] if S_ISDIR(facts.st_mode) else []
    while stack:
        folder, inode, above = stack.pop()
        for uri, found in _entries(folder):
            if S_ISREG(found.st_mode) or S_ISLNK(found.st_mode):
                yield _info(uri, found)
            elif S_ISDIR(found.st_mode) and _inode(found) not in above | {inode}:
                stack.append((uri, _inode(found), above | {inode}))


def _entries(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield each entry of a folder and what it is; skip repot's own files and what vanishes meanwhile."""
    with os.scandir(folder or "/") as entries:
        for entry in entries:
            found = None if entry.name.startswith(HIDDEN_PREFIX) else _look(entry)
            if found is not None:
                yield f"{folder}/{entry.name}", found


def _look(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return what an entry is in the end, None if it vanished; a link to nothing stays a link: it is accounted for."""
    try:
        return entry.stat()
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            return entry.stat(follow_symlinks=False)
    return None


def _inode(facts: os.stat_result) -> _Inode:
    return facts.st_dev, facts.st_ino
