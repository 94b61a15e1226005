"""Writes that must not come second: create-only writes and swaps.

Amazon's service compares and writes in one step. Others do so since a certain release (MinIO 2024, SeaweedFS 4.18, of
March 2026), compare first and write later (SeaweedFS 3.97), or ignore what they are asked (both, earlier). On those, a
write is looked at again after a while: every such write leaves its name in the object's metadata, behind the names of
the writes that it builds on, so that one whose name is gone knows that another overtook it. Of writes that race, the
one that stays is the only one that is told that it won, as long as each takes less than that while.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

import io
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from repot.errors import NotFoundError
from repot.storage.backend import ObjectInfo
from repot.storage.s3.client import is_amazon
from repot.storage.s3.errors import PreconditionError, UnsupportedError
from repot.storage.s3.transfer import info_of, look, notes_of, send

SETTLE_SECONDS = 1.0
# How many writes are named: more than can follow each other while one settles.
_NUM_NAMES = 32
_WRITES = "repot-writes"


def send_where(uri: str, file: BinaryIO, *, version: str | None) -> ObjectInfo:
    """Upload a seekable file if the object has a version.

    Args:
        uri: Where.
        file: What.
        version: The ETag that is expected; None for no object there.

    Raises:
        PreconditionError: It has another version, or another write came first.
        StorageError: It cannot be written.
    """
    before = look(uri)
    if (None if before is None else info_of(uri, before).version) != version:
        raise PreconditionError(f"{uri} is not as expected.")
    name = secrets.token_hex(4)
    names = [*_writes(before), name][-_NUM_NAMES:]
    try:
        info = _send(
            uri,
            file,
            names,
            {"IfNoneMatch": "*"} if version is None else {"IfMatch": f'"{version}"'},
        )
    except (PreconditionError, NotFoundError) as err:
        # The answer to an earlier try may have got lost.
        after = look(uri)
        if after is None or name not in _writes(after):
            raise PreconditionError(f"{uri} was written by somebody else.") from err
        info = info_of(uri, after)
    if not is_amazon():
        _check_that_it_stayed(uri, name)
    return info


def are_honoured(uri: str) -> bool:
    """Return whether the service refuses a create-only write to an object that is there."""
    try:
        send(uri, io.BytesIO(), condition={"IfNoneMatch": "*"})
    except PreconditionError:
        return True
    except UnsupportedError:
        return False
    return False


def _send(
    uri: str, file: BinaryIO, names: Sequence[str], condition: Mapping[str, str]
) -> ObjectInfo:
    notes = {_WRITES: " ".join(names)}
    try:
        return send(uri, file, notes=notes, condition=condition)
    except UnsupportedError:
        if is_amazon():
            raise
        return send(uri, file, notes=notes)


def _check_that_it_stayed(uri: str, name: str) -> None:
    time.sleep(SETTLE_SECONDS)
    if name not in _writes(look(uri)):
        raise PreconditionError(f"{uri} was overwritten by somebody else.")


def _writes(answer: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the writes that an object is built on."""
    return [] if answer is None else notes_of(answer).get(_WRITES, "").split()
