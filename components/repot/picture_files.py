"""Read picture files ahead of their use: from disks, object storage and the web, in order.

Reading a file from another machine takes up to a second, most of it waiting. Therefore, several
files are read at the same time, as long as those that wait for their use fit into a limited amount
of memory.
"""

import http
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import requests
import urllib3

from repot import storage
from repot.checkpoint_files import is_web
from repot.errors import NotFoundError, RepotError, StorageError, UsageError, innermost_reason
from repot.masking import mask, redact_url, secret_parts
from repot.picture_result import MAX_FILE_BYTES
from repot.tls import CA_VARIABLES, describe_tls_error, find_ca_bundle

NUM_READERS = 16
"""Files that are read at the same time."""
MAX_AHEAD_BYTES = 64 << 20
"""No further file is read while those that wait have this many bytes."""

RETRY_PAUSES_SECONDS = (0.5, 2.0)
"""Pause before each retry of a failed request to a web server."""

_MAX_AHEAD = 8 * NUM_READERS
_TIMEOUT_SECONDS = (10, 60)
_MAX_SECONDS = 600.0
_CHUNK_BYTES = 1 << 20
_BUSY_STATUSES = (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFile:
    """A file that was read, or why it cannot be.

    Attributes:
        name: Path, URI or URL as the user wrote it.
        data: Its content; empty if there is a problem.
        problem: Why it cannot be read, or "".
    """

    name: str
    data: bytes = b""
    problem: str = ""


class _BusyError(Exception):
    """The server or the network failed; another attempt may succeed."""


def read_ahead(names: Iterable[str]) -> Iterator[PictureFile]:
    """Yield each file, in order; later ones are read in the meantime.

    Args:
        names: Local paths, gs:// and s3:// URIs, and http(s) URLs.
    """
    reader = _Reader()
    waiting: deque[Future[PictureFile]] = deque()
    with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="read-pictures") as pool:

        def next_file() -> PictureFile:
            file = waiting.popleft().result()
            reader.release(file)
            return file

        try:
            for name in names:
                waiting.append(pool.submit(reader.read, name))
                while waiting and (
                    len(waiting) >= _MAX_AHEAD
                    or reader.expected_bytes(len(waiting)) >= MAX_AHEAD_BYTES
                ):
                    yield next_file()
            while waiting:
                yield next_file()
        finally:
            for future in waiting:
                future.cancel()


class _Reader:
    """Reads files in several threads, and knows how much of them is in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_read = self._num_bytes = 0
        self._num_held = self._num_held_bytes = 0

    def read(self, name: str) -> PictureFile:
        try:
            data = _download(name) if is_web(name) else _read_stored(name)
        except RepotError as err:
            file = PictureFile(name=name, problem=str(err))
        else:
            file = PictureFile(name=name, data=data)
        with self._lock:
            self._num_read += 1
            self._num_bytes += len(file.data)
            self._num_held += 1
            self._num_held_bytes += len(file.data)
        return file

    def release(self, file: PictureFile) -> None:
        """Forget a file that its user took."""
        with self._lock:
            self._num_held -= 1
            self._num_held_bytes -= len(file.data)

    def expected_bytes(self, num_waiting: int) -> float:
        """Return the size of the files that wait, as if those not read yet were of usual size."""
        with self._lock:
            mean = self._num_bytes / max(self._num_read, 1)
            return self._num_held_bytes + (num_waiting - self._num_held) * mean


def _read_stored(name: str) -> bytes:
    """Return the content of a local file or of an object.

    Raises:
        RepotError: It cannot be read, or is larger than any accepted picture.
    """
    uri = storage.normalise(name)
    info = storage.stat(uri)
    if info is None:
        if storage.is_local(uri) and storage.local_path(uri).is_dir():
            raise UsageError(f"{name} is a folder. Name it as an argument, not in a list.")
        raise NotFoundError(
            f"{name} must be a picture file; there is no such file. Check the name."
        )
    if info.size_bytes > MAX_FILE_BYTES:
        raise _too_large(name)
    return storage.read_bytes(uri)


def _download(url: str) -> bytes:
    """Return a file from the web.

    Server errors (5xx) and broken connections are retried after each of RETRY_PAUSES_SECONDS.

    Raises:
        StorageError: The server is unreachable, refuses, sends fewer bytes than it announced or
            more than MAX_FILE_BYTES, or takes too long.
    """
    for pause in RETRY_PAUSES_SECONDS:
        try:
            return _download_once(url)
        except _BusyError:
            time.sleep(pause)
    try:
        return _download_once(url)
    except _BusyError as err:
        raise _web_error(url, f"{err}. Check the address and the network.") from None


def _download_once(url: str) -> bytes:
    deadline = time.monotonic() + _MAX_SECONDS
    try:
        with requests.get(
            url,
            stream=True,
            timeout=_TIMEOUT_SECONDS,
            # Without compression in transit, the number of bytes is the announced Content-Length.
            headers={"Accept-Encoding": "identity"},
            verify=find_ca_bundle(*CA_VARIABLES) or True,
        ) as reply:
            answer = f"the server answered {reply.status_code}"
            if reply.status_code >= http.HTTPStatus.INTERNAL_SERVER_ERROR or (
                reply.status_code in _BUSY_STATUSES
            ):
                raise _BusyError(answer)
            if reply.status_code != http.HTTPStatus.OK:
                raise _web_error(url, f"{answer}. Check the address.")
            data = bytearray()
            while chunk := reply.raw.read1(_CHUNK_BYTES):
                data += chunk
                if len(data) > MAX_FILE_BYTES:
                    raise _too_large(redact_url(url))
                if time.monotonic() > deadline:
                    raise _web_error(url, f"it took longer than {_MAX_SECONDS:.0f} s.")
            announced = int(reply.headers.get("Content-Length", len(data)))
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as err:
        server = "/".join(redact_url(url).split("/", 3)[:3])
        if reason := describe_tls_error(err, server, CA_VARIABLES[-1]):
            raise _web_error(url, f"{reason}.") from None
        raise _BusyError(f"the request failed ({innermost_reason(err)})") from None
    except requests.RequestException as err:
        reason = f"the request failed ({innermost_reason(err)}). Check the address."
        raise _web_error(url, reason) from None
    if len(data) != announced:
        raise _BusyError(f"the server sent {len(data)} of {announced} bytes")
    return bytes(data)


def _web_error(url: str, reason: str) -> StorageError:
    safe_reason = mask(reason, secret_parts(url))
    return StorageError(f"{redact_url(url)} must be downloaded; {safe_reason}")


def _too_large(name: str) -> StorageError:
    return StorageError(
        f"{name} must have at most {MAX_FILE_BYTES:,} bytes; it has more. Make the picture smaller."
    )
