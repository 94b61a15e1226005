"""What the errors of Amazon's client mean to the person who chose the bucket."""

import contextlib
import http.client
import os
import warnings
from collections.abc import Iterator
from typing import Any

from repot.errors import NoBucketError, StorageError
from repot.storage.problems import missing

_LOGIN_CODES = (
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
)
_REGION_CODES = (
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
)
_LOGIN = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, run `aws configure` or `aws sso login`, "
    "or give the pod's service account a role"
)
_ENDPOINT = "Set AWS_ENDPOINT_URL_S3 to the service's address, http://HOST:PORT or https://HOST"


class PreconditionError(StorageError):
    """The object is not as a request wanted it to be."""


class DamagedError(StorageError):
    """Bytes arrived with another checksum than the service announced."""


class UnsupportedError(StorageError):
    """The service does not know what a request asks of it."""


@contextlib.contextmanager
def explained(done: str, uri: str) -> Iterator[None]:
    """Turn an error of the client into one sentence: what cannot be `done` to `uri`, why, and what to do.

    Raises:
        DamagedError: The client found another checksum.
        PreconditionError: The service answered 412.
        UnsupportedError: The service answered 501.
        NotFoundError: There is no such object.
        NoBucketError: There is no such bucket.
        StorageError: Any other failure.
    """
    expected: tuple[type[Exception], ...] = (*failures(), UnicodeEncodeError)
    try:
        yield
    except expected as err:
        if _lacks_object(err, done):
            raise missing(uri) from err
        raise _kind(err, done)(f"{uri} cannot be {done}: {_meaning(err, done, uri)}.") from err


def endpoint() -> str:
    """Return the address of the service, as the environment names it."""
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return named or "https://s3.amazonaws.com"


def no_address(err: Exception) -> StorageError:
    """Return the error of an endpoint or a region that gives no address."""
    return StorageError(
        f"s3:// needs the address of a service; got {endpoint()!r} ({words_of(err)}). {_ENDPOINT}."
    )


def no_service(uri: str) -> StorageError:
    """Return the error of an answer that no S3 service gives."""
    return StorageError(
        f"{uri} cannot be reached: {endpoint()} does not answer as an S3 service. {_ENDPOINT}."
    )


def _kind(err: Exception, done: str) -> type[StorageError]:
    from botocore.exceptions import FlexibleChecksumError

    if isinstance(err, FlexibleChecksumError):
        return DamagedError
    if _lacks_bucket(err, done):
        return NoBucketError
    kinds: dict[int, type[StorageError]] = {
        http.client.PRECONDITION_FAILED: PreconditionError,
        http.client.NOT_IMPLEMENTED: UnsupportedError,
    }
    return kinds.get(status_of(err), StorageError)


def _lacks_object(err: Exception, done: str) -> bool:
    """Return whether a 404 is about the object; the answer to a look has no body that says so."""
    code = code_of(err)
    return (code.startswith("NoSuch") and code != "NoSuchBucket") or (
        code == "404" and done == "looked at"
    )


def _lacks_bucket(err: Exception, done: str) -> bool:
    """Return whether a 404 is about the bucket."""
    code = code_of(err)
    return code == "NoSuchBucket" or (code == "404" and done == "found")


def _meaning(err: Exception, done: str, uri: str) -> str:
    words = words_of(err)
    if isinstance(err, UnicodeEncodeError):
        return "its name is not UTF-8. Rename it"
    if is_of_login(err):
        return f"the S3 credentials are missing or not valid ({words}). {_LOGIN}"
    if status_of(err):
        return _refusal(err, done, "/".join(uri.split("/", 3)[:3]))
    if is_of_network(err):
        return f"{endpoint()} does not answer ({_network_reason(err)}). Check the network, and AWS_ENDPOINT_URL_S3"
    return f"the S3 client refuses ({words}). Correct that, and run again"


def _refusal(err: Exception, done: str, bucket: str) -> str:
    """Return what an error that the service answered means."""
    status, code, words = status_of(err), code_of(err), words_of(err)
    if _lacks_bucket(err, done):
        return f"there is no bucket {bucket} at {endpoint()}. Create it, or correct the name"
    if code in _REGION_CODES:
        return f"the bucket is in another region ({words}). Set AWS_DEFAULT_REGION to the region of {bucket}"
    if code in _LOGIN_CODES or status == http.client.UNAUTHORIZED:
        return f"the S3 credentials are missing or not valid ({words}). {_LOGIN}"
    if status == http.client.FORBIDDEN:
        rights = (
            "s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and s3:ListBucket"
        )
        return f"access is denied ({words}). Allow {rights} on {bucket}"
    return f"the service answered {status} ({words}). Look at the bucket and at {endpoint()}, and run again"


def _network_reason(err: BaseException) -> str:
    """Return the name of the failure below the layers of the client, e.g. NameResolutionError."""
    details = getattr(err, "kwargs", {})
    inner = details.get("error") or getattr(err, "reason", None)
    return _network_reason(inner) if isinstance(inner, BaseException) else type(err).__name__


# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)
_PASSING_CODES = (
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "XAmzContentSHA256Mismatch",
)


def import_library() -> Any:
    """Return the package boto3.

    Raises:
        StorageError: It is not installed.
    """
    try:
        # It warns of Python versions that it will not support for ever.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import boto3
    except ModuleNotFoundError as err:
        raise StorageError(
            "s3:// needs the package boto3, which is missing. Run `pip install 'repot[s3]'`."
        ) from err
    return boto3


def failures() -> tuple[type[Exception], ...]:
    """Return the errors that a request can end with."""
    import_library()
    import urllib3
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return (
        BotoCoreError,
        ClientError,
        ResponseParserError,
        urllib3.exceptions.HTTPError,
        ConnectionError,
    )


def status_of(err: Exception) -> int:
    """Return the HTTP status that the service answered; 0 if it did not answer."""
    return int(_answer(err).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(err: Exception) -> str:
    """Return the service's name for an error; "" if it did not answer."""
    return str(_answer(err).get("Error", {}).get("Code", ""))


def is_of_service(err: Exception) -> bool:
    """Return whether an S3 service answered, and not only some web server that happens to be at its address."""
    return status_of(err) > 0 and not code_of(err).isdecimal()


def words_of(err: Exception) -> str:
    """Return what the service, or else the client, said about it."""
    words = _answer(err).get("Error", {}).get("Message") or err
    return " ".join(str(words)[:300].split()).strip(" .")


def is_passing(err: Exception) -> bool:
    """Return whether a request that failed so may well succeed a little later."""
    from botocore.exceptions import SSLError

    if status_of(err):
        return status_of(err) in _PASSING_STATUS or code_of(err) in _PASSING_CODES
    return is_of_network(err) and not isinstance(err, SSLError)


def is_of_network(err: Exception) -> bool:
    """Return whether the service did not answer, or not to the end."""
    import urllib3
    from botocore import exceptions

    of_client = (
        exceptions.HTTPClientError,
        exceptions.ConnectionError,
        exceptions.IncompleteReadError,
    )
    return isinstance(err, (*of_client, urllib3.exceptions.HTTPError, ConnectionError))


def is_of_login(err: Exception) -> bool:
    """Return whether there are no credentials that could be sent."""
    from botocore import exceptions

    of_login = (
        exceptions.CredentialRetrievalError,
        exceptions.NoAuthTokenError,
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.ProfileNotFound,
        exceptions.SSOError,
        exceptions.TokenRetrievalError,
    )
    return isinstance(err, of_login)


def _answer(err: Exception) -> dict[str, Any]:
    answer = getattr(err, "response", None)
    return answer if isinstance(answer, dict) else {}
