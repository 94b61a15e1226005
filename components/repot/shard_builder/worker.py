"""A process that builds shards, one at a time, for `repot.shard_builder.worker_pool`.

It is started as `python -m repot.shard_builder.worker DATASET_URI SCRATCH_FOLDER`, reads shard names from its standard
input, a line each, and answers on its standard output with lines of JSON:

    {"pictures": n}                           n more pictures are done
    {"num_records": n, "size_bytes": n}       the shard is done
    {"error": class name, "message": text}    it cannot be built

The end of its standard input, also when its parent is killed, ends it at once.
"""

import json
import os
import queue
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

from repot.errors import RepotError
from repot.progress import INTERVAL_SECONDS
from repot.shard_builder.shard import build_shard


def main() -> None:
    """Build the shards named on standard input."""
    dataset_uri, scratch_path = sys.argv[1], Path(sys.argv[2])
    shards: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_names, args=(shards, scratch_path), daemon=True).start()
    while True:
        counter = _Counter()
        try:
            receipt = build_shard(
                dataset_uri, shards.get(), scratch_path=scratch_path, on_picture=counter.add
            )
        except RepotError as err:
            _answer(error=type(err).__name__, message=str(err))
        else:
            counter.flush()
            _answer(num_records=receipt.num_records, size_bytes=receipt.size_bytes)


def _read_names(shards: queue.SimpleQueue[str], scratch_path: Path) -> None:
    for line in sys.stdin:
        shards.put(line.rstrip("\n"))
    shutil.rmtree(scratch_path, ignore_errors=True)
    os._exit(0)


class _Counter:
    """Pictures done and not yet said."""

    def __init__(self) -> None:
        self._count = 0
        self._said_at = time.monotonic()

    def add(self) -> None:
        self._count += 1
        if time.monotonic() - self._said_at >= INTERVAL_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._count:
            _answer(pictures=self._count)
        self._count, self._said_at = 0, time.monotonic()


def _answer(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
