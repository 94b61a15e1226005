"""The Google Cloud Storage client of this process, its time limits and retries."""

import json
import logging
import os
import threading
import time
from typing import Any

from repot.errors import StorageError
from repot.storage.gcs.errors import ignore_warnings, import_google_storage, is_transient
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

KEY_VARIABLE = "REPOT_GOOGLE_KEY"
"""Environment variable that the pipeline sets from an optional Secret."""

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"

_log = logging.getLogger(__name__)


class _ProcessState:
    """The state that the threads of one process share; a forked child starts with a new one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clients: dict[str, Any] = {}
        self.has_responded = False


_state = _ProcessState()
os.register_at_fork(after_in_child=_state.__init__)  # type: ignore[misc]


def client() -> Any:
    """Return this process's google.cloud.storage.Client, created on first use.

    As in all of Google's libraries, STORAGE_EMULATOR_HOST selects another endpoint, which is used
    without credentials.
    """
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST", "")
    with _state.lock:
        if endpoint not in _state.clients:
            _state.clients[endpoint] = _new_client()
        return _state.clients[endpoint]


def blob_handle(uri: str, *, version: str | None = None, chunk_bytes: int | None = None) -> Any:
    """Return the client's handle of an object, without a request to the service.

    Args:
        uri: The object.
        version: The generation that requests refer to; None for the live one.
        chunk_bytes: Size of each request of a resumable upload, a multiple of 256 KiB.

    Raises:
        UnicodeEncodeError: The name is not UTF-8; the service cannot store it.
    """
    bucket, name = split_bucket(uri)
    name.encode()
    generation = int(version) if version else None
    return client().bucket(bucket).blob(name, generation=generation, chunk_size=chunk_bytes)


def request_options() -> dict[str, Any]:
    """Return the `timeout` and `retry` arguments for one request."""
    read_seconds = _READ_SECONDS if _state.has_responded else FIRST_READ_SECONDS
    return {"timeout": (_CONNECT_SECONDS, read_seconds), "retry": _new_retry()}


def _new_client() -> Any:
    import_google_storage()
    from google.cloud import storage

    # Outside Google's cloud there is no metadata server; the library warns about that three times.
    logging.getLogger("google.auth.compute_engine._metadata").setLevel(logging.ERROR)
    with ignore_warnings():
        new_client = storage.Client(project=None, credentials=_key_credentials())
    # The client (3.17) queries the bucket in a background thread for traces, even if tracing is
    # off; that takes a permission that is not needed otherwise. Without this cache it does not.
    new_client._bucket_metadata_cache = None
    _prepare_session(new_client._http)
    return new_client


def _key_credentials() -> Any:
    """Return the credentials of the service account key in KEY_VARIABLE; None for the default ones.

    Raises:
        StorageError: The variable holds no such key.
    """
    key = os.environ.get(KEY_VARIABLE)
    if not key or os.environ.get("STORAGE_EMULATOR_HOST"):
        return None
    from google.oauth2 import service_account

    try:
        return service_account.Credentials.from_service_account_info(
            json.loads(key), scopes=[_SCOPE]
        )
    except ValueError as err:
        raise StorageError(
            f"{KEY_VARIABLE} must hold a Google service account's key as JSON; it does not "
            f"({type(err).__name__}). Put the key file itself into the Secret, as key.json, or "
            "delete the Secret to use workload identity."
        ) from err


def _prepare_session(session: Any) -> None:
    """Register the response hook, and allow one connection per thread (the default is ten)."""
    from requests.adapters import HTTPAdapter

    session.hooks["response"].append(_on_response)
    if not session.is_mtls:
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=_NUM_CONNECTIONS))


def _on_response(response: Any, **_options: Any) -> None:
    _state.has_responded = True
    if not response.ok:
        # The client does not read the response of a download that it retries, which would keep the
        # connection open.
        _ = response.content


def _new_retry() -> Any:
    from google.api_core.retry import Retry

    started = time.monotonic()

    def should_retry(err: Exception) -> bool:
        seconds = time.monotonic() - started
        return is_transient(err) and (_state.has_responded or seconds < FIRST_DEADLINE_SECONDS)

    return Retry(
        predicate=should_retry,
        initial=_FIRST_PAUSE_SECONDS,
        maximum=_MAX_PAUSE_SECONDS,
        multiplier=2.0,
        timeout=DEADLINE_SECONDS,
        on_error=lambda err: _log.warning(
            "The object store failed (%s); trying again.", type(err).__name__
        ),
    )
