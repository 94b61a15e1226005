"""The S3 client of this process.

The configuration is that of all of Amazon's tools: credentials come from the environment, a file,
or the pod's service account. AWS_ENDPOINT_URL_S3 (or AWS_ENDPOINT_URL) selects another service
than Amazon's, such as MinIO or SeaweedFS. AWS_DEFAULT_REGION (or AWS_REGION) is its region, by
default us-east-1. AWS_REQUEST_PAYER=requester reads requester-pays buckets.
"""

import http.client
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from repot.storage.retries import (
    CONNECT_SECONDS,
    NUM_CONNECTIONS,
    THROTTLED_STATUSES,
    ServiceState,
    call_with_retries,
    use_own_generator,
)
from repot.storage.s3.errors import (
    ANONYMOUS,
    CA_VARIABLES,
    PAYER_VARIABLE,
    client_errors,
    endpoint_url,
    import_boto3,
    invalid_endpoint_error,
    is_s3_response,
    is_throttled,
    is_transient,
    response_header,
)
from repot.storage.uris import split_bucket
from repot.tls import find_ca_bundle

# Another region, or another kind of signature than the client's.
_WRONG_ADDRESS_STATUSES = (
    http.client.MOVED_PERMANENTLY,
    http.client.TEMPORARY_REDIRECT,
    http.client.BAD_REQUEST,
    http.client.FORBIDDEN,
)
_DEFAULT_REGION = "us-east-1"

_log = logging.getLogger(__name__)
_state = ServiceState()
_T = TypeVar("_T")


def client() -> Any:
    """Return this process's boto3 client, created on first use.

    Raises:
        StorageError: boto3 is not installed, or the endpoint is not a valid address.
    """
    key = (endpoint_url(), _state.read_seconds)
    with _state.lock:
        if key not in _state.clients:
            _state.clients[key] = _new_client(read_seconds=key[1])
        return _state.clients[key]


def is_amazon() -> bool:
    """Return whether the service is Amazon's own, which supports conditional writes reliably."""
    return _is_amazon(client())


def bucket_and_key(uri: str) -> dict[str, str]:
    """Return the arguments of a request that identify an object.

    Raises:
        UnicodeEncodeError: The name is not UTF-8; the service cannot store it.
    """
    bucket, name = split_bucket(uri)
    name.encode()
    return {"Bucket": bucket, "Key": name}


def request(call: Callable[[Any], _T]) -> _T:
    """Return the result of `call(client)`, which makes one request; transient errors are retried.

    Each attempt gets the current client: after the first response its time limit is longer.
    """
    return call_with_retries(
        lambda: call(client()),
        _state,
        errors=client_errors(),
        is_transient=is_transient,
        is_response=is_s3_response,
        is_throttled=is_throttled,
        retry_after=lambda err: response_header(err, "retry-after"),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectResponse:
    """The complete body of a response, and its headers, whose names ignore case."""

    headers: Mapping[str, str]
    body: bytes


def get_directly(uri: str, *, version: str, byte_range: str = "") -> DirectResponse | None:
    """Return an object's stored bytes by one request that does without the client's machinery.

    That costs half of the CPU time of a download by the client, which is as much as decoding a
    small picture costs. Connections, addresses and signatures are the client's. Whatever is
    unusual, such as a bucket in another region or any failure, is left to the client and its
    retries.

    Args:
        uri: The object.
        version: Its ETag.
        byte_range: The range of bytes, such as "0-99"; "" for all.

    Returns:
        The response; None if the client has to make the request.
    """
    from botocore.awsrequest import AWSRequest
    from botocore.utils import percent_encode

    bucket, name = split_bucket(uri)
    headers = {"If-Match": f'"{version}"', "x-amz-checksum-mode": "ENABLED"}
    if byte_range:
        headers["Range"] = f"bytes={byte_range}"
    expected: tuple[type[Exception], ...] = (*client_errors(), UnicodeEncodeError)
    sent = _state.limit.start()
    is_complete = False
    try:
        boto_client = client()
        transport, address = _transport(boto_client), _bucket_address(boto_client, bucket)
        if transport is None or not address:
            return None
        sign, send = transport
        url = address + percent_encode(name, safe="/~")
        unsigned = AWSRequest(method="GET", url=url, headers=headers)
        sign("GetObject", unsigned)
        response = send(unsigned.prepare())
        is_complete = response.status_code == (
            http.client.PARTIAL_CONTENT if byte_range else http.client.OK
        )
        if response.status_code in THROTTLED_STATUSES:
            _state.limit.lower(sent, pause_seconds=0.0)
        elif response.status_code in _WRONG_ADDRESS_STATUSES:
            _addresses(boto_client)[bucket] = ""
        body = response.content if is_complete else b""
    except expected:
        return None
    finally:
        _state.limit.end(sent, succeeded=is_complete)
    return DirectResponse(headers=response.headers, body=body) if is_complete else None


def _transport(boto_client: Any) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Return the functions by which the client signs and sends a request.

    boto3 has no public names for them: None if a newer release has others.
    """
    signer = getattr(boto_client, "_request_signer", None)
    session = getattr(getattr(boto_client, "_endpoint", None), "http_session", None)
    sign, send = getattr(signer, "sign", None), getattr(session, "send", None)
    return (sign, send) if sign and send else None


def _bucket_address(boto_client: Any, bucket: str) -> str:
    """Return what the URLs of a bucket's objects begin with; "" if only the client knows."""
    addresses = _addresses(boto_client)
    if bucket not in addresses:
        arguments = {"Bucket": bucket, "Key": "x"}
        url = boto_client.generate_presigned_url("get_object", Params=arguments)
        path = url.partition("?")[0]
        # Directory buckets need credentials of their own.
        is_usual = path.endswith("/x") and not bucket.endswith("--x-s3")
        addresses[bucket] = path.removesuffix("x") if is_usual else ""
    return addresses[bucket]


def _addresses(boto_client: Any) -> dict[str, str]:
    """Return the known addresses of buckets, which are those of one client."""
    addresses: dict[str, str] = boto_client.__dict__.setdefault("repot_addresses", {})
    return addresses


def _new_client(*, read_seconds: float) -> Any:
    """Return a client with virtual-host addresses for Amazon's service, else with path addresses.

    Few other services have a DNS name for each bucket.
    """
    session = import_boto3().session.Session()
    from botocore import UNSIGNED, retryhandler

    # The pauses before a repeated request for the credentials of a role.
    use_own_generator(retryhandler)
    ca_bundle = find_ca_bundle(*CA_VARIABLES)
    if ca_bundle is not None and session._session.get_config_variable("ca_bundle") is None:
        session._session.set_config_variable("ca_bundle", ca_bundle)
    is_anonymous = session.get_credentials() is None
    # Without any credentials, requests are anonymous: a public bucket can be read.
    options = {
        "read_timeout": read_seconds,
        "signature_version": UNSIGNED if is_anonymous else None,
    }
    new_client = _client_with_addressing(session, "auto", options)
    if not _is_amazon(new_client):
        new_client = _client_with_addressing(session, "path", options)
    if is_anonymous:
        _log.warning("No S3 credentials were found; only public buckets can be read.")
        new_client.meta.events.register("after-call.s3", _on_anonymous_response)
    new_client.meta.events.register("before-sign.s3", _add_payer)
    return new_client


def _client_with_addressing(session: Any, style: str, options: Mapping[str, Any]) -> Any:
    from botocore.config import Config

    config = Config(
        **options,
        connect_timeout=CONNECT_SECONDS,
        max_pool_connections=NUM_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 1},
        s3={"addressing_style": style},
        # Older releases of other services store the framing of a trailing checksum as data.
        request_checksum_calculation="when_required",
    )
    region = session.region_name or os.environ.get("AWS_REGION") or _DEFAULT_REGION
    try:
        return session.client("s3", region_name=region, config=config)
    except ValueError as err:
        raise invalid_endpoint_error(err) from err


def _on_anonymous_response(http_response: Any, parsed: dict[str, Any], **_details: Any) -> None:
    """Note in a response that the request was anonymous: the service's error does not say so."""
    parsed.setdefault("ResponseMetadata", {})[ANONYMOUS] = True
    if http_response.status_code == http.client.FORBIDDEN:
        # The next request looks for credentials again: the metadata server of a new pod may respond
        # by now.
        _state.clients.clear()


def _add_payer(request: Any, **_details: Any) -> None:
    """Agree to pay for the request, if PAYER_VARIABLE says so."""
    if os.environ.get(PAYER_VARIABLE):
        request.headers["x-amz-request-payer"] = os.environ[PAYER_VARIABLE]


def _is_amazon(boto_client: Any) -> bool:
    host = urlsplit(boto_client.meta.endpoint_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
