"""Bytes to and from an S3 service, checked by CRC32C in both directions.

An object that repot writes carries its CRC32C twice: as the service's own checksum, which Amazon's service verifies
before it stores anything, and in the object's metadata, where every service keeps it. Objects that somebody else wrote
are checked by what the service tells: a CRC32C, a CRC32, a SHA, or else their length alone.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
"""

import contextlib
import functools
import http.client
import io
import mimetypes
from collections.abc import Mapping
from typing import Any, BinaryIO

from repot.errors import NotFoundError
from repot.storage.backend import ObjectInfo
from repot.storage.checksums import (
    BLOCK_BYTES,
    crc32c_from_base64,
    crc32c_hex,
    crc32c_to_base64,
    stream_crc32c_hex,
)
from repot.storage.problems import changed, damaged
from repot.storage.s3.client import ask, place
from repot.storage.s3.errors import (
    DamagedError,
    PreconditionError,
    endpoint,
    explained,
    failures,
    no_service,
    status_of,
)

# Up to this much goes in one request, more in several parts.
SINGLE_REQUEST_BYTES = 64 << 20
_NUM_FETCHES = 3
_CRC32C = "repot-crc32c"


def look(uri: str) -> dict[str, Any] | None:
    """Return what the service says about an object without its bytes, or None if there is none."""
    try:
        with explained("looked at", uri):
            answer: dict[str, Any] = ask(
                lambda client: client.head_object(**place(uri), ChecksumMode="ENABLED")
            )
    except NotFoundError:
        _check_bucket(place(uri)["Bucket"], endpoint())
        return None
    return answer


def info_of(uri: str, answer: Mapping[str, Any]) -> ObjectInfo:
    """Return what an answer about an object says; its version is the ETag."""
    if "ETag" not in answer:
        raise no_service(uri)
    size_bytes = answer["Size"] if "Size" in answer else answer["ContentLength"]
    return ObjectInfo(
        uri=uri, size_bytes=size_bytes, crc32c=_crc32c(answer), version=answer["ETag"].strip('"')
    )


def notes_of(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return an object's own metadata; some services change the case of their names."""
    return {name.lower(): value for name, value in answer.get("Metadata", {}).items()}


def fetch(uri: str, file: BinaryIO, *, version: str | None) -> None:
    """Fill an empty file with an object's bytes as they are stored; what got damaged on the way is fetched again.

    Raises:
        NotFoundError: There is no such object, or no longer in that version.
        StorageError: It cannot be read, or arrives damaged again and again.
    """
    for _ in range(_NUM_FETCHES):
        with contextlib.suppress(DamagedError):
            info = info_of(uri, _download(uri, file, version))
            if version is not None and info.version != version:
                raise changed(uri)
            if info.crc32c is None or stream_crc32c_hex(file) == info.crc32c:
                return
    raise damaged(uri, _NUM_FETCHES)


def send(
    uri: str,
    file: BinaryIO,
    *,
    notes: Mapping[str, str] | None = None,
    condition: Mapping[str, str] | None = None,
) -> ObjectInfo:
    """Upload a seekable file.

    Args:
        uri: Where.
        file: What; from its start.
        notes: Metadata to keep beside it.
        condition: IfMatch or IfNoneMatch, as in the service's interface.

    Raises:
        PreconditionError: The condition does not hold.
        StorageError: It cannot be written.
    """
    crc32c, size_bytes = stream_crc32c_hex(file), file.seek(0, io.SEEK_END)
    with explained("written", uri):
        facts = {
            **place(uri),
            "ContentType": mimetypes.guess_type(uri)[0] or "application/octet-stream",
            "Metadata": {_CRC32C: crc32c, **(notes or {})},
            "ChecksumAlgorithm": "CRC32C",
        }
        if size_bytes > SINGLE_REQUEST_BYTES:
            answer = send_parts(file, size_bytes, facts, condition or {})
        else:
            answer = _put(
                file, facts | {"ChecksumCRC32C": crc32c_to_base64(crc32c), **(condition or {})}
            )
    return info_of(uri, {**answer, "Size": size_bytes, "Metadata": facts["Metadata"]})


def _put(file: BinaryIO, facts: Mapping[str, Any]) -> dict[str, Any]:
    def request(client: Any) -> dict[str, Any]:
        file.seek(0)
        answer: dict[str, Any] = client.put_object(Body=file, **facts)
        return answer

    return ask(request)


def _download(uri: str, file: BinaryIO, version: str | None) -> dict[str, Any]:
    condition = {} if version is None else {"IfMatch": f'"{version}"'}

    def request(client: Any) -> dict[str, Any]:
        file.seek(0)
        file.truncate()
        answer: dict[str, Any] = client.get_object(
            **place(uri), ChecksumMode="ENABLED", **condition
        )
        with contextlib.closing(answer["Body"]) as body:
            file.writelines(body.iter_chunks(BLOCK_BYTES))
        return answer

    try:
        with explained("read", uri):
            return ask(request)
    except (NotFoundError, PreconditionError) as err:
        if version is None:
            raise
        raise changed(uri) from err


def _crc32c(answer: Mapping[str, Any]) -> str | None:
    """Return the CRC32C of an object's bytes, if the service told it; of parts it may tell that of their CRC32Cs."""
    is_whole = "-" not in answer["ETag"] or answer.get("ChecksumType") == "FULL_OBJECT"
    own = answer.get("ChecksumCRC32C") if is_whole else None
    return notes_of(answer).get(_CRC32C) or (crc32c_from_base64(own) if own else None)


@functools.lru_cache
def _check_bucket(bucket: str, _endpoint: str) -> None:
    """Raise StorageError if there is no such bucket: that an object is not found does not tell."""
    with explained("found", f"s3://{bucket}"):
        try:
            ask(lambda client: client.head_bucket(Bucket=bucket))
        except failures() as err:
            if status_of(err) != http.client.FORBIDDEN:
                raise


PART_BYTES = 64 << 20
_MAX_PARTS = 10_000


def send_parts(
    file: BinaryIO, size_bytes: int, facts: Mapping[str, Any], condition: Mapping[str, str]
) -> dict[str, Any]:
    """Upload a seekable file in parts, each with its CRC32C.

    Args:
        file: What; from its start.
        size_bytes: Its size.
        facts: Arguments of the request that begins the upload; they name the object.
        condition: IfMatch or IfNoneMatch, of the request that ends it.

    Returns:
        The service's answer to the last request.
    """
    place = {name: facts[name] for name in ("Bucket", "Key")}
    begun = ask(lambda client: client.create_multipart_upload(**facts))
    upload = {**place, "UploadId": begun["UploadId"]}
    try:
        parts = _send_each(file, size_bytes, upload)
        ending = {**upload, "MultipartUpload": {"Parts": parts}, **condition}
        answer: dict[str, Any] = ask(lambda client: client.complete_multipart_upload(**ending))
    except BaseException:
        with contextlib.suppress(*failures()):
            ask(lambda client: client.abort_multipart_upload(**upload))
        raise
    return answer


def _send_each(file: BinaryIO, size_bytes: int, upload: Mapping[str, str]) -> list[dict[str, Any]]:
    part_bytes = max(PART_BYTES, -(-size_bytes // _MAX_PARTS))
    file.seek(0)
    sent: list[dict[str, Any]] = []
    while data := file.read(part_bytes):
        sent.append(_send_part(data, len(sent) + 1, upload))
    return sent


def _send_part(data: bytes, number: int, upload: Mapping[str, str]) -> dict[str, Any]:
    checksum = {"ChecksumCRC32C": crc32c_to_base64(crc32c_hex(data))}
    facts = {**upload, **checksum, "PartNumber": number, "ChecksumAlgorithm": "CRC32C"}
    answer = ask(lambda client: client.upload_part(Body=data, **facts))
    return {"PartNumber": number, "ETag": answer["ETag"], **checksum}
