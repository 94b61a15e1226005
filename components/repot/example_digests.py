"""The content of every example of a dataset: which pictures two datasets have in common.

    <dataset>/digests/<split>.bin   16 bytes per example, in the order of the shards and of the
                                    records in them; then 16 bytes that verify all of them

A digest is the first half of the SHA-256 of the example's JPEG. It does not depend on the picture's
name, label or split. A million examples have 16 MB, which are read in one go, without the shards.

    <dataset>/groups/train.bin      in the same form, the group of each example, zeros for none;
                                    only if the dataset has groups

Examples of one group, such as pictures of one patient, belong to the same part of every division of
train, see `repot.planner.split.group_digests`.

The last builder writes the files, before the manifest. For a dataset of an earlier version, the
digests are computed from its shards and stored for the next time. A published version has a copy of
those that it was trained on, because its dataset may be deleted.
"""

import hashlib
import logging
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from repot import progress, storage
from repot.errors import CorruptShardError, NotFoundError
from repot.layout import DIGESTS_FOLDER, GROUPS_FOLDER
from repot.manifest import Manifest, Receipt, Split
from repot.records import decode_example, read_records

DIGEST_BYTES = 16

Digests = npt.NDArray[np.bytes_]
"""S16 [num_examples]. Equal length makes NumPy's comparison that of the bytes."""

_log = logging.getLogger(__name__)


def example_digest(jpeg: bytes) -> bytes:
    """Return the digest of one example."""
    return hashlib.sha256(jpeg).digest()[:DIGEST_BYTES]


def join_digests(digests: Iterable[bytes]) -> Digests:
    """Return an array of digests from pieces, each a digest or several one after the other."""
    return np.frombuffer(b"".join(digests), f"S{DIGEST_BYTES}")


def write_digests(uri: str, digests: Digests) -> None:
    """Store digests in one file."""
    data = digests.tobytes()
    storage.write_bytes(uri, data + example_digest(data))


def read_stored(uri: str) -> Digests | None:
    """Return the digests in a file, or None if it is missing or damaged.

    Raises:
        StorageError: Reading failed.
    """
    if not storage.exists(uri):
        return None
    stored = storage.read_bytes(uri)
    data = stored[:-DIGEST_BYTES]
    if len(stored) % DIGEST_BYTES or stored != data + example_digest(data):
        _log.warning("%s is damaged and not used", uri)
        return None
    return join_digests([data])


def digests_uri(dataset_uri: str, split: Split) -> str:
    """Return the file of the digests of one split of a dataset."""
    return storage.join(dataset_uri, DIGESTS_FOLDER, f"{split}.bin")


def groups_uri(dataset_uri: str) -> str:
    """Return the file of the groups of a dataset's training examples."""
    return storage.join(dataset_uri, GROUPS_FOLDER, "train.bin")


def read_groups(dataset_uri: str, manifest: Manifest) -> Digests | None:
    """Return the group of each training example, b"" for none; None if the dataset has no groups.

    Raises:
        CorruptShardError: The file is damaged.
        StorageError: Reading failed.
    """
    uri = groups_uri(dataset_uri)
    if not storage.exists(uri):
        return None
    groups = read_stored(uri)
    if groups is None or len(groups) != manifest.num_examples("train"):
        raise CorruptShardError(
            f"{uri} must name the group of each training example; it is damaged. Restore the "
            "dataset, or delete it and run again."
        )
    return groups


def read_digests(dataset_uri: str, manifest: Manifest, split: Split, *, task: str) -> Digests:
    """Return the digests of the examples of one split, in order.

    Args:
        dataset_uri: Folder of the dataset.
        manifest: Its manifest.
        split: The split.
        task: Task name for progress reports, if the shards have to be read.

    Raises:
        NotFoundError: Neither the digests nor all of the shards are stored.
        CorruptShardError: A shard is damaged.
        StorageError: Reading or writing failed.
    """
    uri = digests_uri(dataset_uri, split)
    stored = read_stored(uri)
    if stored is not None and len(stored) == manifest.num_examples(split):
        return stored
    digests = _read_shards(dataset_uri, manifest, split, task=task)
    write_digests(uri, digests)
    return digests


def shard_digests(dataset_uri: str, receipt: Receipt) -> Digests:
    """Return the digests of the examples of one shard, computed from it.

    Raises:
        NotFoundError: The shard is missing.
        CorruptShardError: It is damaged, or has another number of records than its receipt states.
    """
    uri = storage.join(dataset_uri, receipt.shard)
    if not storage.exists(uri):
        raise NotFoundError(f"A shard must exist; {uri} is missing. Restore the dataset.")
    pieces = []
    with storage.as_local_file(uri) as path:
        for record in read_records(path):
            (jpeg,) = decode_example(record)["image/encoded"]
            pieces.append(example_digest(jpeg if isinstance(jpeg, bytes) else b""))
    if len(pieces) != receipt.num_records:
        raise CorruptShardError(
            f"{uri} must have {receipt.num_records} records; got {len(pieces)}. Restore the "
            "dataset, or delete it and run again."
        )
    return join_digests(pieces)


def _read_shards(dataset_uri: str, manifest: Manifest, split: Split, *, task: str) -> Digests:
    receipts = manifest.split_shards(split)
    found = []
    for number, receipt in enumerate(receipts, start=1):
        found.append(shard_digests(dataset_uri, receipt).tobytes())
        progress.report(task, number, len(receipts), unit="shards")
    return join_digests(found)
