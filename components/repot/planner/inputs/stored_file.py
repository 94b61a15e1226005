"""A stored file as a seekable stream, and an index of what it contains, computed once per version.

Archives and shards in an object store are read in large ranges, so neither memory nor disk needs
room for them.
"""

import io
import json
import logging
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from repot import layout, storage
from repot.errors import NotFoundError
from repot.json_record import check_text, checked_text, has_checksum
from repot.planner.checksums import SETTLED_NS, file_state

_BLOCK_BYTES = 8 << 20

_log = logging.getLogger(__name__)


def open_stored(info: storage.ObjectInfo) -> BinaryIO:
    """Return a seekable stream of a file's stored bytes, of the listed version."""
    if storage.is_local(info.uri):
        return storage.local_path(info.uri).open("rb")
    return io.BufferedReader(_StoredFile(info), _BLOCK_BYTES)


def read_head(info: storage.ObjectInfo, num_bytes: int) -> bytes:
    """Return the first stored bytes of a file."""
    if info.size_bytes == 0:
        return b""
    wanted = min(num_bytes, info.size_bytes)
    return storage.read_range(info.uri, offset=0, num_bytes=wanted, version=info.version)


def cached_index(
    info: storage.ObjectInfo,
    kind: str,
    listings_uri: str | None,
    compute: Callable[[], list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """Return the index of a file, from the cache if the file has not changed since.

    Args:
        info: The file.
        kind: What is indexed, part of the name of the cache file.
        listings_uri: Folder of cache files; None disables the cache.
        compute: Reads the file and returns its entries, JSON-able.
    """
    state = file_state(info.uri, info.version)
    cache_uri = f"{listings_uri}/{layout.listing_id(kind, info.uri)}.json" if listings_uri else ""
    if cache_uri and state:
        try:
            text = storage.read_bytes(cache_uri).decode()
            cached = json.loads(text)
            if has_checksum(cached):
                check_text(text)
            if cached["state"] == state.text and isinstance(cached["entries"], list):
                return list(cached["entries"])
        except NotFoundError:
            pass
        except (ValueError, KeyError, TypeError, RecursionError):
            _log.warning("%s is damaged; %s is read again", cache_uri, info.uri)
    settled_before_ns = time.time_ns() - SETTLED_NS
    entries = compute()
    if cache_uri and state and state.changed_ns < settled_before_ns:
        content = {"state": state.text, "entries": entries}
        storage.write_text(cache_uri, checked_text(content, indent=None))
    return entries


class _StoredFile(io.RawIOBase):
    """The stored bytes of an object, one ranged request per read."""

    def __init__(self, info: storage.ObjectInfo) -> None:
        self._info = info
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._info.size_bytes}
        self._position = max(0, base[whence] + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        num_bytes = min(len(buffer), self._info.size_bytes - self._position)
        if num_bytes <= 0:
            return 0
        data = storage.read_range(
            self._info.uri,
            offset=self._position,
            num_bytes=num_bytes,
            version=self._info.version,
        )
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
