"""The Google Cloud Storage client of this process and its credentials."""

import functools
import http.client
import json
import logging
import os
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repot.cluster_names import GOOGLE_KEY_VARIABLE, name_sources
from repot.errors import StorageError
from repot.storage.gcs.errors import (
    USER_PROJECT_VARIABLE,
    client_errors,
    http_status,
    ignore_warnings,
    import_google_storage,
    is_throttled,
    is_transient,
    retry_after,
)
from repot.storage.plain_http import Response, Server, is_behind_proxy, send_within_limit
from repot.storage.retries import (
    CONNECT_SECONDS,
    NUM_CONNECTIONS,
    ServiceState,
    call_with_retries,
    use_own_generator,
)
from repot.storage.uris import split_bucket
from repot.tls import CA_VARIABLES, find_ca_bundle
from repot.user_files import read_user_file

# Both as in the client's own session.
_TOKEN_RETRIES = 3
_TOKEN_SECONDS = 300
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"

_log = logging.getLogger(__name__)
state = ServiceState()
"""What this process knows of the service."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Connection:
    """The client of an endpoint, and what its requests are sent by.

    Attributes:
        client: A google.cloud.storage.Client.
        session: The google.auth.transport.requests.AuthorizedSession of that client.
        token_request: The google.auth.transport.requests.Request that renews its credentials.
        server: The server of direct requests; None if only the client can reach it.
    """

    client: Any
    session: Any
    token_request: Any
    server: Server | None


def client() -> Any:
    """Return this process's google.cloud.storage.Client, created on first use.

    As in all of Google's libraries, STORAGE_EMULATOR_HOST selects another endpoint, which is used
    without credentials.
    """
    return _connection().client


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
    return bucket_handle(bucket).blob(name, generation=generation, chunk_size=chunk_bytes)


def bucket_handle(name: str) -> Any:
    """Return the client's handle of a bucket, without a request to the service.

    USER_PROJECT_VARIABLE names the project that pays for the requests, as requester-pays buckets
    require.
    """
    user_project = os.environ.get(USER_PROJECT_VARIABLE) or None
    return client().bucket(name, user_project=user_project)


def get_directly(uri: str, *, version: str, byte_range: str = "") -> Response | None:
    """Return an object's stored bytes by one plain request, see `repot.storage.plain_http`.

    Credentials and certificates are the client's. A proxy and any failure are left to the client
    and its retries.

    Args:
        uri: The object.
        version: Its generation.
        byte_range: The range of bytes, such as "0-99"; "" for all.

    Returns:
        The complete response; None if the client has to make the request.
    """

    def send() -> Response | None:
        connection = _connection()
        if connection.server is None:
            return None
        # As it is stored, compressed or not.
        headers = {"Accept-Encoding": "gzip"}
        if byte_range:
            headers["Range"] = f"bytes={byte_range}"
        url = connection.client.api_endpoint + download_path(uri, version)
        credentials = connection.session.credentials
        credentials.before_request(connection.token_request, "GET", url, headers)
        path = "/" + url.split("/", 3)[3]
        return connection.server.get(path, headers, read_seconds=state.read_seconds)

    try:
        response = send_within_limit(send, state)
    except client_errors():
        return None
    is_answer = response is not None and response.is_answer(to_range=bool(byte_range))
    return response if is_answer else None


def request_options() -> dict[str, Any]:
    """Return the `timeout` and `retry` arguments for one request."""
    return {"timeout": (CONNECT_SECONDS, state.read_seconds), "retry": _with_retries}


def _connection() -> _Connection:
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST", "")
    with state.lock:
        # Another thread may clear the clients at any moment.
        connection: _Connection | None = state.clients.get(endpoint)
        if connection is None:
            connection = state.clients[endpoint] = _new_connection()
        return connection


def download_path(uri: str, version: str) -> str:
    """Return the path of a generation's bytes.

    Source: https://docs.cloud.google.com/storage/docs/json_api/v1/objects/get
    """
    bucket, name = split_bucket(uri)
    path = f"/download/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='~')}"
    user_project = os.environ.get(USER_PROJECT_VARIABLE)
    payer = f"&userProject={urllib.parse.quote_plus(user_project)}" if user_project else ""
    return f"{path}?alt=media&generation={version}{payer}"


def _direct_server(session: Any, url: str) -> Server | None:
    """Return the server of direct requests; None if only the client can reach it."""
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    if session.is_mtls or is_behind_proxy(url):
        return None
    ca_path = session.verify if isinstance(session.verify, str) else DEFAULT_CA_BUNDLE_PATH
    try:
        return Server(url, ca_path=ca_path)
    except (OSError, ValueError):
        return None


def _new_connection() -> _Connection:
    import_google_storage()
    import requests
    from google.auth import _exponential_backoff
    from google.auth.transport.requests import Request
    from google.cloud import storage
    from google.cloud.storage._media import _upload

    # The boundary of each upload, and the pauses before a repeated request for a token.
    use_own_generator(_upload, _exponential_backoff)
    # Outside Google's cloud there is no metadata server; the library warns about that three times.
    logging.getLogger("google.auth.compute_engine._metadata").setLevel(logging.ERROR)
    token_session = requests.Session()
    token_session.mount("https://", requests.adapters.HTTPAdapter(max_retries=_TOKEN_RETRIES))
    token_request = Request(token_session)
    with ignore_warnings():
        session = _new_session(_credentials(), token_request)
        new_client = storage.Client(project=None, credentials=session.credentials, _http=session)
    # A session looks at all of these variables but SSL_CERT_FILE.
    ca_bundle = find_ca_bundle(*CA_VARIABLES)
    if ca_bundle is not None:
        session.verify = token_session.verify = ca_bundle
    # The client (3.17) queries the bucket in a background thread for traces, even if tracing is
    # off; that takes a permission that is not needed otherwise. Without this cache it does not.
    new_client._bucket_metadata_cache = None
    return _Connection(
        client=new_client,
        session=session,
        token_request=token_request,
        server=_direct_server(session, new_client.api_endpoint),
    )


def _new_session(credentials: Any, token_request: Any) -> Any:
    """Return a session with the response hook and one connection per thread."""
    from google.auth.credentials import AnonymousCredentials
    from google.auth.transport import DEFAULT_REFRESH_STATUS_CODES
    from google.auth.transport.requests import AuthorizedSession
    from requests.adapters import HTTPAdapter

    # Without credentials, a 401 would become the error that these cannot be refreshed.
    is_anonymous = isinstance(credentials, AnonymousCredentials)
    session = AuthorizedSession(
        credentials,
        refresh_status_codes=() if is_anonymous else DEFAULT_REFRESH_STATUS_CODES,
        refresh_timeout=_TOKEN_SECONDS,
        auth_request=token_request,
    )
    session.configure_mtls_channel()
    session.hooks["response"].append(_on_response)
    if not session.is_mtls:
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=NUM_CONNECTIONS))
    return session


def _credentials() -> Any:
    """Return the credentials of requests.

    Without any, and with an emulator, requests are anonymous: a public bucket can be read.

    Raises:
        StorageError: GOOGLE_KEY_VARIABLE holds no key.
        google.auth.exceptions.GoogleAuthError: Credentials are configured but cannot be used.
    """
    import google.auth
    from google.auth import _cloud_sdk, environment_vars
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import DefaultCredentialsError

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return AnonymousCredentials()
    if os.environ.get(GOOGLE_KEY_VARIABLE):
        return _key_credentials()
    key_file = os.environ.get(environment_vars.CREDENTIALS)
    if key_file and Path(key_file).exists():
        _check_key_file(Path(key_file))
    try:
        return google.auth.default(scopes=[_SCOPE])[0]
    except DefaultCredentialsError:
        login_path = _cloud_sdk.get_application_default_credentials_path()
        if os.environ.get(environment_vars.CREDENTIALS) or Path(login_path).is_file():
            raise
    _log.warning("No Google credentials were found; only public buckets can be read.")
    return AnonymousCredentials()


def _check_key_file(path: Path) -> None:
    """Check the file that google-auth will read, whatever its length.

    Raises:
        StorageError: It cannot be read, or is too long.
    """
    try:
        read_user_file(path)
    except OSError as err:
        raise StorageError(
            f"GOOGLE_APPLICATION_CREDENTIALS must name a key file; got {path}: {err.strerror}. "
            "Set it to the JSON file of a service account's key, or unset it."
        ) from err


def _key_credentials() -> Any:
    """Return the credentials of the service account key in GOOGLE_KEY_VARIABLE.

    Raises:
        StorageError: The variable holds no such key.
    """
    from google.oauth2 import service_account

    try:
        return service_account.Credentials.from_service_account_info(
            json.loads(os.environ[GOOGLE_KEY_VARIABLE]), scopes=[_SCOPE]
        )
    except ValueError as err:
        raise StorageError(
            f"{name_sources(GOOGLE_KEY_VARIABLE)} must hold a Google service account's key as "
            f"JSON; it does not ({type(err).__name__}). Put the key file itself into the Secret, "
            "as key.json, or delete the Secret to use workload identity."
        ) from err


def _on_response(response: Any, **_options: Any) -> None:
    if response.status_code == http.client.UNAUTHORIZED:
        # The next request looks for credentials again: the user may have logged in, or the metadata
        # server of a new pod may respond by now.
        state.clients.clear()
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
        state,
        errors=client_errors(),
        is_transient=is_transient,
        is_response=lambda err: http_status(err) is not None,
        is_throttled=is_throttled,
        retry_after=retry_after,
    )
