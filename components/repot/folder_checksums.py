"""checksums.json: size and SHA-256 of every file in a finished folder, so that damage is noticed.

    <folder>/checksums.json    written after all other files, but before the one that makes the
                               folder complete, whose content is known by then

Shards are not in it: their receipts have their CRC32C, and reading them again would cost as much as
writing them. A folder of an earlier version of repot has no checksums.json. `repot verify` compares
the files with it, see `repot.storage_check`.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

from repot import storage
from repot.errors import NotFoundError, StorageError
from repot.json_record import JsonRecord, RecordError, checked_text
from repot.layout import CHECKSUMS_NAME

_NUM_READERS = 16
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChecksum(JsonRecord):
    """A file: its name in the folder, its size in bytes and its SHA-256.

    Raises:
        ValueError: The name leads out of the folder.
    """

    name: str
    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """Check the name, which a stranger may have written."""
        path = PurePosixPath(self.name)
        if path.is_absolute() or ".." in path.parts or "\0" in self.name:
            raise ValueError(f"name must be that of a file in the folder; got {self.name!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderChecksums(JsonRecord):
    """What checksums.json holds."""

    files: tuple[FileChecksum, ...]


def write_last(folder_uri: str, name: str, text: str, *, parts: Iterable[str]) -> None:
    """Write the checksums of a folder, and then the file that makes it complete.

    Args:
        folder_uri: The folder.
        name, text: The last file.
        parts: Names of the other files, and of folders of them, with a slash at the end. Those that
            do not exist are left out; other files, which may be a user's, are not looked at.
    """
    last = text.encode()
    files = [
        *_list_parts(folder_uri, parts),
        FileChecksum(name=name, size_bytes=len(last), sha256=hashlib.sha256(last).hexdigest()),
    ]
    _write(folder_uri, files)
    storage.write_bytes(storage.join(folder_uri, name), last)


def write_checksums(folder_uri: str, *, parts: Iterable[str]) -> None:
    """Write the checksums of files that are all there, see `write_last`."""
    _write(folder_uri, _list_parts(folder_uri, parts))


def list_files(folder_uri: str, *, skip: Iterable[str]) -> tuple[FileChecksum, ...]:
    """Return the checksums of all files of a folder.

    Args:
        folder_uri: The folder.
        skip: Names of files and of folders directly in it that are left out.
    """
    skipped = set(skip)
    infos = [
        info
        for info in storage.list_objects(folder_uri)
        if storage.relative_name(info.uri, folder_uri).split("/")[0] not in skipped
    ]
    return tuple(_checksums(folder_uri, infos))


def read_checksums(folder_uri: str, *, max_bytes: int | None = None) -> FolderChecksums | None:
    """Return the checksums of a folder; None if it has none.

    Args:
        folder_uri: The folder.
        max_bytes: Largest size of the file, if a stranger may have written it.

    Raises:
        StorageError: checksums.json is damaged or too large, or cannot be read.
    """
    uri = storage.join(folder_uri, CHECKSUMS_NAME)
    if max_bytes is not None:
        storage.check_size(uri, max_bytes)
    try:
        return FolderChecksums.from_text(storage.read_text(uri))
    except NotFoundError:
        return None
    except RecordError as err:
        raise StorageError(
            f"{uri} must list the checksums of its folder; {err}. Restore it from a backup."
        ) from err


def describe_change(uri: str, expected: FileChecksum) -> str:
    """Return how a stored file differs from what is expected, as a clause; "" if it does not."""
    info = storage.stat(uri)
    if info is None:
        return "it is missing"
    if info.size_bytes != expected.size_bytes:
        return f"it has {info.size_bytes} bytes instead of {expected.size_bytes}"
    if file_sha256(uri) != expected.sha256:
        return "its content was changed: its SHA-256 is another one"
    return ""


def file_sha256(uri: str) -> str:
    """Return the SHA-256 of a stored file."""
    with storage.as_local_file(uri) as path, path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(folder_uri: str, files: Iterable[FileChecksum]) -> None:
    record = FolderChecksums(files=tuple(sorted(files, key=lambda file: file.name)))
    storage.write_text(storage.join(folder_uri, CHECKSUMS_NAME), checked_text(record.to_json()))


def _list_parts(folder_uri: str, parts: Iterable[str]) -> list[FileChecksum]:
    infos: list[storage.ObjectInfo] = []
    for part in parts:
        uri = storage.join(folder_uri, part)
        if part.endswith("/"):
            infos += storage.list_objects(uri)
        elif (info := storage.stat(uri)) is not None:
            infos.append(info)
    return _checksums(folder_uri, infos)


def _checksums(folder_uri: str, infos: Iterable[storage.ObjectInfo]) -> list[FileChecksum]:
    def checksum(info: storage.ObjectInfo) -> FileChecksum:
        return FileChecksum(
            name=storage.relative_name(info.uri, folder_uri),
            size_bytes=info.size_bytes,
            sha256=file_sha256(info.uri),
        )

    with ThreadPoolExecutor(_NUM_READERS) as pool:
        return list(pool.map(checksum, infos))
