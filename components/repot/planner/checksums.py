"""What identifies the content of each file: its CRC32C, or the ETag of an object that has none.

    a local file             it is read once, then cached
    an object on gs://       the listing has the CRC32C
    an object on s3://       the listing says whether the service has a CRC32C of the whole object.
                             Then one request without the content returns it, once, and it is cached
    without a CRC32C         the ETag, which the listing has: the builders read the object anyway,
                             pinned to it and to its size

The choice follows from the object alone, never from the cache: the same objects always give the
same dataset. An object that is stored again with another kind of checksum, or in parts of another
size, or encrypted with a key of its own, counts as another picture; copies of it are then found by
the last builder, which compares the pictures themselves, see `repot.shard_builder.complete`.

The cache holds a checksum and the state of the file that it was computed from, by the file's URI as
stored: two names that differ only in Unicode form are two files. The state of a local file is its
size, modification time, change time and inode. A program can set the modification time, as `cp -p`
and `rsync -t` do, but not the change time. The state of an object is its ETag, its size and when it
was written.

    <listings>/<id of the roots>.json            the cache of up to 65,536 files
    <listings>/<id of the roots>-<digits>.json   a part of the cache of more files, by the first
                                                 digits of a digest of the URI

One part is in memory at a time. A part is stored when it is done, and meanwhile once a minute, so a
plan that was interrupted does not start again.
"""

import contextlib
import itertools
import json
import logging
import os
import time
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from repot import layout, storage
from repot.errors import NotFoundError, StorageError
from repot.json_record import check_text, checked_text, has_checksum
from repot.planner.file_table import FileTable, FoundFile
from repot.planner.listing import PictureRoots
from repot.progress import ProgressCounter
from repot.work_list import etag_checksum

_log = logging.getLogger(__name__)

_NUM_READERS = 16
# A request for a checksum takes as long as a round trip, and hardly any computing.
_NUM_LOOKUPS = 64
_MAX_READ_AT_ONCE = 32
_FILES_PER_PART = 1 << 16
_NUM_DIGITS = 8
_SAVE_SECONDS = 60.0
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
    """A file's checksum and its state, if that did not change, or why it cannot be read."""

    crc32c: str = ""
    state: FileState | None = None
    error: str = ""


# State and checksum by URI, as they were stored: each entry is checked when it is used.
_Cache = dict[str, Any]


def add_checksums(
    files: FileTable, roots: PictureRoots, listings_uri: str | None
) -> dict[str, str]:
    """Fill in the checksums of files; return the error messages by URI of unreadable ones.

    Args:
        files: The listed files.
        roots: Where they were listed; each root has its own cache files.
        listings_uri: Folder of the cache files; None disables the cache.
    """
    listing_id = layout.listing_id("folders", roots.folders)
    cache_uri = f"{listings_uri}/{listing_id}" if listings_uri else ""
    unreadable: dict[str, str] = {}
    parts = _divide(files)
    num_unknown = sum(map(len, parts.values()))
    counter: ProgressCounter | None = None
    num_cached = 0
    for digits in sorted(parts):
        part = parts.pop(digits)
        cache = _read_cache(cache_uri, digits) if cache_uri else {}
        unread: dict[str, list[int]] = defaultdict(list)
        for number in part:
            uri = files.uri(number)
            entry = cache.get(uri)
            if entry and _is_current(entry, files.states[number]):
                files.set_checksum(number, entry[1])
            else:
                unread[uri].append(number)
        num_cached += len(part) - sum(map(len, unread.values()))
        if not unread:
            continue
        known = {uri: cache[uri] for uri in map(files.uri, part) if uri not in unread}
        del cache
        counter = counter or ProgressCounter("read checksums", num_unknown, unit="files")
        counter.add(num_cached)
        num_cached = 0
        part_uri = _part_uri(cache_uri, digits) if cache_uri else ""
        listed = [files[numbers[0]] for numbers in unread.values()]
        for uri, read in _read_all(listed, known, part_uri, counter):
            if read.error:
                unreadable[uri] = read.error
                continue
            for number in unread[uri]:
                files.set_checksum(number, read.crc32c)
    if counter:
        counter.add(num_cached)
    return unreadable


def _divide(files: FileTable) -> dict[str, "array[int]"]:
    """Return the files without a checksum, in parts that are small enough for memory.

    An object that has no CRC32C gets its ETag, and is in none.

    Returns:
        The numbers of the files of each part, by the digits of its file in the cache.
    """
    num_digits = 0
    while files.num_unknown > _FILES_PER_PART << (4 * num_digits) and num_digits < _NUM_DIGITS:
        num_digits += 1
    parts: dict[int, array[int]] = defaultdict(lambda: array("Q"))
    for number, uri in files.unknown_uris:
        if not files.has_crc32c[number] and not storage.is_local(uri):
            files.set_checksum(number, etag_checksum(files.version(number)))
        else:
            digest = zlib.crc32(uri.encode(errors="surrogateescape"))
            parts[digest >> 4 * (_NUM_DIGITS - num_digits)].append(number)
    return {f"{part:0{num_digits}x}" if num_digits else "": parts[part] for part in parts}


def _part_uri(cache_uri: str, digits: str) -> str:
    return f"{cache_uri}-{digits}.json" if digits else f"{cache_uri}.json"


def file_state(uri: str, version: str) -> FileState | None:
    """Return the current state of a file, in an object store that of `version`; None if gone."""
    if not storage.is_local(uri):
        return FileState(version, 0)
    try:
        status = os.stat(uri)  # noqa: PTH116 (a Path per file doubles the time of a replan)
    except OSError:
        return None
    info = storage.local_info(uri, status)
    return FileState(info.version + info.stamp, max(status.st_mtime_ns, status.st_ctime_ns))


def _read_cache(cache_uri: str, digits: str) -> _Cache:
    """Return a part of the cache, or the larger one that it was in before there were more files."""
    for num_digits in range(len(digits), -1, -1):
        try:
            return _read_part(_part_uri(cache_uri, digits[:num_digits]))
        except NotFoundError:
            continue
    return {}


def _read_part(part_uri: str) -> _Cache:
    """Return one file of the cache; empty if another version of repot wrote it.

    A damaged one, as after a loss of power, is replaced like a missing one.

    Raises:
        NotFoundError: It does not exist.
    """
    data = storage.read_bytes(part_uri)
    try:
        entries = json.loads(data)
        if isinstance(entries, dict) and has_checksum(entries):
            check_text(data.decode())
    except (ValueError, RecursionError):
        _log.warning("%s is damaged; all checksums are read again", part_uri)
        return {}
    return entries if isinstance(entries, dict) else {}


def _is_current(entry: Any, state: str) -> bool:
    """Return whether an entry of the cache is the checksum of a file in this state."""
    return type(entry) is list and len(entry) == 2 and entry[0] == state and type(entry[1]) is str


def _read_all(
    files: Sequence[FoundFile], known: _Cache, part_uri: str, counter: ProgressCounter
) -> Iterator[tuple[str, _Read]]:
    """Yield the URI and the checksum of each file, and keep a part of the cache up to date.

    Args:
        files: The files.
        known: The entries of the cache that are still right; new ones are added.
        part_uri: Where to store them; "" for nowhere.
        counter: Counts the files.
    """
    settled_before_ns = time.time_ns() - SETTLED_NS
    saved = time.monotonic()
    num_threads, at_once = _NUM_LOOKUPS, 1
    if storage.is_local(files[0].uri):
        num_threads = _NUM_READERS
        # Handing over each file alone takes longer than reading a small one.
        at_once = max(1, min(_MAX_READ_AT_ONCE, len(files) // (16 * num_threads)))
    groups = [files[start : start + at_once] for start in range(0, len(files), at_once)]
    readers = ThreadPoolExecutor(num_threads)
    try:
        reads = itertools.chain.from_iterable(readers.map(_read_group, groups))
        for file, read in zip(files, reads, strict=True):
            counter.add()
            if read.state and read.state.changed_ns < settled_before_ns:
                known[file.uri] = [read.state.text, read.crc32c]
            if part_uri and time.monotonic() - saved > _SAVE_SECONDS:
                storage.write_text(part_uri, checked_text({**known}, indent=None))
                saved = time.monotonic()
            yield file.uri, read
    except BaseException:
        # The next run continues from here. If the store has failed, this may fail as well.
        with contextlib.suppress(StorageError):
            if part_uri:
                storage.write_text(part_uri, checked_text({**known}, indent=None))
        raise
    finally:
        readers.shutdown(cancel_futures=True)
    if part_uri:
        storage.write_text(part_uri, checked_text({**known}, indent=None))


def _read_group(files: Sequence[FoundFile]) -> list[_Read]:
    return list(map(_read, files))


def _read(file: FoundFile) -> _Read:
    """Return a file's checksum, or the error message if a local file is unreadable.

    An error of an object store is raised, because it does not concern one file only.
    """
    if not storage.is_local(file.uri):
        # An object that changed since it was listed is an error.
        crc32c = storage.read_crc32c_hex(file.uri, version=file.version)
        return _Read(crc32c=crc32c, state=FileState(file.state, 0))
    try:
        crc32c = storage.read_crc32c_hex(file.uri)
    except StorageError as err:
        return _Read(error=str(err))
    # A file that changed since it was listed is not cached.
    state = file_state(file.uri, file.version)
    return _Read(crc32c=crc32c, state=state if state and state.text == file.state else None)
