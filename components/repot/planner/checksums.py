"""CRC32C of files whose listing tells none: each is read once, and remembered by its path and version.

A local file's version is its size and modification time, that of an object on s3:// its ETag. gs:// lists checksums;
nothing is read there.
"""

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from repot import layout, storage
from repot.errors import NotFoundError, StorageError
from repot.planner.listing import FoundFile, PictureRoots
from repot.progress import Meter

_NUM_READERS = 16
# A file that changed just before it was read may change again within its time stamp's tick: it is not remembered.
_SETTLED_NS = 2_000_000_000

# Version and checksum of files by path.
Remembered = dict[str, tuple[str, str]]


def add_checksums(
    files: Sequence[FoundFile], roots: PictureRoots, listings_uri: str | None
) -> tuple[list[FoundFile], dict[str, str]]:
    """Return the files with their checksums, and those that cannot be read.

    Args:
        files: The files as listed.
        roots: Where they were listed; it names the file that remembers checksums.
        listings_uri: Folder of what is remembered; None remembers nothing.

    Returns:
        The readable files in their order, and the reason by the path of each unreadable one.
    """
    settled_before_ns = time.time_ns() - _SETTLED_NS
    memory_uri = f"{listings_uri}/{layout.content_id(roots.folders)}.json" if listings_uri else ""
    remembered = _recall(memory_uri) if memory_uri else {}
    known = {file.uri: remembered[file.path][1] for file in files if _is_known(file, remembered)}
    unread = [file for file in files if not file.crc32c and file.uri not in known]
    checksums, unreadable = _read_all(unread)
    known |= checksums
    checked = [
        file if file.crc32c else dataclasses.replace(file, crc32c=known[file.uri])
        for file in files
        if file.path not in unreadable
    ]
    if memory_uri and unread:
        _remember(memory_uri, [file for file in checked if file.uri in known], settled_before_ns)
    return checked, unreadable


def _is_known(file: FoundFile, remembered: Remembered) -> bool:
    return not file.crc32c and file.path in remembered and remembered[file.path][0] == file.version


def _recall(memory_uri: str) -> Remembered:
    try:
        facts = storage.read_json(memory_uri)
    except NotFoundError:
        return {}
    return {path: (version, crc32c) for path, (version, crc32c) in facts.items()}


def _remember(memory_uri: str, files: Sequence[FoundFile], settled_before_ns: int) -> None:
    settled = [
        file
        for file in files
        if not storage.is_local(file.uri) or _modified_ns(file) < settled_before_ns
    ]
    storage.write_json(memory_uri, {file.path: (file.version, file.crc32c) for file in settled})


def _modified_ns(file: FoundFile) -> int:
    """Return the modification time in a local file's version, `<size>-<mtime in ns>`."""
    return int(file.version.partition("-")[2])


def _read_all(files: Sequence[FoundFile]) -> tuple[dict[str, str], dict[str, str]]:
    """Return checksums by URI, and for what cannot be read the reason by path."""
    checksums: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    if not files:
        return checksums, unreadable
    meter = Meter("read checksums", len(files), unit="files")
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        for file, (crc32c, words) in zip(files, readers.map(_read, files), strict=True):
            if words:
                unreadable[file.path] = words
            else:
                checksums[file.uri] = crc32c
            meter.add()
    return checksums, unreadable


def _read(file: FoundFile) -> tuple[str, str]:
    """Return the checksum of a file, or why it cannot be read; an object store that fails is no matter of one file."""
    if not storage.is_local(file.uri):
        return storage.read_crc32c_hex(file.uri, version=file.version), ""
    try:
        return storage.read_crc32c_hex(file.uri), ""
    except StorageError as err:
        return "", str(err)
