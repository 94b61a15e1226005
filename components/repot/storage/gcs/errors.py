"""Conversion of the Google client's errors into messages for the user who chose the bucket.

No message contains a request URL: the id of a resumable upload in it is as secret as a password.
"""

import contextlib
import http.client
import os
import warnings
from collections.abc import Iterator

from repot.errors import NoBucketError, NotFoundError, StorageError

# https://cloud.google.com/storage/docs/retry-strategy
_TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)
_LOGIN_ADVICE = (
    "Run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS to a key "
    "file, or give the pod's service account access (workload identity)"
)
_MAX_MESSAGE_CHARS = 300


class GenerationMismatchError(StorageError):
    """412: the object has another generation than required, or a bucket policy is violated."""


_ERROR_TYPES: dict[int | None, type[StorageError]] = {
    http.client.NOT_FOUND: NoBucketError,
    http.client.PRECONDITION_FAILED: GenerationMismatchError,
}


@contextlib.contextmanager
def convert_gcs_errors(action: str, uri: str) -> Iterator[None]:
    """Convert an error of the client into one message: what failed, why, and what to do.

    Args:
        action: What the block does with the object, as a past participle: "read", "written", ...
        uri: The object.

    Raises:
        GenerationMismatchError: The service returned 412.
        NotFoundError: The object does not exist.
        NoBucketError: The bucket does not exist.
        StorageError: Any other failure.
    """
    try:
        yield
    except client_errors() as err:
        status = http_status(err)
        if status == http.client.NOT_FOUND and not _is_bucket_missing(err, action):
            raise NotFoundError(
                f"{uri} cannot be {action}: there is no such object. Check the name."
            ) from err
        raise _ERROR_TYPES.get(status, StorageError)(
            f"{uri} cannot be {action}: {_reason(err, uri)}."
        ) from err


def client_errors() -> tuple[type[Exception], ...]:
    """Return the types of the errors that a request may raise."""
    import_google_storage()
    import requests
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import InvalidResponse

    google_errors = (GoogleAPIError, GoogleAuthError, InvalidResponse)
    return (*google_errors, requests.RequestException, *_network_errors(), UnicodeEncodeError)


def http_status(err: BaseException) -> int | None:
    """Return the HTTP status of the response, or None without a response."""
    response_status = getattr(getattr(err, "response", None), "status_code", None)
    code = getattr(err, "code", response_status)
    return int(code) if isinstance(code, int) else None


def is_transient(err: Exception) -> bool:
    """Return whether the same request may succeed a little later."""
    from google.auth.exceptions import TransportError

    status = http_status(err)
    if status is not None:
        return status in _TRANSIENT_STATUSES
    return isinstance(err, (*_network_errors(), TransportError))


def import_google_storage() -> None:
    """Import Google's client without its warnings, e.g. about grpcio-status, which is unneeded."""
    with ignore_warnings():
        import google.cloud.storage  # noqa: F401


@contextlib.contextmanager
def ignore_warnings() -> Iterator[None]:
    """Suppress all warnings in this block, even where warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _network_errors() -> tuple[type[Exception], ...]:
    import requests
    import urllib3

    requests_errors = (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    )
    return (
        *requests_errors,
        urllib3.exceptions.HTTPError,
        http.client.HTTPException,
        ConnectionError,
    )


def _error_message(err: BaseException) -> str:
    """Return the error message in the service's response."""
    response = getattr(err, "response", None)
    try:
        return str(response.json()["error"]["message"]).strip(" .\n")  # type: ignore[union-attr]
    except (AttributeError, KeyError, TypeError, ValueError):
        text = getattr(response, "text", "") or getattr(response, "reason", "")
        return str(text or type(err).__name__)[:_MAX_MESSAGE_CHARS].strip(" .\n")


def _is_bucket_missing(err: BaseException, action: str) -> bool:
    """Return whether a 404 is about the bucket: writing and listing need no existing object."""
    return action in ("written", "listed") or "bucket does not exist" in _error_message(err)


def _reason(err: BaseException, uri: str) -> str:
    """Return the reason and the advice, without the final full stop."""
    from google.auth.exceptions import GoogleAuthError, TransportError

    bucket = "/".join(uri.split("/", 3)[:3])
    status = http_status(err)
    if isinstance(err, UnicodeEncodeError):
        return "its name is not UTF-8. Rename it"
    if status == http.client.NOT_FOUND:
        return f"there is no bucket {bucket}. Create it, or correct the name"
    if status == http.client.FORBIDDEN:
        role = "the role Storage Object User (roles/storage.objectUser)"
        return f"access is denied ({_error_message(err)}). Grant that account {role} on {bucket}"
    if status == http.client.UNAUTHORIZED or (
        isinstance(err, GoogleAuthError) and not isinstance(err, TransportError)
    ):
        return f"the Google credentials are missing or no longer valid. {_LOGIN_ADVICE}"
    if status is not None:
        return (
            f"the service returned {status} ({_error_message(err)}). "
            "Check the bucket, and run again"
        )
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
    return (
        f"{endpoint} does not respond ({_network_reason(err)}). "
        "Check the network, the proxy and the firewall"
    )


def _network_reason(err: BaseException) -> str:
    """Return the name of the error that requests wraps, e.g. NameResolutionError."""
    inner = err.args[0] if err.args else None
    reason = getattr(inner, "reason", inner)
    return _network_reason(reason) if isinstance(reason, BaseException) else type(err).__name__
