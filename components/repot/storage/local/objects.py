"""The backend functions for local files.

An object that is replaced by `swap_bytes` must never be written in another way: other writes do not
take its lock.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from stat import S_IFBLK, S_IFCHR, S_IFIFO, S_IFMT, S_IFSOCK, S_ISDIR, S_ISLNK, S_ISREG
from typing import BinaryIO

import google_crc32c

from repot.errors import AlreadyExistsError
from repot.storage.backend import (
    EMPTY_FOLDER,
    HIDDEN_PREFIX,
    Content,
    ObjectInfo,
    OtherEntry,
    StoredObject,
    UnfinishedUpload,
    changed_error,
    conflict_error,
    new_hidden_name,
)
from repot.storage.checksums import BLOCK_BYTES, crc32c_hex
from repot.storage.local.errors import convert_os_errors
from repot.storage.local.files import locked, write_atomically

# One call reads at most 2 GiB.
_MAX_BLOCK_BYTES = 1 << 30

_KINDS = {
    S_IFIFO: "a named pipe",
    S_IFSOCK: "a socket",
    S_IFCHR: "a device",
    S_IFBLK: "a device",
}

_Inode = tuple[int, int]


def stat(uri: str) -> ObjectInfo | None:
    """Return the state of a file; None if it does not exist or is a folder."""
    path = Path(uri)
    with convert_os_errors("looked up", path):
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
    return local_info(uri, status) if S_ISREG(status.st_mode) else None


def list_objects(folder_uri: str) -> list[ObjectInfo]:
    """Return every regular file below a folder, sorted.

    Links are followed, except to a folder that contains the link: circles of links end.
    """
    return [entry for entry in scan_folder(folder_uri) if isinstance(entry, ObjectInfo)]


def scan_folder(folder_uri: str) -> Iterator[ObjectInfo | OtherEntry]:
    """Yield every regular file and every empty folder, and what is neither file nor folder.

    They are sorted by URI. No path enters the same folder twice, so circles end.
    """
    root = folder_uri.rstrip("/")
    with convert_os_errors("listed", Path(folder_uri)):
        try:
            status = Path(root or "/").stat()
        except (FileNotFoundError, NotADirectoryError):
            return
        if S_ISDIR(status.st_mode):
            yield from _walk(root)


def scan_stored(folder_uri: str) -> Iterator[StoredObject]:
    """Yield every regular file below a folder, hidden ones included; links below are not followed.

    A file that is deleted meanwhile is left out.
    """
    folders = [folder_uri.rstrip("/") or "/"]
    with convert_os_errors("listed", Path(folder_uri)):
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        yield _stored_object(entry)


def list_unfinished_uploads(folder_uri: str) -> list[UnfinishedUpload]:
    """Return nothing: an unfinished file is a hidden file."""
    return []


def abort_upload(upload: UnfinishedUpload) -> None:
    """Do nothing: there are none."""


def read_object(uri: str, *, version: str | None = None) -> Content:
    """Return a file's bytes and state; NotFoundError if it no longer has `version`."""
    with convert_os_errors("read", uri), _opened(uri) as descriptor:
        parts = list(_blocks(descriptor, _MAX_BLOCK_BYTES))
        status = os.fstat(descriptor)
    _check_version(uri, status, version)
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    return Content(data=data, info=local_info(uri, status, crc32c=crc32c_hex(data)))


def read_crc32c_hex(uri: str, *, version: str | None = None) -> str:
    """Return the CRC32C of a file's bytes; NotFoundError if it no longer has `version`."""
    crc = 0
    with convert_os_errors("read", uri), _opened(uri) as descriptor:
        for block in _blocks(descriptor, BLOCK_BYTES):
            crc = google_crc32c.extend(crc, block)
        if version is not None:
            _check_version(uri, os.fstat(descriptor), version)
    return f"{crc:08x}"


def read_range(uri: str, *, offset: int, num_bytes: int, version: str | None = None) -> bytes:
    """Return a range of a file's bytes; NotFoundError if it no longer has `version`."""
    path = Path(uri)
    with convert_os_errors("read", path), path.open("rb", buffering=0) as file:
        _check_version(uri, os.fstat(file.fileno()), version)
        file.seek(offset)
        parts = []
        while num_bytes > 0 and (part := file.read(num_bytes)):
            parts.append(part)
            num_bytes -= len(part)
    return b"".join(parts)


def local_info(uri: str, status: os.stat_result, *, crc32c: str | None = None) -> ObjectInfo:
    """Return the state of a file from its status, and its checksum if it is known."""
    return ObjectInfo(
        uri=uri,
        size_bytes=status.st_size,
        crc32c=crc32c,
        version=f"{status.st_size}-{status.st_mtime_ns}",
        # A program can set the modification time, but not the change time.
        stamp=f"-{status.st_ctime_ns}-{status.st_ino}",
    )


def write_bytes(uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
    """Write a whole file; missing folders are created."""
    status = write_atomically(Path(uri), lambda file: file.write(data), if_absent=if_absent)
    return local_info(uri, status)


def swap_bytes(uri: str, data: bytes, *, expected_version: str | None) -> ObjectInfo:
    """Write a file if it has the expected version (None: if it does not exist)."""
    if expected_version is None:
        try:
            return write_bytes(uri, data, if_absent=True)
        except AlreadyExistsError as err:
            raise conflict_error(uri, expected_version) from err
    # The lock file needs an existing folder.
    if stat(uri) is None:
        raise conflict_error(uri, expected_version)
    with locked(Path(uri)):
        current = stat(uri)
        if current is None or current.version != expected_version:
            raise conflict_error(uri, expected_version)
        return write_bytes(uri, data)


def download(uri: str, path: Path, *, version: str | None = None) -> ObjectInfo:
    """Copy a file; NotFoundError if it no longer has `version`."""
    source = Path(uri)

    def copy_to(target: BinaryIO) -> None:
        shutil.copyfileobj(reader, target, BLOCK_BYTES)
        _check_version(uri, os.fstat(reader.fileno()), version)

    with convert_os_errors("read", source), source.open("rb") as reader:
        write_atomically(path, copy_to)
        return local_info(uri, os.fstat(reader.fileno()))


def upload(path: Path, uri: str, *, if_absent: bool = False) -> ObjectInfo:
    """Copy a file; missing folders of the target are created."""
    with convert_os_errors("read", path), path.open("rb") as reader:
        status = write_atomically(
            Path(uri),
            lambda file: shutil.copyfileobj(reader, file, BLOCK_BYTES),
            if_absent=if_absent,
        )
    return local_info(uri, status)


def copy(source_uri: str, target_uri: str) -> None:
    """Copy a file."""
    download(source_uri, Path(target_uri))


def delete(uri: str) -> None:
    """Delete a file if it exists."""
    path = Path(uri)
    with (
        convert_os_errors("deleted", path),
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
    ):
        path.unlink()


def delete_folder(uri: str) -> None:
    """Delete a folder and everything below it; of a link to a folder, only the link."""
    path = Path(uri)
    with convert_os_errors("deleted", path):
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)


def check_writable(uri: str) -> None:
    """Check that files can be created, listed and deleted in a folder; create it if needed."""
    folder = Path(uri)
    probe = folder / new_hidden_name("check")
    with convert_os_errors("written", folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"repot may write here\n")
        os.scandir(folder).close()
        probe.unlink()


def _stored_object(entry: os.DirEntry[str]) -> StoredObject:
    status = entry.stat(follow_symlinks=False)
    return StoredObject(
        uri=entry.path,
        size_bytes=status.st_size,
        written_at=status.st_mtime,
        file_id=f"{status.st_dev}-{status.st_ino}",
        num_names=status.st_nlink,
    )


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[int]:
    """Open a file; with a file object, reading a small one would take three times as long."""
    descriptor = os.open(uri, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _blocks(descriptor: int, max_bytes: int) -> Iterator[bytes]:
    """Yield the bytes of an open file in blocks; an ordinary small file in one."""
    size_bytes = os.fstat(descriptor).st_size
    # One byte more, so that one call reads a whole file and finds its end.
    block_bytes = min(size_bytes + 1, max_bytes) if size_bytes else BLOCK_BYTES
    while block := os.read(descriptor, block_bytes):
        yield block
        if len(block) == size_bytes < block_bytes:
            return
        block_bytes = BLOCK_BYTES


def _check_version(uri: str, status: os.stat_result, version: str | None) -> None:
    if version is not None and local_info(uri, status).version != version:
        raise changed_error(uri)


def _walk(root: str) -> Iterator[ObjectInfo | OtherEntry]:
    """Yield everything below a folder, sorted by URI."""
    # What is still to be visited, the next one last, each with the folders that contain it.
    stack: list[tuple[str, frozenset[_Inode]]] = [(root, frozenset())]
    while stack:
        uri, ancestors = stack.pop()
        status = _resolve_status(uri)
        if status is None:
            continue
        mode = status.st_mode
        if S_ISREG(mode) or S_ISLNK(mode):
            yield local_info(uri, status)
        elif not S_ISDIR(mode):
            yield OtherEntry(uri=uri, kind=_KINDS.get(S_IFMT(mode), "a special file"))
        elif _inode(status) in ancestors:
            yield OtherEntry(uri=uri, kind="a link to a folder that contains it")
        else:
            names = _sorted_names(uri)
            inside = ancestors | {_inode(status)}
            stack += [(f"{uri}/{name}", inside) for name in reversed(names)]
            if not names and uri != root:
                yield OtherEntry(uri=uri, kind=EMPTY_FOLDER)


def _sorted_names(folder: str) -> list[str]:
    """Return the names in a folder, except repot's own hidden files, in the order of their URIs.

    The URIs of what is in a folder begin with its name and a slash, so that is where it belongs.
    """
    with os.scandir(folder or "/") as entries:
        names = [
            f"{entry.name}/" if _is_folder(entry) else entry.name
            for entry in entries
            if not entry.name.startswith(HIDDEN_PREFIX)
        ]
    return [name.removesuffix("/") for name in sorted(names)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _resolve_status(uri: str) -> os.stat_result | None:
    """Return the status of a file, or None if it was deleted in the meantime.

    A broken link gives the status of the link itself: it must be listed, so that it is reported.
    """
    try:
        return os.stat(uri or "/")  # noqa: PTH116 (a Path per file doubles the time of a replan)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            return os.lstat(uri)
    return None


def _inode(status: os.stat_result) -> _Inode:
    return status.st_dev, status.st_ino
