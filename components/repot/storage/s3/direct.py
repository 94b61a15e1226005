"""Reads of S3 objects by one plain request each, addressed and signed here.

boto3 takes 0.8 ms of processor time for a small object: for events, parameters, parsing, and a
signature whose key it derives again for every request. Here it is a tenth of that. Only a complete
response to a request at the usual address counts. Other regions, directory buckets, proxies, other
kinds of signatures and all errors are left to the client.
"""

import functools
import hashlib
import hmac
import http.client
import time
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from repot.storage.plain_http import Response, Server, is_behind_proxy, send_within_limit
from repot.storage.s3.client import (
    BucketAddress,
    Connection,
    connection,
    is_amazon_host,
    payer_headers,
    state,
)
from repot.storage.s3.errors import client_errors
from repot.storage.uris import split_bucket

# Another region, or another kind of signature than this module's.
_WRONG_ADDRESS_STATUSES = (
    http.client.MOVED_PERMANENTLY,
    http.client.TEMPORARY_REDIRECT,
    http.client.BAD_REQUEST,
    http.client.FORBIDDEN,
)
_DIRECTORY_BUCKET = "--x-s3"
_ALGORITHM = "AWS4-HMAC-SHA256"
_NO_BODY = hashlib.sha256(b"").hexdigest()


def get_directly(uri: str, *, version: str, byte_range: str = "") -> Response | None:
    """Return an object's stored bytes by one request.

    Args:
        uri: The object.
        version: Its ETag.
        byte_range: The range of bytes, such as "0-99"; "" for all.

    Returns:
        The complete response; None if the client has to make the request.
    """
    return _request(uri, {"range": f"bytes={byte_range}"} if byte_range else {}, version=version)


def head_directly(uri: str, *, version: str) -> Response | None:
    """Return an object's headers by one request; otherwise as `get_directly`."""
    return _request(uri, {}, version=version, has_body=False)


def _request(
    uri: str, headers: Mapping[str, str], *, version: str, has_body: bool = True
) -> Response | None:
    bucket, name = split_bucket(uri)
    connected = connection()

    def send() -> Response | None:
        if bucket not in connected.addresses:
            with state.lock:
                # Certificates take a while to load: once is enough for all threads.
                if bucket not in connected.addresses:
                    connected.addresses[bucket] = find_address(connected, bucket)
        address = connected.addresses[bucket]
        if address is None:
            return None
        sent = {
            "if-match": f'"{version}"',
            "x-amz-checksum-mode": "ENABLED",
            **headers,
            **payer_headers(),
        }
        # As botocore encodes it.
        path = address.path + quote(name, safe="/~")
        if connected.credentials is not None:
            keys = connected.credentials.get_frozen_credentials()
            sent = sign(
                sent,
                method="GET" if has_body else "HEAD",
                host=address.server.host,
                path=path,
                region=connected.client.meta.region_name,
                access_key=keys.access_key,
                secret_key=keys.secret_key,
                token=keys.token or "",
                now=time.time(),
            )
        return address.server.get(path, sent, read_seconds=state.read_seconds, has_body=has_body)

    try:
        response = send_within_limit(send, state)
    except client_errors():
        return None
    if response is None:
        return None
    if response.status in _WRONG_ADDRESS_STATUSES:
        connected.addresses[bucket] = None
    return response if response.is_answer(to_range="range" in headers) else None


def find_address(connected: Connection, bucket: str) -> BucketAddress | None:
    """Return where the client finds the objects of a bucket; None if only the client can read them.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html
    """
    url = connected.client.meta.endpoint_url
    # Directory buckets need credentials of their own.
    if (
        bucket.endswith(_DIRECTORY_BUCKET)
        or not connected.has_usual_signatures
        or is_behind_proxy(url)
    ):
        return None
    parts = urlsplit(url)
    path = f"{parts.path.rstrip('/')}/"
    # The service's certificate covers no name with one more dot.
    if is_amazon_host(parts.hostname or "") and "." not in bucket:
        url = f"{parts.scheme}://{bucket}.{parts.netloc}"
    else:
        path += f"{bucket}/"
    try:
        return BucketAddress(server=Server(url, ca_path=connected.ca_path), path=path)
    except (OSError, ValueError):
        return None


def sign(
    headers: Mapping[str, str],
    *,
    method: str,
    host: str,
    path: str,
    region: str,
    access_key: str,
    secret_key: str,
    token: str,
    now: float,
) -> dict[str, str]:
    """Return the headers of a request without a body with those that sign it.

    Args:
        headers: Headers by lower-case name, without Host.
        method: GET or HEAD.
        host: The value of Host.
        path: The percent-encoded path.
        region: The region of the bucket.
        access_key, secret_key: The keys.
        token: Their session token; "" for permanent keys.
        now: Seconds since 1970.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    sent = {**headers, "x-amz-content-sha256": _NO_BODY, "x-amz-date": moment}
    if token:
        sent["x-amz-security-token"] = token
    signed = sorted([*sent.items(), ("host", host)])
    lines = "".join(f"{name}:{value}\n" for name, value in signed)
    names = ";".join(name for name, _ in signed)
    canonical = f"{method}\n{path}\n\n{lines}\n{names}\n{_NO_BODY}"
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}"
    signature = _hmac(_signing_key(secret_key, moment[:8], region), text).hex()
    sent["authorization"] = (
        f"{_ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={names}, "
        f"Signature={signature}"
    )
    return sent


@functools.lru_cache(maxsize=8)
def _signing_key(secret_key: str, day: str, region: str) -> bytes:
    """Return the key that signs all requests of a day."""
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
