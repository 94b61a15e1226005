"""Measure what a training waits for and downloads before its first step, and in an epoch.

A server in this process stands for the object store: every request takes 50 ms more, and each
connection gets at most 50 MB/s. It speaks as much of Google Cloud Storage's API as downloads need,
so the real client and all checks of `repot.storage` take part. "whole" is what repot did before
shards were streamed: download every shard, read each again to verify it, then read.
"""

import argparse
import io
import os
import tempfile
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repot import storage
from repot.dataset import Examples, open_examples, parse_example
from repot.json_record import write_record
from repot.layout import MANIFEST_NAME
from repot.manifest import Manifest, Receipt, read_manifest, shard_name
from repot.records import encode_example, frame_record, picture_features
from repot.settings import DatasetSettings
from repot.storage.checksums import crc32c_to_base64
from repot.trainer.batches import Pictures, Share

LATENCY_SECONDS = 0.05
BYTES_PER_SECOND = 50e6
BATCH_SIZE, IMAGE_SIZE = 32, 224
DATASET_URI = "gs://bucket/dataset"


class Store(ThreadingHTTPServer):
    """Serves the files of a folder as objects.

    Attributes:
        num_requests, num_bytes: Of all downloads since `reset`.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Count from zero."""
        self.num_requests = self.num_bytes = 0

    def count(self, num_bytes: int) -> None:
        """Count one download."""
        with self._lock:
            self.num_requests += 1
            self.num_bytes += num_bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def do_GET(self) -> None:
        name = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path.rpartition("/o/")[2])
        time.sleep(LATENCY_SECONDS)
        data = (self.server.folder / Path(name).name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Goog-Generation", "1")
        crc32c = crc32c_to_base64(storage.crc32c_hex(data))
        self.send_header("X-Goog-Hash", f"crc32c={crc32c}")
        self.end_headers()
        for start in range(0, len(data), 1 << 20):
            block = data[start : start + (1 << 20)]
            self.wfile.write(block)
            time.sleep(len(block) / BYTES_PER_SECOND)
        self.server.count(len(data))

    def log_message(self, *_args: Any) -> None:
        """Do not log."""


def write_dataset(folder: Path, *, num_shards: int, shard_records: int) -> None:
    """Write a dataset of smooth random pictures of 320 x 240 pixels, about 25 kB each."""
    draw = np.random.default_rng(0)
    jpegs = []
    for _ in range(64):
        pixels = draw.integers(0, 256, (30, 40, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((320, 240)).save(buffer, "JPEG", quality=90)
        jpegs.append(buffer.getvalue())
    receipts = []
    for index in range(num_shards):
        frames = [
            frame_record(
                encode_example(
                    picture_features(
                        jpeg=jpegs[draw.integers(64)],
                        height=240,
                        width=320,
                        class_id=1,
                        label="a",
                        filename=f"{index}-{i}.jpg",
                    )
                )
            )
            for i in range(shard_records)
        ]
        data, name = b"".join(frames), shard_name("train", index, num_shards)
        (folder / name).write_bytes(data)
        receipts.append(
            Receipt(
                shard=name,
                split="train",
                num_records=shard_records,
                size_bytes=len(data),
                crc32c=storage.crc32c_hex(data),
                class_counts={"a": shard_records},
            )
        )
    manifest = Manifest(
        dataset_id="d",
        pictures_uri="/pictures",
        labels=("a",),
        settings=DatasetSettings(),
        shards=tuple(receipts),
        num_found=num_shards * shard_records,
        num_accepted=num_shards * shard_records,
    )
    write_record(str(folder / MANIFEST_NAME), manifest)


def whole_batches(manifest: Manifest, folder: Path) -> Any:
    """Return the batches of an epoch after every shard has been downloaded and read."""
    import tensorflow as tf

    from repot.augmentation import crop_for_training

    def fetch(receipt: Receipt) -> str:
        path = folder / receipt.shard
        storage.download(storage.join(DATASET_URI, receipt.shard), path)
        if storage.file_crc32c_hex(path) != receipt.crc32c:
            raise SystemExit(f"{path} is damaged.")
        return str(path)

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(fetch, manifest.shards))
    examples = tf.data.TFRecordDataset(paths, buffer_size=256 * 1024).map(parse_example)
    seed = tf.constant([0, 0], tf.int64)
    return (
        examples.shuffle(1024)
        .map(
            lambda example: crop_for_training(
                example["encoded"], IMAGE_SIZE, seed, augmentation="inception"
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .batch(BATCH_SIZE)
        .prefetch(tf.data.AUTOTUNE)
    )


def make_pictures(examples: Examples, share: Share | None) -> Pictures:
    """Return the pictures as a training makes them."""
    return Pictures(
        examples=examples,
        image_size=IMAGE_SIZE,
        batch_size=BATCH_SIZE,
        shuffle_buffer=1024,
        seed=0,
        augmentation="inception",
        share=share,
    )


def measure(name: str, store: Store, batches: Any, started: float) -> None:
    """Print when the first batch was there, and what had been downloaded by then and at the end."""
    iterator = iter(batches)
    next(iterator)
    first_seconds, first_bytes = time.monotonic() - started, store.num_bytes
    num_batches = 1 + sum(1 for _ in iterator)
    seconds = time.monotonic() - started
    print(
        f"{name:26} {first_seconds:8.2f} {first_bytes / 1e6:8.1f} {seconds:10.1f} "
        f"{store.num_bytes / 1e6:8.1f} {store.num_requests:9} {num_batches:8}",
        flush=True,
    )


def run(num_shards: int, shard_records: int) -> None:
    """Print the table."""
    import tensorflow as tf

    tf.zeros([1])  # starts TensorFlow
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "store")
        folder.mkdir()
        write_dataset(folder, num_shards=num_shards, shard_records=shard_records)
        with Store(folder) as store:
            threading.Thread(target=store.serve_forever, daemon=True).start()
            os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{store.server_port}"
            manifest = read_manifest(DATASET_URI)
            total = sum(receipt.size_bytes for receipt in manifest.shards) / 1e6
            print(f"{num_shards} shards of {shard_records} pictures, {total:.0f} MB in all")
            print(
                f"{'':26} {'first':>8} {'':>8} {'epoch':>10}\n{'':26} {'s':>8} {'MB':>8} {'s':>10} "
                f"{'MB':>8} {'requests':>9} {'batches':>8}"
            )
            # TensorFlow and the client build what they need at their first use.
            list(whole_batches(manifest, Path(scratch, "warm-up")).take(1))
            with open_examples(DATASET_URI, manifest) as examples:
                list(make_pictures(examples["train"], None).training_batches(0).take(1))
            store.reset()
            started = time.monotonic()
            batches = whole_batches(manifest, Path(scratch, "whole"))
            measure("whole (before)", store, batches, started)
            cases = {
                "streamed": (0, None),
                "resumed after 90 %": (int(0.9 * num_shards * shard_records / BATCH_SIZE), None),
                "worker 0 of 2": (0, Share(worker=0, num_workers=2, num_replicas=1)),
                "worker 1 of 2": (0, Share(worker=1, num_workers=2, num_replicas=1)),
                "worker 0 of 8": (0, Share(worker=0, num_workers=8, num_replicas=1)),
            }
            for name, (skip, share) in cases.items():
                store.reset()
                started = time.monotonic()
                with open_examples(DATASET_URI, manifest) as examples:
                    pictures = make_pictures(examples["train"], share)
                    batches = pictures.training_batches(0, skip)
                    replica_batches = batches.replica_batches if share else batches
                    measure(name, store, replica_batches, started)
            store.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--records", type=int, default=128)
    arguments = parser.parse_args()
    run(arguments.shards, arguments.records)
