"""Classification of boto3's errors, and their conversion into messages for the bucket's user.

A service refuses requests for a dozen reasons, and each needs another remedy.
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
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

from repot.cluster_names import name_sources
from repot.errors import (
    NoBucketError,
    NotFoundError,
    StorageError,
    advise,
    is_task_pod,
)
from repot.extras import install_command
from repot.storage.retries import THROTTLED_STATUSES
from repot.tls import describe_tls_error, is_permanent

PAYER_VARIABLE = "AWS_REQUEST_PAYER"
"""Environment variable, as in GDAL: "requester" if this account pays for requests to a bucket."""
CA_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Environment variables that name a file of CA certificates, by precedence."""
ANONYMOUS = "Anonymous"
"""Key in the metadata of a response to a request that was sent without credentials."""

_TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)
_TRANSIENT_CODES = (
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "XAmzContentSHA256Mismatch",
)
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and those of other services.
_THROTTLED_CODES = (
    "BandwidthLimitExceeded",
    "RequestLimitExceeded",
    "RequestThrottled",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
)
_REGION_CODES = (
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
)
_PERMISSIONS = (
    "s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and s3:ListBucket"
)
_KEY_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL_S3"
_MAX_MESSAGE_CHARS = 300

_importing = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Refusal:
    """A reason why a service refuses a request.

    Attributes:
        codes: Error codes of the service.
        pattern: Found in the message of AccessDenied or another 400 or 403, in lower case; "" if
            only the codes count.
        problem: What is wrong; "{bucket}" and "{endpoint}" stand for their values.
        advice: What to do; "{access_key}", "{secret_key}", "{keys}" and "{payer}" stand for where
            they are set.
        advice_in_pod: What to do if a pod of a run is refused; "" if that is the same.
    """

    codes: frozenset[str]
    pattern: str = ""
    problem: str
    advice: str
    advice_in_pod: str = ""


# The first that fits counts.
_REFUSALS = (
    _Refusal(
        codes=frozenset({"InvalidAccessKeyId"}),
        problem="the S3 credentials are not valid: {endpoint} does not know the access key",
        advice="Correct {access_key} or the profile, and check that the key is active and "
        "belongs to that service",
        advice_in_pod="Correct {access_key}, and check that the access key is active and belongs "
        "to that service",
    ),
    _Refusal(
        codes=frozenset({"SignatureDoesNotMatch"}),
        problem="the S3 credentials are not valid: the secret key does not belong to the access "
        "key, or a proxy changed the request",
        advice="Correct {secret_key} or the profile",
        advice_in_pod="Correct {secret_key}",
    ),
    _Refusal(
        codes=frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}),
        problem="the S3 credentials have expired",
        advice="Log in again with `aws sso login`, or set AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN to new values",
        advice_in_pod="Run again; if the run's service account has no role, put permanent keys "
        "into {keys}",
    ),
    _Refusal(
        codes=frozenset({"InvalidToken", "InvalidTokenId"}),
        problem="the S3 credentials are not valid: the session token does not belong to the keys",
        advice="Set AWS_SESSION_TOKEN to the token that was issued with AWS_ACCESS_KEY_ID, or "
        "unset it for permanent keys",
        advice_in_pod="Put permanent keys into {keys}",
    ),
    _Refusal(
        codes=frozenset({"RequestTimeTooSkewed", "RequestExpired"}),
        pattern=r"request has expired|signature not yet current|too large a time skew",
        problem="this machine's clock differs too much from the service's",
        advice="Set the clock, best with NTP",
        advice_in_pod="Set the clock of the node, best with NTP",
    ),
    _Refusal(
        codes=frozenset({"AccountProblem", "AllAccessDisabled", "NotSignedUp", "OptInRequired"}),
        pattern=r"all access to this .* has been disabled|account .*(suspended|closed|disabled)",
        problem="the account or the bucket is disabled, for example because of unpaid bills",
        advice="The owner of {bucket} must reactivate the account",
    ),
    _Refusal(
        codes=frozenset({"InvalidObjectState"}),
        problem="it is archived and cannot be read at once",
        advice="Restore it, or copy it to the storage class STANDARD",
    ),
    _Refusal(
        codes=frozenset({"ObjectLocked", "InvalidRetentionPeriod"}),
        pattern=r"worm[ -]protected|object[ -]?lock|legal hold|under retention|retention period|"
        r"retain until",
        problem="object lock protects it",
        advice="repot replaces and deletes some of its objects: use a storage_uri in a bucket "
        "without a default retention, or wait until retention and legal hold end",
    ),
    _Refusal(
        codes=frozenset({"InvalidPayer"}),
        pattern=r"requester[ -]?pays|request-payer|requestpayer",
        problem="{bucket} is a requester-pays bucket",
        advice="Set {payer} to requester if your account may be billed for the requests",
    ),
    _Refusal(
        codes=frozenset({"KMS.DisabledException", "KMS.NotFoundException", "KMSAccessDenied"}),
        pattern=r"\bkms[:.]|kms key",
        problem="the encryption key of {bucket} cannot be used",
        advice="Enable the key, and allow kms:Decrypt and kms:GenerateDataKey on it",
    ),
    _Refusal(
        codes=frozenset(),
        pattern=r"explicit deny",
        problem="a policy forbids it explicitly",
        advice="More permissions do not help: the owner of {bucket} must change that policy, which "
        "may demand a certain network, region or encryption",
    ),
)


class ETagMismatchError(StorageError):
    """412: the object has another ETag than required, or must not exist."""


class DamagedError(StorageError):
    """The checksum of a response differs from the one that the service announced."""


class UnsupportedError(StorageError):
    """501: the service does not implement a part of the request."""


@contextlib.contextmanager
def convert_s3_errors(action: str, uri: str) -> Iterator[None]:
    """Convert an error of the client into one message: what failed, why, and what to do.

    Args:
        action: What the block does with the object, as a past participle: "read", "written", ...
            "looked up" is a HEAD request for an object, "found" one for a bucket: their responses
            have no body, so a 404 does not say which of the two is missing.
        uri: The object, folder or bucket.

    Raises:
        DamagedError: The client computed another checksum.
        ETagMismatchError: The service returned 412.
        UnsupportedError: The service returned 501.
        NotFoundError: The object does not exist.
        NoBucketError: The bucket does not exist.
        StorageError: Any other failure.
    """
    try:
        yield
    except client_errors() as err:
        if _is_object_missing(err, action):
            raise NotFoundError(
                f"{uri} cannot be {action}: there is no such object. Check the name."
            ) from err
        raise _error_type(err, action)(
            f"{uri} cannot be {action}: {_reason(err, action, uri)}."
        ) from err


def endpoint_url() -> str:
    """Return the address of the service from the environment."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return url or "https://s3.amazonaws.com"


def invalid_endpoint_error(err: Exception) -> StorageError:
    """Return the error of an endpoint or region that does not form a valid address."""
    return StorageError(
        f"s3:// needs the address of a service; got {endpoint_url()!r} ({_error_message(err)}). "
        f"{_endpoint_advice()}."
    )


def not_s3_service_error(uri: str) -> StorageError:
    """Return the error of a response that does not come from an S3 service."""
    return StorageError(
        f"{uri} cannot be reached: {endpoint_url()} does not respond as an S3 service. "
        f"{_endpoint_advice()}."
    )


def import_boto3() -> Any:
    """Return the package boto3.

    Raises:
        StorageError: It is not installed.
    """
    try:
        # boto3 warns about Python versions whose support ends soon. One thread at a time: threads
        # that replace the filters at the same time would restore those of each other.
        with _importing, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import boto3
    except ModuleNotFoundError as err:
        raise StorageError(
            "s3:// needs the package boto3, which is missing. "
            + advise(
                on_machine=f"Run {install_command('s3')}.",
                in_pod="Use repot's container images, or add boto3 to your own.",
            )
        ) from err
    return boto3


@functools.cache
def client_errors() -> tuple[type[Exception], ...]:
    """Return the types of the errors that a request may raise."""
    import_boto3()
    import urllib3
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return (
        BotoCoreError,
        ClientError,
        ResponseParserError,
        urllib3.exceptions.HTTPError,
        ConnectionError,
        UnicodeEncodeError,
    )


def http_status(err: Exception) -> int:
    """Return the HTTP status of the service's response; 0 without a response."""
    return int(_response(err).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def response_header(err: Exception, name: str) -> str:
    """Return a header, by its lower-case name, of the service's response; "" without it."""
    metadata = _response(err).get("ResponseMetadata", {})
    return str(metadata.get("HTTPHeaders", {}).get(name, ""))


def is_s3_response(err: Exception) -> bool:
    """Return whether the response comes from an S3 service, and not from some other web server."""
    return http_status(err) > 0 and not _error_code(err).isdecimal()


def is_transient(err: Exception) -> bool:
    """Return whether the same request may succeed a little later."""
    if http_status(err):
        is_temporary = http_status(err) in _TRANSIENT_STATUSES
        return is_temporary or is_throttled(err) or _error_code(err) in _TRANSIENT_CODES
    return _is_network_error(err) and not is_permanent(err)


def is_throttled(err: Exception) -> bool:
    """Return whether the service refused the request because there are too many."""
    return http_status(err) in THROTTLED_STATUSES or _error_code(err) in _THROTTLED_CODES


def _response(err: Exception) -> dict[str, Any]:
    response = getattr(err, "response", None)
    return response if isinstance(response, dict) else {}


def _error_code(err: Exception) -> str:
    """Return the service's error code, e.g. "NoSuchKey"; "" without a response."""
    return str(_response(err).get("Error", {}).get("Code", ""))


def _error_message(err: Exception) -> str:
    """Return the error message of the service, or else of the client, on one line."""
    message = _response(err).get("Error", {}).get("Message") or err
    return " ".join(str(message)[:_MAX_MESSAGE_CHARS].split()).strip(" .")


def _error_type(err: Exception, action: str) -> type[StorageError]:
    from botocore.exceptions import FlexibleChecksumError

    if isinstance(err, FlexibleChecksumError):
        return DamagedError
    if _is_bucket_missing(err, action):
        return NoBucketError
    types: dict[int, type[StorageError]] = {
        http.client.PRECONDITION_FAILED: ETagMismatchError,
        http.client.NOT_IMPLEMENTED: UnsupportedError,
    }
    return types.get(http_status(err), StorageError)


def _is_object_missing(err: Exception, action: str) -> bool:
    code = _error_code(err)
    return (code.startswith("NoSuch") and code != "NoSuchBucket") or (
        code == "404" and action == "looked up"
    )


def _is_bucket_missing(err: Exception, action: str) -> bool:
    code = _error_code(err)
    return code == "NoSuchBucket" or (code == "404" and action == "found")


def _is_network_error(err: Exception) -> bool:
    """Return whether the service did not respond, or not completely."""
    import urllib3
    from botocore import exceptions

    client_network_errors = (
        exceptions.HTTPClientError,
        exceptions.ConnectionError,
        exceptions.IncompleteReadError,
    )
    return isinstance(err, (*client_network_errors, urllib3.exceptions.HTTPError, ConnectionError))


def _is_credentials_error(err: Exception) -> bool:
    """Return whether the client found no usable credentials."""
    from botocore import exceptions

    credentials_errors = (
        exceptions.CredentialRetrievalError,
        exceptions.NoAuthTokenError,
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.ProfileNotFound,
        exceptions.SSOError,
        exceptions.TokenRetrievalError,
    )
    return isinstance(err, credentials_errors)


def _reason(err: Exception, action: str, uri: str) -> str:
    """Return the reason and the advice, without the final full stop."""
    message = _error_message(err)
    if isinstance(err, UnicodeEncodeError):
        return "its name is not UTF-8. Rename it"
    if _is_credentials_error(err):
        return f"the S3 credentials are missing or not valid ({message}). {_login_advice()}"
    if http_status(err):
        return _response_reason(err, action, "/".join(uri.split("/", 3)[:3]))
    if tls_reason := describe_tls_error(err, endpoint_url(), CA_VARIABLES[0]):
        return tls_reason
    if _is_network_error(err):
        return (
            f"{endpoint_url()} does not respond ({_network_reason(err)}). "
            f"Check the network, and {name_sources(_ENDPOINT_VARIABLE)}"
        )
    return f"the S3 client rejects the request ({message}). Correct it, and run again"


def _response_reason(err: Exception, action: str, bucket: str) -> str:
    """Return the reason and the advice for an error response of the service."""
    status, code, message = http_status(err), _error_code(err), _error_message(err)
    if _is_bucket_missing(err, action):
        return f"there is no bucket {bucket} at {endpoint_url()}. Create it, or correct the name"
    region = response_header(err, "x-amz-bucket-region")
    region_source = name_sources("AWS_REGION") if is_task_pod() else "AWS_DEFAULT_REGION"
    if code in _REGION_CODES or (region and status == http.client.MOVED_PERMANENTLY):
        return (
            f"the bucket is in another region ({message}). "
            f"Set {region_source} to {region + ', ' if region else ''}the region of {bucket}"
        )
    if status == http.client.UNAUTHORIZED:
        return f"the S3 credentials are missing or not valid ({message}). {_login_advice()}"
    refusals = (http.client.BAD_REQUEST, http.client.FORBIDDEN)
    for refusal in _REFUSALS:
        is_in_message = refusal.pattern and re.search(refusal.pattern, message.lower())
        if code in refusal.codes or (status in refusals and is_in_message):
            advice = advise(
                on_machine=refusal.advice, in_pod=refusal.advice_in_pod or refusal.advice
            )
            return f"{refusal.problem} ({{message}}). {advice}".format(
                bucket=bucket,
                endpoint=endpoint_url(),
                message=message,
                access_key=name_sources(_KEY_VARIABLES[0]),
                secret_key=name_sources(_KEY_VARIABLES[1]),
                keys=name_sources(*_KEY_VARIABLES),
                payer=name_sources(PAYER_VARIABLE),
            )
    if status == http.client.FORBIDDEN:
        return _denied_reason(err, message, bucket)
    return (
        f"the service returned {status} ({message}). "
        f"Check the bucket and {endpoint_url()}, and run again"
    )


def _denied_reason(err: Exception, message: str, bucket: str) -> str:
    """Return the reason and the advice for a 403 without a special code."""
    if _response(err).get("ResponseMetadata", {}).get(ANONYMOUS):
        return (
            f"no S3 credentials were found, and {bucket} does not allow this to everyone "
            f"({message}). {_login_advice()}"
        )
    # The service does not say that the requester would have to pay.
    is_payer = os.environ.get(PAYER_VARIABLE, "") == "requester"
    payer = f"; if it is a requester-pays bucket, set {name_sources(PAYER_VARIABLE)} to requester"
    return (
        f"access is denied ({message}). Allow {_PERMISSIONS} on {bucket}{'' if is_payer else payer}"
    )


def _login_advice() -> str:
    return advise(
        on_machine="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure` or "
        "`aws sso login`",
        in_pod=f"Check {name_sources(*_KEY_VARIABLES)}, or give the run's service account a role",
    )


def _endpoint_advice() -> str:
    source = name_sources(_ENDPOINT_VARIABLE)
    return f"Set {source} to the service's address, http://HOST:PORT or https://HOST"


def _network_reason(err: BaseException) -> str:
    """Return the name of the error that the client wraps, e.g. NameResolutionError."""
    details = getattr(err, "kwargs", {})
    inner = details.get("error") or getattr(err, "reason", None)
    return _network_reason(inner) if isinstance(inner, BaseException) else type(err).__name__
