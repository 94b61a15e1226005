"""The Google Cloud Storage client of this process, and how long it goes on trying."""

import json
import logging
import os
import threading
import time
from typing import Any

from repot.errors import StorageError
from repot.storage.gcs.errors import import_client, is_passing, silence
from repot.storage.uris import split_bucket

# How long a failing request is repeated: not long before the service has answered anything, since a wrong address or a
# closed network does not get better; later long enough for the service's own hiccups.
FIRST_DEADLINE_SECONDS = 15.0
FIRST_READ_SECONDS = 15.0
DEADLINE_SECONDS = 180.0
_CONNECT_SECONDS = 4.0
_READ_SECONDS = 60.0
_NUM_CONNECTIONS = 64

KEY_VARIABLE = "REPOT_GOOGLE_KEY"
"""Environment variable that the pipeline fills from an optional Secret."""

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"

_log = logging.getLogger(__name__)


class _Process:
    """What the threads of this process share; a forked child starts anew."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clients: dict[str, Any] = {}
        self.was_reached = False


_process = _Process()
os.register_at_fork(after_in_child=_process.__init__)  # type: ignore[misc]


def client() -> Any:
    """Return this process's google.cloud.storage.Client, made at the first call.

    STORAGE_EMULATOR_HOST names another endpoint, as in all of Google's libraries; it is used without credentials.
    """
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST", "")
    with _process.lock:
        if endpoint not in _process.clients:
            _process.clients[endpoint] = _new_client()
        return _process.clients[endpoint]


def blob_of(uri: str, *, version: str | None = None, chunk_bytes: int | None = None) -> Any:
    """Return the client's handle of an object; asks the service nothing.

    Args:
        uri: The object.
        version: The generation that requests are to be about; None for the live one.
        chunk_bytes: What one request of a resumable upload carries, a multiple of 256 KiB.

    Raises:
        UnicodeEncodeError: The name is not UTF-8, and so none that the service can keep.
    """
    bucket, name = split_bucket(uri)
    name.encode()
    generation = int(version) if version else None
    return client().bucket(bucket).blob(name, generation=generation, chunk_size=chunk_bytes)


def request_options() -> dict[str, Any]:
    """Return the `timeout` and `retry` for one request."""
    read_seconds = _READ_SECONDS if _process.was_reached else FIRST_READ_SECONDS
    return {"timeout": (_CONNECT_SECONDS, read_seconds), "retry": _retry()}


def _new_client() -> Any:
    import_client()
    from google.cloud import storage

    # It warns three times where there is no metadata server, which is to be expected outside Google's cloud.
    logging.getLogger("google.auth.compute_engine._metadata").setLevel(logging.ERROR)
    with silence():
        made = storage.Client(project=None, credentials=_key_of_the_pod())
    # Without it, no thread asks behind our back for the bucket (3.17: for traces, even when there are none); that takes
    # a right which is not needed otherwise.
    made._bucket_metadata_cache = None
    _prepare_session(made._http)
    return made


def _key_of_the_pod() -> Any:
    """Return the credentials of a service account's key in the environment, or None for the usual ones.

    Raises:
        StorageError: It is no such key.
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
            f"{KEY_VARIABLE} must hold a Google service account's key as JSON; it does not ({type(err).__name__}). "
            "Put the key file itself into the Secret, as key.json, or delete the Secret to use workload identity."
        ) from err


def _prepare_session(session: Any) -> None:
    """Keep a connection for every thread, where the default of ten warns; and look at each answer."""
    from requests.adapters import HTTPAdapter

    session.hooks["response"].append(_note_answer)
    if not session.is_mtls:
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=_NUM_CONNECTIONS))


def _note_answer(response: Any, **_options: Any) -> None:
    _process.was_reached = True
    if not response.ok:
        # The client never reads the answer to a download that it repeats, and that connection would stay open.
        _ = response.content


def _retry() -> Any:
    from google.api_core.retry import Retry

    started = time.monotonic()

    def should_retry(err: Exception) -> bool:
        seconds = time.monotonic() - started
        return is_passing(err) and (_process.was_reached or seconds < FIRST_DEADLINE_SECONDS)

    return Retry(
        predicate=should_retry,
        initial=0.5,
        maximum=20.0,
        multiplier=2.0,
        timeout=DEADLINE_SECONDS,
        on_error=lambda err: _log.warning(
            "The object store failed (%s); trying again.", type(err).__name__
        ),
    )
