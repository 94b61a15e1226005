"""CRC32C of files whose listing has no checksum: each file is read once, then cached.

The cache is keyed by path and version. The version of a local file is its size and modification
time, that of an object on s3:// its ETag. Listings of gs:// include checksums, so nothing is read.
"""

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from repot import layout, storage
from repot.errors import NotFoundError, StorageError
from repot.planner.listing import FoundFile, PictureRoots
from repot.progress import ProgressCounter

_NUM_READERS = 16
# A file that changed just before it was read may change again within the resolution of its
# timestamp, so its checksum is not cached.
_SETTLED_NS = 2_000_000_000

# Version and checksum by path.
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
        The readable files in the same order, and error messages by path of unreadable files.
    """
    settled_before_ns = time.time_ns() - _SETTLED_NS
    cache_uri = f"{listings_uri}/{layout.content_id(roots.folders)}.json" if listings_uri else ""
    cache = _read_cache(cache_uri) if cache_uri else {}
    known = {file.uri: cache[file.path][1] for file in files if _is_cached(file, cache)}
    unread = [file for file in files if not file.crc32c and file.uri not in known]
    checksums, unreadable = _read_all(unread)
    known |= checksums
    checked = [
        file if file.crc32c else dataclasses.replace(file, crc32c=known[file.uri])
        for file in files
        if file.path not in unreadable
    ]
    if cache_uri and unread:
        _write_cache(cache_uri, [file for file in checked if file.uri in known], settled_before_ns)
    return checked, unreadable


def _is_cached(file: FoundFile, cache: _Cache) -> bool:
    return not file.crc32c and file.path in cache and cache[file.path][0] == file.version


def _read_cache(cache_uri: str) -> _Cache:
    try:
        entries = storage.read_json(cache_uri)
    except NotFoundError:
        return {}
    return {path: (version, crc32c) for path, (version, crc32c) in entries.items()}


def _write_cache(cache_uri: str, files: Sequence[FoundFile], settled_before_ns: int) -> None:
    settled = [
        file
        for file in files
        if not storage.is_local(file.uri) or _modified_ns(file) < settled_before_ns
    ]
    storage.write_json(cache_uri, {file.path: (file.version, file.crc32c) for file in settled})


def _modified_ns(file: FoundFile) -> int:
    """Return the modification time in a local file's version, `<size>-<mtime in ns>`."""
    return int(file.version.partition("-")[2])


def _read_all(files: Sequence[FoundFile]) -> tuple[dict[str, str], dict[str, str]]:
    """Return checksums by URI, and error messages by path of unreadable files."""
    checksums: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    if not files:
        return checksums, unreadable
    counter = ProgressCounter("read checksums", len(files), unit="files")
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        for file, (crc32c, error) in zip(files, readers.map(_read, files), strict=True):
            if error:
                unreadable[file.path] = error
            else:
                checksums[file.uri] = crc32c
            counter.add()
    return checksums, unreadable


def _read(file: FoundFile) -> tuple[str, str]:
    """Return a file's checksum and "", or "" and the error message if a local file is unreadable.

    An error of an object store is raised, because it does not concern one file only.
    """
    if not storage.is_local(file.uri):
        return storage.read_crc32c_hex(file.uri, version=file.version), ""
    try:
        return storage.read_crc32c_hex(file.uri), ""
    except StorageError as err:
        return "", str(err)
