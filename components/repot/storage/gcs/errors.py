"""Conversion of the Google client's errors into messages for the user who chose the bucket.

The service refuses requests with 400, 401 or 403 for a dozen reasons, and each needs another
remedy. An error of the JSON API has a reason code, that of a download only a sentence, so both are
compared.
https://cloud.google.com/storage/docs/json_api/v1/status-codes
https://cloud.google.com/storage/docs/troubleshooting

No message contains a request URL: the id of a resumable upload in it is as secret as a password.
"""

import contextlib
import functools
import http.client
import os
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from repot.cluster_names import GOOGLE_KEY_VARIABLE, name_sources
from repot.errors import NoBucketError, NotFoundError, StorageError, advise
from repot.storage.retries import THROTTLED_STATUSES
from repot.tls import CA_VARIABLES, describe_tls_error, is_permanent

USER_PROJECT_VARIABLE = "GOOGLE_CLOUD_QUOTA_PROJECT"
"""Environment variable of Google's libraries: the project that pays for requests to a bucket."""

# https://cloud.google.com/storage/docs/retry-strategy
_TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)
_THROTTLED_REASONS = {"rateLimitExceeded", "userRateLimitExceeded"}
_MAX_MESSAGE_CHARS = 300

_ignoring = threading.RLock()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Refusal:
    """A reason why the service refuses a request.

    Attributes:
        reasons: Reason codes of the service.
        pattern: Found in its message, in lower case.
        problem: What is wrong; "{bucket}" stands for the bucket.
        advice: What to do; "{login}" stands for how to get credentials, "{project}" for where
            USER_PROJECT_VARIABLE is set.
    """

    reasons: frozenset[str]
    pattern: str
    problem: str
    advice: str


# The first that fits counts: a message about billing, for example, may also mention a permission.
_REFUSALS = (
    _Refusal(
        reasons=frozenset({"retentionPolicyNotMet"}),
        pattern=r"retention (policy|period|configuration)|object retention|retained until",
        problem="a retention policy protects it",
        advice="repot replaces and deletes some of its objects: use a storage_uri in a bucket "
        "without a retention policy, or wait until the retention ends",
    ),
    _Refusal(
        reasons=frozenset({"objectUnderActiveHold"}),
        pattern=r"(event-based|temporary|active) hold",
        problem="a hold protects it",
        advice="Release the hold with `gcloud storage objects update --no-event-based-hold "
        "--no-temporary-hold`, and switch off the bucket's default event-based hold",
    ),
    _Refusal(
        reasons=frozenset({"UserProjectMissing", "AuthenticationRequiredRequesterPays"}),
        pattern=r"requester[- ]pays",
        problem="{bucket} is a requester-pays bucket",
        advice="Use an account that may bill a project, and set {project} to the id of the "
        "project that pays for the requests",
    ),
    _Refusal(
        reasons=frozenset({"accessNotConfigured", "SERVICE_DISABLED"}),
        pattern=r"api has not been used|it is disabled|access not configured",
        problem="the project's Cloud Storage API is disabled",
        advice="Enable it with `gcloud services enable storage.googleapis.com`",
    ),
    _Refusal(
        reasons=frozenset(
            {
                "accountDisabled",
                "UserProjectAccountProblem",
                "BILLING_DISABLED",
                "CONSUMER_SUSPENDED",
                "CONSUMER_INVALID",
            }
        ),
        pattern=r"billing|account .*(disabled|delinquent)|"
        r"project .*(is|was|been) (disabled|suspended|deleted|shut down)",
        problem="the project or its billing account is closed or disabled",
        advice="Link an open billing account to the project of {bucket}, and to the project in "
        "{project} if it is set, and make sure that the project is active",
    ),
    _Refusal(
        reasons=frozenset(
            {
                "UserProjectAccessDenied",
                "UserProjectInconsistent",
                "UserProjectInvalid",
                "USER_PROJECT_DENIED",
            }
        ),
        pattern=r"serviceusage\.services\.use|user project|userproject|quota project",
        problem="the project that should pay for the requests cannot be used",
        advice="Set {project} to a project on which the account has the role "
        "Service Usage Consumer (roles/serviceusage.serviceUsageConsumer), or unset it",
    ),
    _Refusal(
        reasons=frozenset({"insufficientScopes", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}),
        pattern=r"insufficient (authentication |oauth )?scope|^insufficient permissions?$",
        problem="the access token lacks the scope for this request",
        advice="Give the node or the virtual machine the scope cloud-platform, or give the pod's "
        "service account access (workload identity)",
    ),
    _Refusal(
        reasons=frozenset({"securityPolicyViolated", "SECURITY_POLICY_VIOLATED"}),
        pattern=r"vpc ?service ?controls|organization'?s policy|ip filter",
        problem="a network policy of the organization forbids access from here",
        advice="Run inside the network that the policy allows, or ask the administrator to allow "
        "this network and account",
    ),
    _Refusal(
        reasons=frozenset(),
        pattern=r"cloud ?kms|encryption key|encrypterdecrypter",
        problem="the encryption key of {bucket} cannot be used",
        advice="Enable the key, and grant the Cloud Storage service agent of the bucket's project "
        "the role Cloud KMS CryptoKey Encrypter/Decrypter on it",
    ),
    _Refusal(
        reasons=frozenset(),
        pattern=r"anonymous caller|login required",
        problem="no Google credentials were found, and {bucket} does not allow this to everyone",
        advice="{login}",
    ),
)


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


@functools.cache
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
    from google.auth.exceptions import GoogleAuthError, TransportError

    status = http_status(err)
    if status is not None:
        return status in _TRANSIENT_STATUSES or is_throttled(err)
    if isinstance(err, (*_network_errors(), TransportError)):
        return not is_permanent(err)
    return isinstance(err, GoogleAuthError) and bool(err.retryable)


def is_throttled(err: Exception) -> bool:
    """Return whether the service refused the request because there are too many."""
    return http_status(err) in THROTTLED_STATUSES or bool(_reason_codes(err) & _THROTTLED_REASONS)


def retry_after(err: Exception) -> str:
    """Return the header Retry-After of the service's response; "" without it."""
    headers = getattr(getattr(err, "response", None), "headers", None) or {}
    return str(headers.get("Retry-After", ""))


def import_google_storage() -> None:
    """Import Google's client without its warnings, e.g. about grpcio-status, which is unneeded."""
    with ignore_warnings():
        import google.cloud.storage  # noqa: F401


@contextlib.contextmanager
def ignore_warnings() -> Iterator[None]:
    """Suppress all warnings in this block, even where warnings are errors.

    One thread at a time: those that replace the filters at the same time would restore those of
    each other.
    """
    with _ignoring, warnings.catch_warnings():
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


def _error_object(err: BaseException) -> dict[str, Any]:
    """Return the error object in the service's response; empty if it has none."""
    try:
        error = err.response.json()["error"]  # type: ignore[attr-defined]
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return error if isinstance(error, dict) else {}


def _error_message(err: BaseException) -> str:
    """Return the error message in the service's response, on one line."""
    response = getattr(err, "response", None)
    message = _error_object(err).get("message") or getattr(response, "text", "")
    message = message or getattr(response, "reason", "") or type(err).__name__
    return " ".join(str(message)[:_MAX_MESSAGE_CHARS].split()).strip(" .")


def _reason_codes(err: BaseException) -> set[str]:
    """Return the reason codes in the service's response."""
    error = _error_object(err)
    entries = [*(error.get("errors") or ()), *(error.get("details") or ())]
    return {str(entry.get("reason")) for entry in entries if isinstance(entry, dict)}


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
    if status is not None:
        return _response_reason(err, status, bucket)
    endpoint = _request_endpoint(err)
    if tls_reason := describe_tls_error(err, endpoint, CA_VARIABLES[-1]):
        return tls_reason
    if isinstance(err, GoogleAuthError) and not isinstance(err, TransportError):
        return _credentials_reason(err)
    return (
        f"{endpoint} does not respond ({_network_reason(err)}). "
        "Check the network, the proxy and the firewall"
    )


def _response_reason(err: BaseException, status: int, bucket: str) -> str:
    """Return the reason and the advice for an error response of the service."""
    message, codes = _error_message(err), _reason_codes(err)
    if status in (http.client.BAD_REQUEST, http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        for refusal in _REFUSALS:
            if codes & refusal.reasons or re.search(refusal.pattern, message.lower()):
                text = f"{refusal.problem} ({{message}}). {refusal.advice}"
                return text.format(
                    bucket=bucket,
                    message=message,
                    login=_login_advice(),
                    project=name_sources(USER_PROJECT_VARIABLE),
                )
    if status == http.client.UNAUTHORIZED:
        return (
            f"the Google credentials have expired or are not valid ({message}). {_login_advice()}"
        )
    if status == http.client.FORBIDDEN:
        role = "the role Storage Object User (roles/storage.objectUser)"
        return f"access is denied ({message}). Grant that account {role} on {bucket}"
    return f"the service returned {status} ({message}). Check the bucket, and run again"


def _credentials_reason(err: BaseException) -> str:
    """Return the reason and the advice for an error of the credentials, before any request."""
    from google.auth.exceptions import DefaultCredentialsError

    message = " ".join(str(err.args[0] if err.args else "").split())[:_MAX_MESSAGE_CHARS].strip(
        " ."
    )
    if re.search(r"reasonable timeframe|short-lived token|clock", message.lower()):
        return (
            f"the Google credentials are rejected because of the time ({message}). Set this "
            "machine's clock"
        )
    state = "are missing" if isinstance(err, DefaultCredentialsError) else "have expired"
    return f"the Google credentials {state} or are not valid ({message}). {_login_advice()}"


def _login_advice() -> str:
    key = name_sources(GOOGLE_KEY_VARIABLE)
    return advise(
        on_machine="Run `gcloud auth application-default login`, or set "
        "GOOGLE_APPLICATION_CREDENTIALS to a key file",
        in_pod="Give the run's service account access to the bucket (workload identity), or put "
        f"the key file of a Google service account into {key}",
    )


def _request_endpoint(err: BaseException) -> str:
    """Return the address that the failed request was sent to; it may be the one for tokens."""
    inner = err.args[0] if err.args else None
    for failed in (err, inner):
        url = getattr(getattr(failed, "request", None), "url", None)
        if url:
            return "/".join(str(url).split("/", 3)[:3])
    return os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"


def _network_reason(err: BaseException) -> str:
    """Return the name of the error that requests wraps, e.g. NameResolutionError."""
    inner = err.args[0] if err.args else None
    reason = getattr(inner, "reason", inner)
    return _network_reason(reason) if isinstance(reason, BaseException) else type(err).__name__
