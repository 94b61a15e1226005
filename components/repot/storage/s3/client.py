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
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from repot.storage.plain_http import Server
from repot.storage.retries import (
    CONNECT_SECONDS,
    NUM_CONNECTIONS,
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

_DEFAULT_REGION = "us-east-1"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

state = ServiceState()
"""What this process knows of the service."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketAddress:
    """Where the objects of a bucket are: a server, and what their paths begin with."""

    server: Server
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """The client of an endpoint, and what `repot.storage.s3.direct` makes its requests with.

    Attributes:
        client: The boto3 client.
        credentials: Its botocore.credentials.Credentials; None for anonymous requests.
        ca_path: File or folder of the certificate authorities that it trusts.
        has_usual_signatures: Whether requests are signed in version 4, or not at all.
        addresses: The address of each bucket; None for one that only the client can read.
    """

    client: Any
    credentials: Any
    ca_path: str
    has_usual_signatures: bool
    addresses: dict[str, BucketAddress | None] = field(default_factory=dict)


def connection() -> Connection:
    """Return this process's connection, created on first use.

    Raises:
        StorageError: boto3 is not installed, or the endpoint is not a valid address.
    """
    key = (endpoint_url(), state.read_seconds)
    with state.lock:
        # Another thread may clear the clients at any moment.
        connected: Connection | None = state.clients.get(key)
        if connected is None:
            connected = state.clients[key] = _new_connection(read_seconds=key[1])
        return connected


def client() -> Any:
    """Return this process's boto3 client, created on first use; otherwise as `connection`."""
    return connection().client


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
        state,
        errors=client_errors(),
        is_transient=is_transient,
        is_response=is_s3_response,
        is_throttled=is_throttled,
        retry_after=lambda err: response_header(err, "retry-after"),
    )


def payer_headers() -> dict[str, str]:
    """Return the header by which a request agrees to be paid for, if PAYER_VARIABLE says so."""
    payer = os.environ.get(PAYER_VARIABLE)
    return {"x-amz-request-payer": payer} if payer else {}


def is_amazon_host(host: str) -> bool:
    """Return whether a host is Amazon's."""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _new_connection(*, read_seconds: float) -> Connection:
    """Return a client with virtual-host addresses for Amazon's service, else with path addresses.

    Few other services have a DNS name for each bucket.
    """
    session = import_boto3().session.Session()
    parsers = session._session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_parse_time)
    from botocore import UNSIGNED, retryhandler
    from botocore.httpsession import get_cert_path

    # The pauses before a repeated request for the credentials of a role.
    use_own_generator(retryhandler)
    ca_bundle = find_ca_bundle(*CA_VARIABLES)
    if ca_bundle is not None and session._session.get_config_variable("ca_bundle") is None:
        session._session.set_config_variable("ca_bundle", ca_bundle)
    credentials = session.get_credentials()
    is_anonymous = credentials is None
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
    return Connection(
        client=new_client,
        credentials=credentials,
        ca_path=session._session.get_config_variable("ca_bundle") or get_cert_path(verify=True),
        has_usual_signatures=new_client.meta.config.signature_version in ("s3v4", UNSIGNED),
    )


def _parse_time(text: str) -> datetime:
    """Return a time of a response; botocore takes longer for it than for all else in a listing."""
    from botocore.utils import parse_timestamp

    # As in listings: 2026-01-01T00:00:00.000Z.
    is_iso = text[10:11] == "T" and text.endswith("Z")
    time: datetime = datetime.fromisoformat(text) if is_iso else parse_timestamp(text)
    return time


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
        state.clients.clear()


def _add_payer(request: Any, **_details: Any) -> None:
    """Agree to pay for the request, if PAYER_VARIABLE says so."""
    for name, value in payer_headers().items():
        request.headers[name] = value


def _is_amazon(boto_client: Any) -> bool:
    return is_amazon_host(urlsplit(boto_client.meta.endpoint_url).hostname or "")
