"""The S3 client of this process, and how long it goes on trying.

Everything comes from where all of Amazon's tools look for it: the credentials from the environment, a file or the pod's
service account; AWS_ENDPOINT_URL_S3 (or AWS_ENDPOINT_URL) names a service other than Amazon's, such as MinIO or
SeaweedFS; AWS_DEFAULT_REGION (or AWS_REGION) its region, us-east-1 if none is set.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from repot.storage.s3.errors import failures, import_library, is_of_service, is_passing, no_address
from repot.storage.uris import split_bucket

# How long a failing request is repeated: not long before the service has answered anything, since a wrong address or a
# closed network does not get better; later long enough for the service's own hiccups.
FIRST_DEADLINE_SECONDS = 15.0
FIRST_READ_SECONDS = 15.0
DEADLINE_SECONDS = 180.0
_CONNECT_SECONDS = 4.0
_READ_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 20.0
_NUM_CONNECTIONS = 64
_DEFAULT_REGION = "us-east-1"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Process:
    """What the threads of this process share; a forked child starts anew."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clients: dict[tuple[str, float], Any] = {}
        self.was_reached = False


_process = _Process()
os.register_at_fork(after_in_child=_process.__init__)  # type: ignore[misc]


def client() -> Any:
    """Return this process's boto3 client, made at the first call.

    Raises:
        StorageError: boto3 is not installed, or the endpoint is no address.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    read_seconds = _READ_SECONDS if _process.was_reached else FIRST_READ_SECONDS
    with _process.lock:
        if (endpoint, read_seconds) not in _process.clients:
            _process.clients[endpoint, read_seconds] = _new_client(read_seconds)
        return _process.clients[endpoint, read_seconds]


def is_amazon() -> bool:
    """Return whether the service is Amazon's own, whose conditional writes can be relied on."""
    return _is_amazon(client())


def place(uri: str) -> dict[str, str]:
    """Return the arguments of a request that name an object.

    Raises:
        UnicodeEncodeError: The name is not UTF-8, and so none that the service can keep.
    """
    bucket, name = split_bucket(uri)
    name.encode()
    return {"Bucket": bucket, "Key": name}


def ask(request: Callable[[Any], _T]) -> _T:
    """Return what `request` returns for the client; it is repeated while it fails for a reason that may pass."""
    started, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
    while True:
        try:
            answer = request(client())
        except failures() as err:
            _process.was_reached = _process.was_reached or is_of_service(err)
            deadline = DEADLINE_SECONDS if _process.was_reached else FIRST_DEADLINE_SECONDS
            if not is_passing(err) or time.monotonic() - started + pause > deadline:
                raise
            _log.warning("The object store failed (%s); trying again.", type(err).__name__)
        else:
            _process.was_reached = True
            return answer
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (it only spreads the repeats of many pods)
        pause = min(2.0 * pause, _LONGEST_PAUSE_SECONDS)


def _new_client(read_seconds: float) -> Any:
    """Return a client; other services than Amazon's get the bucket in the path, as few have a name for each bucket."""
    made = _client_with(read_seconds, "auto")
    return made if _is_amazon(made) else _client_with(read_seconds, "path")


def _client_with(read_seconds: float, addressing: str) -> Any:
    session = import_library().session.Session()
    from botocore.config import Config

    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=read_seconds,
        max_pool_connections=_NUM_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 1},
        s3={"addressing_style": addressing},
        # Older services of other makers store the frames of a checksum that follows the data as data.
        request_checksum_calculation="when_required",
    )
    region = session.region_name or os.environ.get("AWS_REGION") or _DEFAULT_REGION
    try:
        return session.client("s3", region_name=region, config=config)
    except ValueError as err:
        raise no_address(err) from err


def _is_amazon(made: Any) -> bool:
    host = urlsplit(made.meta.endpoint_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
