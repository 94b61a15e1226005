"""Fetch the original files of a checkpoint to the local disk, and compute their checksum.

`repot.checkpoint_files.files_sha256` defines the checksum.
"""

import hashlib
import http
import logging
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests
import urllib3

from repot import progress, storage
from repot.checkpoint_files import files_sha256, find_files, is_web
from repot.errors import CheckpointError, innermost_reason
from repot.masking import mask, redact_url, secret_parts
from repot.tls import CA_VARIABLES, describe_tls_error, find_ca_bundle

RETRY_PAUSES_SECONDS = (1.0, 2.0, 4.0)
"""Pause before each retry of a failed download."""

MAX_BYTES = 8 << 30
"""Largest file of a checkpoint; the known ones take less than 1 GiB."""
MAX_SECONDS = 3600.0
"""Longest time for a download from the web, with all attempts."""

_TIMEOUT_SECONDS = (10, 60)
_CHUNK_BYTES = 1 << 20
_REPORT_BYTES = 4 << 20
_BUSY_STATUSES = (
    http.HTTPStatus.REQUEST_TIMEOUT,
    http.HTTPStatus.TOO_EARLY,
    http.HTTPStatus.TOO_MANY_REQUESTS,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """A checkpoint as it was published.

    Attributes:
        paths: Its files, sorted by name; files that are local already stay in their folder.
        sha256: Their checksum, see the module's docstring.
    """

    paths: tuple[Path, ...]
    sha256: str


class _RetryableError(Exception):
    """The server or the network failed; another attempt may succeed."""


def fetch_original(uri: str, folder: Path, *, sha256: str = "") -> Original:
    """Fetch the files of a checkpoint to the local disk.

    Args:
        uri: http(s)://, gs:// or s3:// URI, or local path.
        folder: Local folder for files that are not local.
        sha256: Expected checksum; "" to skip the check.

    Raises:
        CheckpointError: The files cannot be fetched, or have another checksum.
    """
    original = read_original(find_files(uri).uris, folder)
    if sha256 and original.sha256 != sha256:
        raise CheckpointError(
            f"{redact_url(uri)} must have SHA-256 {sha256}; it has {original.sha256}. "
            "It is damaged or another file: fetch it again, or correct checkpoint_sha256."
        )
    return original


def read_original(uris: Sequence[str], folder: Path) -> Original:
    """Fetch files to the local disk, and compute their checksum.

    Raises:
        CheckpointError: A file cannot be downloaded from the web.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted((_fetch_file(uri, folder) for uri in uris), key=lambda path: path.name)
    return Original(paths=tuple(paths), sha256=_checksum(paths))


def download(url: str, folder: Path) -> Path:
    """Download a file from the web into a folder, under the last part of the URL's path.

    Server errors (5xx) and broken connections are retried after each of RETRY_PAUSES_SECONDS.

    Raises:
        CheckpointError: The server is unreachable, refuses, sends fewer bytes than it announced or
            more than MAX_BYTES, or takes longer than MAX_SECONDS.
    """
    deadline = time.monotonic() + MAX_SECONDS
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    path = folder / (name or "download")
    for pause in (*RETRY_PAUSES_SECONDS, None):
        try:
            _download_once(url, path, deadline=deadline)
        except _RetryableError as err:
            if pause is None:
                advice = "Check the address and the network, or give the path of a copy."
                raise _download_error(url, f"{err}. {advice}") from _cause(err, url)
            _log.warning("%s: %s; retrying in %.0f s", redact_url(url), err, pause)
            time.sleep(pause)
        else:
            break
    return path


def _fetch_file(uri: str, folder: Path) -> Path:
    if is_web(uri):
        return download(uri, folder)
    if storage.is_local(uri):
        return storage.local_path(uri)
    info = storage.stat(uri)
    if info is not None:
        _check_size(uri, info.size_bytes)
    path = folder / PurePosixPath(uri).name
    storage.download(uri, path)
    return path


def _checksum(paths: Sequence[Path]) -> str:
    digests = {}
    for path in paths:
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return files_sha256(digests)


def _download_once(url: str, path: Path, *, deadline: float) -> None:
    # Without compression in transit, the number of bytes is the announced Content-Length.
    headers = {"Accept-Encoding": "identity"}
    try:
        with requests.get(
            url,
            stream=True,
            timeout=_TIMEOUT_SECONDS,
            headers=headers,
            verify=find_ca_bundle(*CA_VARIABLES) or True,
        ) as reply:
            _check_status(url, reply.status_code)
            total = int(reply.headers.get("Content-Length", 0))
            _check_size(url, total)
            with path.open("wb") as file:
                for chunk in _report_progress(_read_chunks(url, reply, deadline), total):
                    file.write(chunk)
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        urllib3.exceptions.HTTPError,
    ) as err:
        server = "/".join(redact_url(url).split("/", 3)[:3])
        if tls_reason := describe_tls_error(err, server, CA_VARIABLES[-1]):
            raise _download_error(url, f"{tls_reason}.") from err
        reason = mask(innermost_reason(err), secret_parts(url))
        raise _RetryableError(f"the request failed ({reason})") from _cause(err, url)
    except requests.RequestException as err:
        reason = f"the request failed ({innermost_reason(err)}). Check the address."
        raise _download_error(url, reason) from _cause(err, url)
    size = path.stat().st_size
    if total and size != total:
        raise _RetryableError(f"the server sent {size} of {total} bytes")


def _read_chunks(url: str, reply: requests.Response, deadline: float) -> Iterator[bytes]:
    """Yield the content as it arrives: a slow server must not keep a read waiting for a chunk."""
    size_bytes = 0
    while chunk := reply.raw.read1(_CHUNK_BYTES):
        size_bytes += len(chunk)
        _check_size(url, size_bytes)
        if time.monotonic() > deadline:
            reason = f"it took longer than {MAX_SECONDS:.0f} s"
            raise _download_error(url, f"{reason}. Download it, and give the path of the file.")
        yield chunk


def _check_size(uri: str, size_bytes: int) -> None:
    if size_bytes > MAX_BYTES:
        raise CheckpointError(
            f"{redact_url(uri)} must have at most {MAX_BYTES} bytes; it has more. "
            "Give the file that holds the weights."
        )


def _check_status(url: str, status: int) -> None:
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR or status in _BUSY_STATUSES:
        raise _RetryableError(f"the server answered {status}")
    if status != http.HTTPStatus.OK:
        raise _download_error(url, f"the server answered {status}. Check the address.")


def _report_progress(chunks: Iterator[bytes], total: int) -> Iterator[bytes]:
    done = reported = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if done - reported >= _REPORT_BYTES or done == total:
            progress.report("fetch checkpoint", done, total, unit="bytes")
            reported = done


def _download_error(url: str, reason: str) -> CheckpointError:
    safe_reason = mask(reason, secret_parts(url))
    return CheckpointError(f"{redact_url(url)} must be downloaded; {safe_reason}")


def _cause(err: Exception, url: str) -> Exception | None:
    """Return the error, but None if its message, which a traceback shows, can have secrets."""
    return None if secret_parts(url) else err
