"""Amazon's client library boto3: loaded when the first s3:// is used, and the kinds of its errors."""

import warnings
from typing import Any

from repot.errors import StorageError

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
        raise StorageError("s3:// needs the package boto3, which is missing. Run `pip install 'repot[s3]'`.") from err
    return boto3


def failures() -> tuple[type[Exception], ...]:
    """Return the errors that a request can end with."""
    import_library()
    import urllib3
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return (BotoCoreError, ClientError, ResponseParserError, urllib3.exceptions.HTTPError, ConnectionError)


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

    of_client = (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError)
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
