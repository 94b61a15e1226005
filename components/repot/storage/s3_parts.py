"""Large files to an S3 service in parts, of which one is in memory; nothing is there before the last has come.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

import contextlib
from collections.abc import Mapping
from typing import Any, BinaryIO

from repot.storage.checksums import crc32c_hex, crc32c_to_base64
from repot.storage.s3_client import ask
from repot.storage.s3_library import failures

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
