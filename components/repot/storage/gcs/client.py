"""The Google Cloud Storage client of this process and its credentials."""

import functools
import json
import logging
import os
from collections.abc import Callable
from typing import Any

from repot.errors import StorageError
from repot.storage.gcs.errors import (
    client_errors,
    http_status,
    ignore_warnings,
    import_google_storage,
    is_transient,
)
from repot.storage.retries import (
    CONNECT_SECONDS,
    ServiceState,
    call_with_retries,
    use_own_generator,
)
from repot.storage.uris import split_bucket

_NUM_CONNECTIONS = 64

KEY_VARIABLE = "REPOT_GOOGLE_KEY"
"""Environment variable that the pipeline sets from an optional Secret."""

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"

_state = ServiceState()


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
    return {"timeout": (CONNECT_SECONDS, _state.read_seconds), "retry": _with_retries}


def _new_client() -> Any:
    import_google_storage()
    from google.auth import _exponential_backoff
    from google.cloud import storage
    from google.cloud.storage._media import _upload

    # The boundary of each upload, and the pauses before a repeated request for a token.
    use_own_generator(_upload, _exponential_backoff)
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
    if not response.ok:
        # The client does not read the response of a download that it retries, which would keep the
        # connection open.
        _ = response.content


def _with_retries(call: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that makes a request with retries.

    It stands for the client's own class Retry, whose pauses come from Python's global random state.
    """
    return functools.partial(
        call_with_retries,
        call,
        _state,
        errors=client_errors(),
        is_transient=is_transient,
        is_response=lambda err: http_status(err) is not None,
    )
