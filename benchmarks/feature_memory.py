"""Measure the memory that a large table of features takes in a training.

    make feature-memory
    .venv/bin/python benchmarks/feature_memory.py [ROWS [COLUMNS]]

It stores random features of ROWS invented pictures as a training does, fills a table from the
store, and reads two epochs of shuffled batches. Then it does what earlier versions did: concatenate
the parts, and copy the rows of each epoch in their order. Each runs in a process of its own, once
with the table in memory and once in a file. It prints the peak beyond what the process took before,
and the same as a multiple of the table. Pages of a file are memory that the system takes back when
it needs it; "private" leaves them out.
"""

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from repot.feature_store import FeatureKey, VectorStore, keys_of
from repot.trainer import features
from repot.trainer.batches import FeatureTable, feature_batches

NUM_ROWS, NUM_COLUMNS = 200_000, 1280
BATCH_SIZE = 32
NUM_EPOCHS = 2

_PART_ROWS = 8192
_MODES = ("memory", "file", "before")


def main() -> None:
    """Run every mode in a process of its own, or the one that is named."""
    if len(sys.argv) == 5:
        _measure(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return
    num_rows = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_ROWS
    num_columns = int(sys.argv[2]) if len(sys.argv) > 2 else NUM_COLUMNS
    with tempfile.TemporaryDirectory(prefix="repot-benchmark-") as folder:
        store, digests = _open_store(Path(folder), num_rows, num_columns)
        rng = np.random.default_rng(0)
        for start in range(0, num_rows, _PART_ROWS):
            part = digests[start : start + _PART_ROWS]
            store.add(part, rng.random([len(part), num_columns], np.float32))
        print(f"{num_rows} x {num_columns} float32: {4e-9 * num_rows * num_columns:.2f} GB")
        print("table      peak GB  x table  private GB  x table")
        for mode in _MODES:
            sizes = (str(num_rows), str(num_columns))
            subprocess.run([sys.executable, __file__, folder, mode, *sizes], check=True)


def _open_store(folder: Path, num_rows: int, num_columns: int) -> tuple[VectorStore, Any]:
    key = FeatureKey(checkpoint_id="c", backbone="b", image_size=224, view="central")
    digests = np.array([2 * f"{i:016}".encode() for i in range(num_rows)], "S32")
    return VectorStore(f"{folder}/{key.folder_name}", num_columns=num_columns), digests


def _measure(folder: Path, mode: str, num_rows: int, num_columns: int) -> None:
    labels = np.ones(num_rows, np.int64)
    list(tf.data.Dataset.range(3).batch(2))  # TensorFlow's own memory
    store, digests = _open_store(folder, num_rows, num_columns)
    with _Meter() as meter:
        if mode == "before":
            paths = sorted(folder.rglob("*.vectors"))
            parts = [
                np.frombuffer(path.read_bytes(), np.float32).reshape(-1, num_columns).copy()
                for path in paths
            ]
            whole = np.concatenate(parts)
            for epoch in range(NUM_EPOCHS):
                order = np.random.default_rng(epoch).permutation(num_rows)
                rows = tf.data.Dataset.from_tensor_slices((whole[order], labels[order]))
                for _ in rows.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE):
                    pass
        else:
            features.MAX_MEMORY_SHARE = 1.0 if mode == "memory" else 0.0
            table = features._new_table(num_rows, num_columns, folder)
            store.refresh()
            store.fill(keys_of(digests), table, np.zeros(num_rows, np.bool_))
            filled = FeatureTable(features=table, labels=labels, digests=digests)
            for epoch in range(NUM_EPOCHS):
                for _ in feature_batches(filled, BATCH_SIZE, seed=epoch).dataset():
                    pass
    size = 4e-9 * num_rows * num_columns
    peak, private = meter.peak_bytes / 1e9, meter.peak_private_bytes / 1e9
    print(
        f"{mode:9} {peak:8.2f} {peak / size:8.2f} {private:11.2f} {private / size:8.2f}", flush=True
    )


class _Meter:
    """The most memory that this process takes during a block, beyond what it took before.

    Attributes:
        peak_bytes: All resident memory.
        peak_private_bytes: The same without pages of files.
    """

    def __enter__(self) -> "_Meter":
        self._before = self._read()
        self.peak_bytes = self.peak_private_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            total, private = self._read()
            self.peak_bytes = max(self.peak_bytes, total - self._before[0])
            self.peak_private_bytes = max(self.peak_private_bytes, private - self._before[1])

    @staticmethod
    def _read() -> tuple[int, int]:
        """Return the resident memory and the part of it that is not of files, in bytes."""
        lines = Path("/proc/self/status").read_text().splitlines()
        kilobytes = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
        private = int(kilobytes["RssAnon"]) + int(kilobytes["RssShmem"])
        return 1024 * int(kilobytes["VmRSS"]), 1024 * private


if __name__ == "__main__":
    main()
