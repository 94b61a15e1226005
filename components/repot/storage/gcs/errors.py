"""What the errors of Google's client mean to the person who chose the bucket.

Nothing of a request's URL gets into a message: the id of a resumable upload in it is as good as a password.
"""

import contextlib
import http.client
import os
import warnings
from collections.abc import Iterator

from repot.errors import NoBucketError, StorageError
from repot.storage.problems import missing

# https://cloud.google.com/storage/docs/retry-strategy
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)
_LOGIN = (
    "Run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS to a key file, "
    "or give the pod's service account access (workload identity)"
)


class PreconditionError(StorageError):
    """The object does not have the generation that a request named (or a rule of the bucket's owner is broken)."""


_KINDS: dict[int | None, type[StorageError]] = {
    http.client.NOT_FOUND: NoBucketError,
    http.client.PRECONDITION_FAILED: PreconditionError,
}


@contextlib.contextmanager
def explained(done: str, uri: str) -> Iterator[None]:
    """Turn an error of the client into one sentence: what cannot be `done` to `uri`, why, and what to do.

    Raises:
        PreconditionError: The service answered 412.
        NotFoundError: There is no such object.
        NoBucketError: There is no such bucket.
        StorageError: Any other failure.
    """
    failures = _failures()
    try:
        yield
    except failures as err:
        cause = _last_cause(err)
        status = _status(cause)
        if status == http.client.NOT_FOUND and not _lacks_bucket(cause, done):
            raise missing(uri) from err
        raise _KINDS.get(status, StorageError)(
            f"{uri} cannot be {done}: {_meaning(cause, uri)}."
        ) from err


def is_passing(err: Exception) -> bool:
    """Return whether a request that failed so may well succeed a little later."""
    from google.auth.exceptions import TransportError

    status = _status(err)
    if status is not None:
        return status in _PASSING_STATUS
    return isinstance(err, (*_network_failures(), TransportError))


def import_client() -> None:
    """Import Google's client without its warnings, e.g. about grpcio-status, which is not needed."""
    with silence():
        import google.cloud.storage  # noqa: F401


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Show no warning in this block, even where warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _network_failures() -> tuple[type[Exception], ...]:
    import requests
    import urllib3

    of_requests = (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    )
    return (*of_requests, urllib3.exceptions.HTTPError, http.client.HTTPException, ConnectionError)


def _failures() -> tuple[type[Exception], ...]:
    import_client()
    import requests
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import InvalidResponse

    of_google = (GoogleAPIError, GoogleAuthError, InvalidResponse)
    return (*of_google, requests.RequestException, *_network_failures(), UnicodeEncodeError)


def _last_cause(err: BaseException) -> BaseException:
    """Return the failure that the retries ended with."""
    cause = getattr(err, "cause", None)
    return _last_cause(cause) if isinstance(cause, BaseException) else err


def _status(err: BaseException) -> int | None:
    """Return the HTTP status that the service answered, if it did."""
    response_status = getattr(getattr(err, "response", None), "status_code", None)
    code = getattr(err, "code", response_status)
    return int(code) if isinstance(code, int) else None


def _server_words(err: BaseException) -> str:
    """Return what the service said about it."""
    response = getattr(err, "response", None)
    try:
        return str(response.json()["error"]["message"]).strip(" .\n")  # type: ignore[union-attr]
    except (AttributeError, KeyError, TypeError, ValueError):
        words = (
            getattr(response, "text", "") or getattr(response, "reason", "") or type(err).__name__
        )
        return str(words)[:300].strip(" .\n")


def _lacks_bucket(err: BaseException, done: str) -> bool:
    """Return whether a 404 is about the bucket: writing and listing need nothing else to be there."""
    return done in ("written", "listed") or "bucket does not exist" in _server_words(err)


def _meaning(err: BaseException, uri: str) -> str:
    from google.auth.exceptions import GoogleAuthError, TransportError

    bucket = "/".join(uri.split("/", 3)[:3])
    status = _status(err)
    if isinstance(err, UnicodeEncodeError):
        return "its name is not UTF-8. Rename it"
    if status == http.client.NOT_FOUND:
        return f"there is no bucket {bucket}. Create it, or correct the name"
    if status == http.client.FORBIDDEN:
        role = "the role Storage Object User (roles/storage.objectUser)"
        return f"access is denied ({_server_words(err)}). Grant that account {role} on {bucket}"
    if status == http.client.UNAUTHORIZED or (
        isinstance(err, GoogleAuthError) and not isinstance(err, TransportError)
    ):
        return f"the Google credentials are missing or no longer valid. {_LOGIN}"
    if status is not None:
        return f"the service answered {status} ({_server_words(err)}). Look at the bucket, and run again"
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
    return f"{endpoint} does not answer ({_network_reason(err)}). Check the network, the proxy and the firewall"


def _network_reason(err: BaseException) -> str:
    """Return the name of the failure below the layers of requests, e.g. NameResolutionError."""
    inner = err.args[0] if err.args else None
    reason = getattr(inner, "reason", inner)
    return _network_reason(reason) if isinstance(reason, BaseException) else type(err).__name__
