"""Download one file from the web: in pieces, with retries, and with the size that the server promised."""

import logging
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import requests

from repot import progress
from repot.checkpoint_files import without_secrets
from repot.errors import CheckpointError, innermost_reason

_TIMEOUT_SECONDS = (10, 60)
_PIECE_BYTES = 1 << 20
_REPORT_BYTES = 4 << 20
_BUSY_STATUSES = (408, 425, 429)
# Seconds before each further attempt.
PAUSES = (1.0, 2.0, 4.0)

_log = logging.getLogger(__name__)


class _TryAgainError(Exception):
    """The server or the way to it failed; another attempt may succeed."""


def download(url: str, folder: Path) -> Path:
    """Download a file into a folder under the name that its URL ends with.

    Server errors (5xx) and broken connections are tried again after each of PAUSES.

    Raises:
        CheckpointError: The server cannot be reached, refuses, or sends less than it promised.
    """
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    path = folder / (name or "download")
    for pause in (*PAUSES, None):
        try:
            _download_once(url, path)
        except _TryAgainError as err:
            if pause is None:
                raise _refusal(
                    url, f"{err}. Check the address and the network, or give the path of a copy."
                ) from err
            _log.warning("%s: %s; trying again in %.0f s", without_secrets(url), err, pause)
            time.sleep(pause)
        else:
            break
    return path


def _download_once(url: str, path: Path) -> None:
    try:
        # identity: the bytes as they are stored, so that their number can be compared.
        with requests.get(
            url, stream=True, timeout=_TIMEOUT_SECONDS, headers={"Accept-Encoding": "identity"}
        ) as reply:
            _check_status(url, reply.status_code)
            total = int(reply.headers.get("Content-Length", 0))
            with path.open("wb") as file:
                for piece in _reported(reply.iter_content(_PIECE_BYTES), total):
                    file.write(piece)
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    ) as err:
        raise _TryAgainError(_request_failed(err)) from err
    except requests.RequestException as err:
        raise _refusal(url, f"{_request_failed(err)}. Check the address.") from err
    if total and path.stat().st_size != total:
        raise _TryAgainError(f"{path.stat().st_size} of {total} bytes came")


def _check_status(url: str, status: int) -> None:
    if status >= 500 or status in _BUSY_STATUSES:
        raise _TryAgainError(f"the server answers {status}")
    if status != 200:
        raise _refusal(url, f"the server answers {status}. Check the address.")


def _reported(pieces: Iterator[bytes], total: int) -> Iterator[bytes]:
    done = reported = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        if done - reported >= _REPORT_BYTES or done == total:
            progress.report("fetch checkpoint", done, total, unit="bytes")
            reported = done


def _refusal(url: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{without_secrets(url)} must be downloaded; {reason}")


def _request_failed(err: Exception) -> str:
    return f"the request failed ({innermost_reason(err)})"
