"""What is known of every example of a dataset without its shards: its content, class and group.

    <dataset>/digests/<split>.bin   16 bytes per example, in the order of the shards and of the
                                    records in them; then 16 bytes that verify all of them
    <dataset>/classes/<split>.bin   in the same order, the class id of each example as a
                                    little-endian uint32; then 16 bytes that verify all of them
    <dataset>/groups/train.bin      in the form of digests/, the group of each example, zeros for
                                    none; only if the dataset has groups

A digest is the first half of the SHA-256 of the example's JPEG. It does not depend on the name, the
label or the split of the picture. A million examples have 20 MB, which are read in one go. So two
datasets are compared, and a training chooses pictures and looks for their features, without shards.

Examples of one group, such as pictures of one patient, belong to the same part of every division of
train, see `repot.planner.split.group_digests`.

The last builder writes the files, before the manifest. For a dataset of an earlier version, digests
and class ids are computed from its shards and stored for the next time. A published version has a
copy of the digests that it was trained on, because its dataset may be deleted.
"""

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from repot import progress, storage
from repot.composition import find_composition, write_composed
from repot.errors import CorruptShardError, NotFoundError, StorageError
from repot.layout import CLASSES_FOLDER, DIGESTS_FOLDER, GROUPS_FOLDER
from repot.manifest import Manifest, Receipt, Split
from repot.records import decode_example, read_records

DIGEST_BYTES = 16

Digests = npt.NDArray[np.bytes_]
"""S16 [num_examples]. Equal length makes NumPy's comparison that of the bytes."""

ClassIds = npt.NDArray[np.int64]
"""int64 [num_examples], class ids in 1..N."""

_CLASS_ID = np.dtype("<u4")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contents:
    """The content and the class of the examples of one split, in order.

    Attributes:
        digests: S16 [num_examples].
        class_ids: int64 [num_examples].
    """

    digests: Digests
    class_ids: ClassIds


def example_digest(jpeg: bytes) -> bytes:
    """Return the digest of one example."""
    return hashlib.sha256(jpeg).digest()[:DIGEST_BYTES]


def join_digests(digests: Iterable[bytes]) -> Digests:
    """Return an array of digests from pieces, each a digest or several one after the other."""
    return np.frombuffer(b"".join(digests), f"S{DIGEST_BYTES}")


def write_digests(uri: str, digests: Digests) -> None:
    """Store digests in one file."""
    _write_verifiable(uri, digests.tobytes())


def write_class_ids(uri: str, class_ids: ClassIds) -> None:
    """Store class ids in one file."""
    _write_verifiable(uri, class_ids.astype(_CLASS_ID).tobytes())


def read_stored(uri: str) -> Digests | None:
    """Return the digests in a file, or None if it is missing or damaged.

    Raises:
        StorageError: Reading failed.
    """
    data = _read_verified(uri, DIGEST_BYTES)
    return None if data is None else join_digests([data])


def _write_verifiable(uri: str, data: bytes) -> None:
    storage.write_bytes(uri, data + example_digest(data))


def _read_verified(uri: str, item_bytes: int) -> bytes | None:
    """Return what `_write_verifiable` stored, or None if it is missing or damaged."""
    if not storage.exists(uri):
        return None
    stored = storage.read_bytes(uri)
    data = stored[:-DIGEST_BYTES]
    if len(data) % item_bytes or stored != data + example_digest(data):
        _log.warning("%s is damaged and not used", uri)
        return None
    return data


def digests_uri(dataset_uri: str, split: Split) -> str:
    """Return the file of the digests of one split of a dataset."""
    return storage.join(dataset_uri, DIGESTS_FOLDER, f"{split}.bin")


def class_ids_uri(dataset_uri: str, split: Split) -> str:
    """Return the file of the class ids of one split of a dataset."""
    return storage.join(dataset_uri, CLASSES_FOLDER, f"{split}.bin")


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
    stored = _read_stored_digests(dataset_uri, manifest, split)
    if stored is not None:
        return stored
    return _compute_contents(dataset_uri, manifest, split, task=task).digests


def read_contents(dataset_uri: str, manifest: Manifest, split: Split, *, task: str) -> Contents:
    """Return content and class of the examples of one split; arguments and errors as above."""
    digests = _read_stored_digests(dataset_uri, manifest, split)
    data = _read_verified(class_ids_uri(dataset_uri, split), _CLASS_ID.itemsize)
    if digests is not None and data is not None:
        class_ids = np.frombuffer(data, _CLASS_ID).astype(np.int64)
        if len(class_ids) == len(digests):
            return Contents(digests=digests, class_ids=class_ids)
    return _compute_contents(dataset_uri, manifest, split, task=task)


def _read_stored_digests(dataset_uri: str, manifest: Manifest, split: Split) -> Digests | None:
    stored = read_stored(digests_uri(dataset_uri, split))
    return stored if stored is not None and len(stored) == manifest.num_examples(split) else None


def shard_digests(dataset_uri: str, receipt: Receipt) -> Digests:
    """Return the digests of the examples of one shard, computed from it.

    Raises:
        NotFoundError: The shard is missing.
        CorruptShardError: It is damaged, or has another number of records than its receipt states.
    """
    return _shard_contents(dataset_uri, receipt).digests


def _shard_contents(dataset_uri: str, receipt: Receipt) -> Contents:
    pieces, class_ids = [], []
    with _local_shard(dataset_uri, receipt) as path:
        for record in read_records(path):
            features = decode_example(record)
            (jpeg,), (class_id,) = features["image/encoded"], features["image/class/label"]
            pieces.append(example_digest(jpeg if isinstance(jpeg, bytes) else b""))
            class_ids.append(class_id if isinstance(class_id, int) else 0)
    if len(pieces) != receipt.num_records:
        raise CorruptShardError(
            f"{storage.join(dataset_uri, receipt.shard)} must have {receipt.num_records} records; "
            f"got {len(pieces)}. Restore the dataset, or delete it and run again."
        )
    return Contents(digests=join_digests(pieces), class_ids=np.array(class_ids, np.int64))


@contextlib.contextmanager
def _local_shard(dataset_uri: str, receipt: Receipt) -> Iterator[Path]:
    """Yield a local file of a shard, which may be composed."""
    uri = storage.join(dataset_uri, receipt.shard)
    if storage.exists(uri):
        with storage.as_local_file(uri) as path:
            yield path
        return
    composition = find_composition(dataset_uri, receipt.shard)
    if composition is None:
        raise NotFoundError(f"A shard must exist; {uri} is missing. Restore the dataset.")
    with tempfile.TemporaryDirectory(prefix="repot-shard-") as folder:
        path = Path(folder, receipt.shard)
        with path.open("wb") as file:
            write_composed(dataset_uri, composition, file)
        yield path


def _compute_contents(dataset_uri: str, manifest: Manifest, split: Split, *, task: str) -> Contents:
    """Read all shards of a split, and store what is known of the examples."""
    receipts = manifest.split_shards(split)
    found = []
    for number, receipt in enumerate(receipts, start=1):
        found.append(_shard_contents(dataset_uri, receipt))
        progress.report(task, number, len(receipts), unit="shards")
    contents = Contents(
        digests=join_digests(each.digests.tobytes() for each in found),
        class_ids=np.concatenate([np.empty(0, np.int64), *(each.class_ids for each in found)]),
    )
    try:
        write_digests(digests_uri(dataset_uri, split), contents.digests)
        write_class_ids(class_ids_uri(dataset_uri, split), contents.class_ids)
    except StorageError as err:
        # It saves the next reader time; this one has what it needs.
        _log.warning("digests and class ids of %s are not stored: %s", split, err)
    return contents
