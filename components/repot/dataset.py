"""Reading the examples of a dataset from its shards, verified against their receipts.

An example is a dict of scalar tensors: `encoded` string, the JPEG bytes; `label` int64, the class
id in 1..N; `filename` string, the base name of the picture file.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tensorflow as tf

from repot import storage
from repot.errors import CorruptShardError
from repot.layout import MANIFEST_NAME, RECEIPTS_FOLDER
from repot.manifest import Receipt

_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "image/filename": tf.io.FixedLenFeature([], tf.string, default_value=""),
}

_READ_BUFFER_BYTES = 256 * 1024
_NUM_THREADS = 8


def open_shards(dataset_uri: str, receipts: Iterable[Receipt], scratch: Path) -> list[Path]:
    """Return verified local files of shards: local shards themselves, copies of remote ones.

    Args:
        dataset_uri: Folder of the dataset.
        receipts: Receipts of the shards to open.
        scratch: An existing folder for copies. A shard that is already there is not downloaded
            again.

    Raises:
        CorruptShardError: A shard's size or checksum differs from its receipt, or a local shard is
            missing.
        NotFoundError: A remote shard is missing.
    """
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(pool.map(lambda receipt: _open_shard(dataset_uri, receipt, scratch), receipts))


def read_examples(shards: Sequence[Path]) -> Any:
    """Return a tf.data.Dataset of the examples in local shards, in order."""
    records = tf.data.TFRecordDataset(
        [str(shard) for shard in shards], buffer_size=_READ_BUFFER_BYTES
    )
    return records.map(parse_example)


def parse_example(record: Any) -> dict[str, Any]:
    """Return the example in a serialized tf.train.Example, string []."""
    features = tf.io.parse_single_example(record, _FEATURES)
    return {
        "encoded": features["image/encoded"],
        "label": features["image/class/label"],
        "filename": features["image/filename"],
    }


def _open_shard(dataset_uri: str, receipt: Receipt, scratch: Path) -> Path:
    uri = storage.join(dataset_uri, receipt.shard)
    if storage.is_local(uri):
        path = storage.local_path(uri)
    else:
        path = scratch / receipt.shard
        if not path.exists():
            storage.download(uri, path)
    _verify(uri, path, receipt)
    return path


def _verify(uri: str, path: Path, receipt: Receipt) -> None:
    if not path.is_file():
        raise CorruptShardError(f"{uri} must exist; it is missing. {_how_to_rebuild(receipt)}")
    size_bytes, crc32c = path.stat().st_size, storage.file_crc32c_hex(path)
    if size_bytes != receipt.size_bytes or crc32c != receipt.crc32c:
        raise CorruptShardError(
            f"{uri} must have {receipt.size_bytes} bytes with CRC32C {receipt.crc32c}; "
            f"got {size_bytes} bytes with CRC32C {crc32c}. {_how_to_rebuild(receipt)}"
        )


def _how_to_rebuild(receipt: Receipt) -> str:
    return (
        f"Delete it, {RECEIPTS_FOLDER}/{receipt.shard}.json and {MANIFEST_NAME} from the dataset "
        "folder and run again: only this shard is rebuilt."
    )
