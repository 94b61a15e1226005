"""The S3 client of this process, its time limits and retries.

The configuration is that of all of Amazon's tools: credentials come from the environment, a file,
or the pod's service account. AWS_ENDPOINT_URL_S3 (or AWS_ENDPOINT_URL) selects another service
than Amazon's, such as MinIO or SeaweedFS. AWS_DEFAULT_REGION (or AWS_REGION) is its region, by
default us-east-1.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from repot.storage.s3.errors import (
    client_errors,
    endpoint_url,
    import_boto3,
    invalid_endpoint_error,
    is_s3_response,
    is_transient,
)
from repot.storage.uris import split_bucket

# How long a failing request is retried. Before the first response of the service the limit is
# short, because a wrong address or a blocked network does not recover; after that it is long
# enough for a temporary failure of the service.
FIRST_DEADLINE_SECONDS = 15.0
FIRST_READ_SECONDS = 15.0
DEADLINE_SECONDS = 180.0
_CONNECT_SECONDS = 4.0
_READ_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 20.0
_NUM_CONNECTIONS = 64
_DEFAULT_REGION = "us-east-1"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _ProcessState:
    """The state that the threads of one process share; a forked child starts with a new one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clients: dict[tuple[str, float], Any] = {}
        self.has_responded = False


_state = _ProcessState()
os.register_at_fork(after_in_child=_state.__init__)  # type: ignore[misc]


def client() -> Any:
    """Return this process's boto3 client, created on first use.

    Raises:
        StorageError: boto3 is not installed, or the endpoint is not a valid address.
    """
    key = (endpoint_url(), _READ_SECONDS if _state.has_responded else FIRST_READ_SECONDS)
    with _state.lock:
        if key not in _state.clients:
            _state.clients[key] = _new_client(read_seconds=key[1])
        return _state.clients[key]


def is_amazon() -> bool:
    """Return whether the service is Amazon's own, which supports conditional writes reliably."""
    return _is_amazon(client())


def bucket_and_key(uri: str) -> dict[str, str]:
    """Return the arguments of a request that identify an object.

    Raises:
        UnicodeEncodeError: The name is not UTF-8; the service cannot store it.
    """
    bucket, name = split_bucket(uri)
    name.encode()
    return {"Bucket": bucket, "Key": name}


def call_with_retries(call: Callable[[Any], _T]) -> _T:
    """Return the result of `call(client)`; transient errors are retried after growing pauses."""
    started, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
    while True:
        try:
            result = call(client())
        except client_errors() as err:
            _state.has_responded = _state.has_responded or is_s3_response(err)
            deadline = DEADLINE_SECONDS if _state.has_responded else FIRST_DEADLINE_SECONDS
            if not is_transient(err) or time.monotonic() - started + pause > deadline:
                raise
            _log.warning("The object store failed (%s); trying again.", type(err).__name__)
        else:
            _state.has_responded = True
            return result
        # Jitter: many pods may fail at the same moment.
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (not for security)
        pause = min(2.0 * pause, _MAX_PAUSE_SECONDS)


def _new_client(*, read_seconds: float) -> Any:
    """Return a client with virtual-host addresses for Amazon's service, else with path addresses.

    Few other services have a DNS name for each bucket.
    """
    new_client = _client_with_addressing("auto", read_seconds)
    return new_client if _is_amazon(new_client) else _client_with_addressing("path", read_seconds)


def _client_with_addressing(style: str, read_seconds: float) -> Any:
    session = import_boto3().session.Session()
    from botocore.config import Config

    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=read_seconds,
        max_pool_connections=_NUM_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 1},
        s3={"addressing_style": style},
        # Older releases of other services store the framing of a trailing checksum as data.
        request_checksum_calculation="when_required",
    )
    region = session.region_name or os.environ.get("AWS_REGION") or _DEFAULT_REGION
    try:
        return session.client("s3", region_name=region, config=config)
    except ValueError as err:
        raise invalid_endpoint_error(err) from err


def _is_amazon(boto_client: Any) -> bool:
    host = urlsplit(boto_client.meta.endpoint_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
