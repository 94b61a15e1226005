"""CRC32C of files whose listing has no checksum: each file is read once, then cached.

The cache holds a checksum and the state of the file that it was computed from, by the file's URI as
stored: two names that differ only in Unicode form are two files. The state of a local file is its
size, modification time, change time and inode. A program can set the modification time, as `cp -p`
and `rsync -t` do, but not the change time. The state of an object on s3:// is its ETag. Listings of
gs:// include checksums, so nothing is read.
"""

import dataclasses
import json
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from repot import layout, storage
from repot.errors import NotFoundError, StorageError
from repot.planner.listing import FoundFile, PictureRoots
from repot.progress import ProgressCounter

_log = logging.getLogger(__name__)

_NUM_READERS = 16
# A file that changed just before it was read may change again within the resolution of its
# timestamps, so its checksum is not cached.
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class FileState:
    """What changes whenever a file does: `text` for the cache; and when it last changed."""

    text: str
    changed_ns: int


@dataclass(frozen=True, slots=True)
class _Read:
    """A file's checksum and its state before and after it was read, or why it cannot be read."""

    crc32c: str = ""
    state: FileState | None = None
    error: str = ""


# State and checksum by URI.
_Cache = dict[str, tuple[str, str]]


def add_checksums(
    files: Sequence[FoundFile], roots: PictureRoots, listings_uri: str | None
) -> tuple[list[FoundFile], dict[str, str]]:
    """Return the files with their checksums, and the files that cannot be read.

    Args:
        files: The listed files.
        roots: Where they were listed; each root has its own cache file.
        listings_uri: Folder of the cache files; None disables the cache.

    Returns:
        The readable files in the same order, and error messages by URI of unreadable files.
    """
    settled_before_ns = time.time_ns() - SETTLED_NS
    cache_uri = f"{listings_uri}/{layout.content_id(roots.folders)}.json" if listings_uri else ""
    cache = _read_cache(cache_uri) if cache_uri else {}
    without_checksum = [file for file in files if not file.crc32c]
    known = {file.uri: cache[file.uri] for file in without_checksum if _is_cached(file, cache)}
    unread = [file for file in without_checksum if file.uri not in known]
    checksums = {uri: crc32c for uri, (_, crc32c) in known.items()}
    unreadable = {}
    for file, read in zip(unread, _read_all(unread), strict=True):
        if read.error:
            unreadable[file.uri] = read.error
            continue
        checksums[file.uri] = read.crc32c
        if read.state and read.state.changed_ns < settled_before_ns:
            known[file.uri] = (read.state.text, read.crc32c)
    if cache_uri and unread:
        storage.write_json(cache_uri, known)
    checked = [
        file if file.crc32c else dataclasses.replace(file, crc32c=checksums[file.uri])
        for file in files
        if file.crc32c or file.uri in checksums
    ]
    return checked, unreadable


def _is_cached(file: FoundFile, cache: _Cache) -> bool:
    if file.uri not in cache:
        return False
    state = file_state(file.uri, file.version)
    return state is not None and cache[file.uri][0] == state.text


def file_state(uri: str, version: str) -> FileState | None:
    """Return the current state of a file, in an object store that of `version`; None if gone."""
    if not storage.is_local(uri):
        return FileState(version, 0)
    try:
        status = os.stat(uri)  # noqa: PTH116 (a Path per file doubles the time of a replan)
    except OSError:
        return None
    return FileState(
        f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}",
        max(status.st_mtime_ns, status.st_ctime_ns),
    )


def _read_cache(cache_uri: str) -> _Cache:
    """Return the cache; empty if it does not exist or was written by another version of repot.

    A damaged one, as after a loss of power, is replaced like a missing one.
    """
    try:
        entries = json.loads(storage.read_bytes(cache_uri))
    except NotFoundError:
        return {}
    except (ValueError, RecursionError):
        _log.warning("%s is damaged; all checksums are read again", cache_uri)
        return {}
    if not isinstance(entries, dict):
        return {}
    return {
        uri: (entry[0], entry[1])
        for uri, entry in entries.items()
        if isinstance(entry, list) and [type(part) for part in entry] == [str, str]
    }


def _read_all(files: Sequence[FoundFile]) -> list[_Read]:
    if not files:
        return []
    counter = ProgressCounter("read checksums", len(files), unit="files")
    reads = []
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        for read in readers.map(_read, files):
            reads.append(read)
            counter.add()
    return reads


def _read(file: FoundFile) -> _Read:
    """Return a file's checksum, or the error message if a local file is unreadable.

    An error of an object store is raised, because it does not concern one file only.
    """
    before = file_state(file.uri, file.version)
    if not storage.is_local(file.uri):
        crc32c = storage.read_crc32c_hex(file.uri, version=file.version)
    else:
        try:
            crc32c = storage.read_crc32c_hex(file.uri)
        except StorageError as err:
            return _Read(error=str(err))
    # A file that changed while it was read is not cached.
    return _Read(
        crc32c=crc32c, state=before if file_state(file.uri, file.version) == before else None
    )
