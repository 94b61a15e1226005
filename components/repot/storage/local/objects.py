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
    HIDDEN_PREFIX,
    Content,
    FolderListing,
    ObjectInfo,
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
    return scan_folder(folder_uri).objects


def scan_folder(folder_uri: str) -> FolderListing:
    """Return every regular file and every empty folder, and what is neither file nor folder."""
    listing = FolderListing(objects=[], empty_folders=[], others={})
    with convert_os_errors("listed", Path(folder_uri)):
        _walk(folder_uri.rstrip("/"), listing)
    listing.objects.sort(key=lambda info: info.uri)
    listing.empty_folders.sort()
    return listing


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


def _walk(root: str, listing: FolderListing) -> None:
    """Add everything below `root`; no path enters the same folder twice, so circles end."""
    try:
        status = Path(root or "/").stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    stack = [(root, _inode(status), frozenset[_Inode]())] if S_ISDIR(status.st_mode) else []
    while stack:
        folder, inode, ancestors = stack.pop()
        is_empty = folder != root
        for uri, entry in _entries(folder):
            is_empty = False
            if S_ISREG(entry.st_mode) or S_ISLNK(entry.st_mode):
                listing.objects.append(local_info(uri, entry))
            elif not S_ISDIR(entry.st_mode):
                listing.others[uri] = _KINDS.get(S_IFMT(entry.st_mode), "a special file")
            elif _inode(entry) in ancestors | {inode}:
                listing.others[uri] = "a link to a folder that contains it"
            else:
                stack.append((uri, _inode(entry), ancestors | {inode}))
        if is_empty:
            listing.empty_folders.append(folder)


def _entries(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield URI and status of each entry of a folder, except repot's own hidden files."""
    with os.scandir(folder or "/") as entries:
        for entry in entries:
            status = None if entry.name.startswith(HIDDEN_PREFIX) else _resolve_entry(entry)
            if status is not None:
                yield f"{folder}/{entry.name}", status


def _resolve_entry(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of an entry's target, or None if the entry was deleted in the meantime.

    A broken link gives the status of the link itself: it must be listed, so that it is reported.
    """
    try:
        return entry.stat()
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            return entry.stat(follow_symlinks=False)
    return None


def _inode(status: os.stat_result) -> _Inode:
    return status.st_dev, status.st_ino
