"""Downloads and uploads of an S3 service, verified by CRC32C in both directions.

An object that repot writes carries its CRC32C twice: as the service's own checksum, which Amazon's
service verifies before it stores the object, and in the object's metadata, which every service
keeps. Objects that other programs wrote are verified by what the service offers: a CRC32C, a
CRC32, a SHA, or only the length.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
"""

import base64
import contextlib
import dataclasses
import functools
import hashlib
import http.client
import io
import mimetypes
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from repot.errors import NotFoundError
from repot.storage import plain_http
from repot.storage.backend import ObjectInfo, changed_error, damaged_error
from repot.storage.checksums import (
    BLOCK_BYTES,
    ChecksummedFile,
    crc32c_from_base64,
    crc32c_hex,
    crc32c_to_base64,
    stream_crc32c_hex,
)
from repot.storage.s3.client import bucket_and_key, request
from repot.storage.s3.direct import get_directly, head_directly
from repot.storage.s3.errors import (
    DamagedError,
    ETagMismatchError,
    client_errors,
    convert_s3_errors,
    endpoint_url,
    http_status,
    not_s3_service_error,
)

# An upload of up to this size is one request, a larger one is a multipart upload.
SINGLE_REQUEST_BYTES = 64 << 20
PART_BYTES = 16 << 20
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_MAX_PARTS = 10_000
_NUM_DOWNLOADS = 3
_CRC32C = "repot-crc32c"
_UNEXPLAINED_STATUSES = (
    http.client.MOVED_PERMANENTLY,
    http.client.BAD_REQUEST,
    http.client.FORBIDDEN,
)

Response = dict[str, Any]
"""The parsed response of boto3 to a request."""
Arguments = Mapping[str, Any]
"""The arguments of a boto3 request."""


def find_object(uri: str) -> Response | None:
    """Return the service's metadata of an object, or None if it does not exist."""
    try:
        with convert_s3_errors("looked up", uri):
            response: Response = request(lambda client: _head_object(client, uri))
    except NotFoundError:
        _check_bucket(bucket_and_key(uri)["Bucket"], endpoint_url())
        return None
    return response


def to_object_info(uri: str, response: Response) -> ObjectInfo:
    """Return the state of an object from a response or a listing entry."""
    if "ETag" not in response:
        raise not_s3_service_error(uri)
    size_bytes = response["Size"] if "Size" in response else response["ContentLength"]
    return ObjectInfo(
        uri=uri,
        size_bytes=size_bytes,
        crc32c=_crc32c(response),
        version=response["ETag"].strip('"'),
        has_crc32c=_has_crc32c(response),
        stamp=f" {size_bytes} {_modified_seconds(response)}",
    )


def _modified_seconds(response: Response) -> int:
    return int(response["LastModified"].timestamp()) if "LastModified" in response else 0


def user_metadata(response: Response) -> dict[str, str]:
    """Return an object's user metadata with lower-case names; some services change their case."""
    return {name.lower(): value for name, value in response.get("Metadata", {}).items()}


def read_directly(uri: str, *, version: str) -> tuple[bytes, ObjectInfo, str | None] | None:
    """Return the stored bytes of a small object, its state and its Content-Encoding.

    Returns:
        None if the client has to read it: see `repot.storage.s3.direct`; or the bytes are damaged.
    """
    response = get_directly(uri, version=version)
    if response is None:
        return None
    info = _direct_info(uri, response)
    crc32c = crc32c_hex(response.body)
    # A service may ignore the condition of the request.
    is_right = info.version == version and info.crc32c in (None, crc32c) and _is_intact(response)
    if not is_right:
        return None
    encoding = response.headers.get("content-encoding")
    return response.body, dataclasses.replace(info, crc32c=crc32c), encoding


def find_crc32c(uri: str, *, version: str) -> str | None:
    """Return the CRC32C of an object from its metadata; None if the object must be read for it.

    Raises:
        StorageError: The object cannot be looked up.
    """
    response = head_directly(uri, version=version)
    if response is not None:
        info = _direct_info(uri, response)
    else:
        found = find_object(uri)
        if found is None:
            return None
        info = to_object_info(uri, found)
    return info.crc32c if info.version == version else None


def download_to_file(
    uri: str, file: BinaryIO, *, version: str | None
) -> tuple[ObjectInfo, str | None]:
    """Fill an empty file with an object's stored bytes; a damaged download is repeated.

    Returns:
        The state of the object that the bytes are from, and its Content-Encoding.

    Raises:
        NotFoundError: The object does not exist, or no longer has that version.
        StorageError: It cannot be read, or every download is damaged.
    """
    target = ChecksummedFile(file)
    for _ in range(_NUM_DOWNLOADS):
        with contextlib.suppress(DamagedError):
            response = _download(uri, target, version)
            info = to_object_info(uri, response)
            # A service may ignore the condition of the request.
            if version is not None and info.version != version:
                raise changed_error(uri)
            crc32c = target.crc32c_hex()
            if info.crc32c in (None, crc32c):
                return dataclasses.replace(info, crc32c=crc32c), response.get("ContentEncoding")
    raise damaged_error(uri, _NUM_DOWNLOADS)


def download_range(uri: str, *, offset: int, num_bytes: int, version: str | None) -> bytes:
    """Return a range of an object's stored bytes.

    Raises:
        NotFoundError: The object does not exist, or no longer has that version.
        StorageError: It cannot be read.
    """
    condition = {} if version is None else {"IfMatch": f'"{version}"'}
    if version is not None:
        byte_range = f"{offset}-{offset + num_bytes - 1}"
        direct = get_directly(uri, version=version, byte_range=byte_range)
        if direct and _direct_info(uri, direct).version == version:
            return direct.body

    def get_range(client: Any) -> tuple[Response, bytes]:
        response: Response = client.get_object(
            **bucket_and_key(uri), Range=f"bytes={offset}-{offset + num_bytes - 1}", **condition
        )
        with contextlib.closing(response["Body"]) as body:
            return response, body.read()

    try:
        with convert_s3_errors("read", uri):
            response, data = request(get_range)
    except (NotFoundError, ETagMismatchError) as err:
        if version is None:
            raise
        raise changed_error(uri) from err
    # A service may ignore the condition of the request.
    if version is not None and to_object_info(uri, response).version != version:
        raise changed_error(uri)
    return data


def upload_from_file(
    uri: str,
    file: BinaryIO,
    *,
    metadata: Mapping[str, str] | None = None,
    condition: Mapping[str, str] | None = None,
) -> ObjectInfo:
    """Upload a whole seekable file.

    Args:
        uri: The object.
        file: Its new content.
        metadata: User metadata to store with the object.
        condition: The request's IfMatch or IfNoneMatch argument.

    Raises:
        ETagMismatchError: The condition does not hold.
        UnsupportedError: The service does not support conditions.
        StorageError: It cannot be written.
    """
    crc32c, size_bytes = stream_crc32c_hex(file), file.seek(0, io.SEEK_END)
    condition = condition or {}
    try:
        with convert_s3_errors("written", uri):
            arguments = {
                **bucket_and_key(uri),
                "ContentType": mimetypes.guess_type(uri)[0] or "application/octet-stream",
                "Metadata": {_CRC32C: crc32c, **(metadata or {})},
                "ChecksumAlgorithm": "CRC32C",
            }
            if size_bytes > SINGLE_REQUEST_BYTES:
                response = _upload_parts(file, size_bytes, arguments, condition)
            else:
                checksum = {"ChecksumCRC32C": crc32c_to_base64(crc32c)}
                response = _upload_once(file, {**arguments, **checksum, **condition})
    except NotFoundError:
        # The upload is gone if it was completed and the response was lost. With a condition, the
        # caller finds out whose object it is.
        stored = None if condition else find_object(uri)
        if stored is None or (_crc32c(stored), stored["ContentLength"]) != (crc32c, size_bytes):
            raise
        return to_object_info(uri, stored)
    return to_object_info(uri, {**response, "Size": size_bytes, "Metadata": arguments["Metadata"]})


def _head_object(client: Any, uri: str) -> Response:
    """Return the response to a HEAD request; if it is refused, raise the error of a GET request.

    An error response to HEAD has no body, so it does not say what is wrong.
    """
    try:
        response: Response = client.head_object(**bucket_and_key(uri), ChecksumMode="ENABLED")
    except client_errors() as err:
        if http_status(err) in _UNEXPLAINED_STATUSES:
            client.get_object(**bucket_and_key(uri), Range="bytes=0-0")["Body"].close()
        raise
    return response


def _has_crc32c(response: Response) -> bool:
    """Return whether the service has a CRC32C of the whole object; a listing has no values."""
    is_of_object = "-" not in response["ETag"] or response.get("ChecksumType") == "FULL_OBJECT"
    has_any = "ChecksumCRC32C" in response or "CRC32C" in response.get("ChecksumAlgorithm", ())
    return is_of_object and has_any


def _crc32c(response: Response) -> str | None:
    """Return the CRC32C of an object's bytes, if the response has it.

    For a multipart upload, the service's value may be the CRC32C of the parts' CRC32Cs instead.
    """
    service_crc32c = response.get("ChecksumCRC32C") if _has_crc32c(response) else None
    own_crc32c = user_metadata(response).get(_CRC32C)
    return own_crc32c or (crc32c_from_base64(service_crc32c) if service_crc32c else None)


@functools.lru_cache
def _check_bucket(bucket: str, _endpoint_url: str) -> None:
    """Raise NoBucketError if the bucket does not exist; a 404 for an object does not tell.

    Cached, so that missing objects cost one request each.
    """
    with convert_s3_errors("found", f"s3://{bucket}"):
        try:
            request(lambda client: client.head_bucket(Bucket=bucket))
        except client_errors() as err:
            # Access to objects does not require access to the bucket itself.
            if http_status(err) != http.client.FORBIDDEN:
                raise


def _direct_info(uri: str, direct: plain_http.Response) -> ObjectInfo:
    """Return the state of an object from the response to a direct request."""
    headers = direct.headers
    response = {
        "ETag": headers.get("etag", ""),
        "ContentLength": len(direct.body),
        "ChecksumCRC32C": headers.get("x-amz-checksum-crc32c"),
        "ChecksumType": headers.get("x-amz-checksum-type"),
        "Metadata": {_CRC32C: crc32c} if (crc32c := headers.get(f"x-amz-meta-{_CRC32C}")) else None,
    }
    present = {name: value for name, value in response.items() if value is not None}
    return to_object_info(uri, present)


def _is_intact(direct: plain_http.Response) -> bool:
    """Return whether the body has the checksums that the service announced, as the client checks.

    A CRC32C is compared elsewhere. The value for an object of several parts may be that of their
    checksums, which says so by a dash.
    """
    for name, compute in _CHECKSUMS.items():
        announced = direct.headers.get(f"x-amz-checksum-{name}", "-")
        if "-" not in announced and base64.b64encode(compute(direct.body)).decode() != announced:
            return False
    return True


_CHECKSUMS: dict[str, Callable[[bytes], bytes]] = {
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "sha1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}


def _download(uri: str, file: ChecksummedFile, version: str | None) -> Response:
    condition = {} if version is None else {"IfMatch": f'"{version}"'}

    def get_object(client: Any) -> Response:
        file.restart()
        response: Response = client.get_object(
            **bucket_and_key(uri), ChecksumMode="ENABLED", **condition
        )
        with contextlib.closing(response["Body"]) as body:
            for block in body.iter_chunks(BLOCK_BYTES):
                file.write(block)
        return response

    try:
        with convert_s3_errors("read", uri):
            return request(get_object)
    except (NotFoundError, ETagMismatchError) as err:
        if version is None:
            raise
        raise changed_error(uri) from err


def _upload_once(file: BinaryIO, arguments: Arguments) -> Response:
    def put_object(client: Any) -> Response:
        file.seek(0)
        response: Response = client.put_object(Body=file, **arguments)
        return response

    return request(put_object)


def _upload_parts(
    file: BinaryIO, size_bytes: int, arguments: Arguments, condition: Mapping[str, str]
) -> Response:
    """Upload a seekable file as a multipart upload, and abort the upload on failure.

    Args:
        file: The content.
        size_bytes: Its size.
        arguments: Arguments of the first request; they include Bucket and Key.
        condition: IfMatch or IfNoneMatch argument of the last request.

    Returns:
        The response to the last request.
    """
    created = request(lambda client: client.create_multipart_upload(**arguments))
    upload = {"Bucket": arguments["Bucket"], "Key": arguments["Key"]}
    upload["UploadId"] = created["UploadId"]
    part_bytes = max(PART_BYTES, -(-size_bytes // _MAX_PARTS))
    try:
        file.seek(0)
        parts: list[Response] = []
        while data := file.read(part_bytes):
            parts.append(_upload_part(data, len(parts) + 1, upload))
        last_arguments = {**upload, "MultipartUpload": {"Parts": parts}, **condition}
        response: Response = request(
            lambda client: client.complete_multipart_upload(**last_arguments)
        )
    except BaseException:
        with contextlib.suppress(*client_errors()):
            request(lambda client: client.abort_multipart_upload(**upload))
        raise
    return response


def _upload_part(data: bytes, number: int, upload: Mapping[str, str]) -> Response:
    """Upload one part, and return its entry in the list of parts of the last request."""
    checksum = {"ChecksumCRC32C": crc32c_to_base64(crc32c_hex(data))}
    arguments = {**upload, **checksum, "PartNumber": number, "ChecksumAlgorithm": "CRC32C"}
    response = request(lambda client: client.upload_part(Body=data, **arguments))
    return {"PartNumber": number, "ETag": response["ETag"], **checksum}
