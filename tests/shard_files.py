"""Datasets whose examples are numbers instead of pictures, for tests of how shards are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from repot import storage
from repot.dataset import Examples
from repot.example_digests import Contents, example_digest, join_digests
from repot.json_record import write_record
from repot.layout import MANIFEST_NAME
from repot.manifest import Manifest, Receipt, Split, shard_name
from repot.records import decode_example, encode_example, frame_record, read_records
from repot.settings import DatasetSettings
from repot.shard_cache import ShardCache


def write_shards(
    folder_uri: str, *, train: Sequence[int], validation: Sequence[int] = (), padding: int = 0
) -> Manifest:
    """Write a dataset; the file name of an example is its number within its split.

    Args:
        folder_uri: Folder of the dataset.
        train, validation: Number of examples of each shard.
        padding: Bytes that each example has in addition.
    """
    receipts = []
    splits: tuple[tuple[Split, Sequence[int]], ...] = (("train", train), ("validation", validation))
    for split, sizes in splits:
        number = 0
        for index, size in enumerate(sizes):
            frames = []
            for _ in range(size):
                frames.append(frame_record(_example(number, padding)))
                number += 1
            data, name = b"".join(frames), shard_name(split, index, len(sizes))
            storage.write_bytes(storage.join(folder_uri, name), data)
            receipts.append(
                Receipt(
                    shard=name,
                    split=split,
                    num_records=size,
                    size_bytes=len(data),
                    crc32c=storage.crc32c_hex(data),
                    class_counts={"a": size},
                )
            )
    manifest = Manifest(
        dataset_id="d",
        pictures_uri="/pictures",
        labels=("a",),
        settings=DatasetSettings(),
        shards=tuple(receipts),
        num_found=sum(train) + sum(validation),
        num_accepted=sum(train) + sum(validation),
    )
    write_record(storage.join(folder_uri, MANIFEST_NAME), manifest)
    return manifest


def _example(number: int, padding: int) -> bytes:
    return encode_example(
        {
            "image/encoded": [bytes(padding)],
            "image/class/label": [1],
            "image/filename": [str(number).encode()],
        }
    )


def contents_of(paths: Sequence[Path]) -> Contents:
    """Return content and class of the examples in local shards, in order."""
    features = [decode_example(record) for path in paths for record in read_records(path)]
    return Contents(
        digests=join_digests(
            example_digest(cast(bytes, jpeg)) for each in features for jpeg in each["image/encoded"]
        ),
        class_ids=np.array(
            [label for each in features for label in each["image/class/label"]], np.int64
        ),
    )


def examples_of(paths: Sequence[Path]) -> Examples:
    """Return the examples in local shards, whatever they are called and wherever they are."""
    receipts = [
        Receipt(
            shard=str(path).removeprefix("/"),
            split="train",
            num_records=sum(1 for _ in read_records(path)),
            size_bytes=path.stat().st_size,
            crc32c=storage.file_crc32c_hex(path),
            class_counts={},
        )
        for path in paths
    ]
    return Examples(
        ShardCache("/", receipts),
        first_shard=0,
        shard_sizes=[receipt.num_records for receipt in receipts],
        shard_bytes=[receipt.size_bytes for receipt in receipts],
    )
