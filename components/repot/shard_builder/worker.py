"""A worker process that builds one shard at a time; `repot.shard_builder.worker_pool` starts it.

    python -m repot.shard_builder.worker DATASET_URI SCRATCH_FOLDER

It reads shard names from standard input, one per line, and writes JSON lines to standard output:

    {"sandbox": text}                         the layers of the sandbox that decodes the pictures
    {"pictures": n}                           n more pictures are done
    {"num_records": n, "size_bytes": n}       the shard is finished
    {"error": class name, "message": text}    the shard cannot be built

The worker has access to the storage and decodes nothing: a sandboxed process does that. It exits as
soon as its standard input ends, which also happens when its parent is killed.
"""

import json
import os
import queue
import shutil
import sys
import threading
import time
from pathlib import Path

from repot.errors import RepotError
from repot.memory import describe_out_of_memory
from repot.picture_decoder import PictureDecoder
from repot.progress import REPORT_INTERVAL_SECONDS
from repot.shard_builder.shard import build_shard


def main() -> None:
    """Build the shards named on standard input."""
    dataset_uri, scratch_path = sys.argv[1], Path(sys.argv[2])
    shards: queue.SimpleQueue[str] = queue.SimpleQueue()
    # A thread reads the input, so that its end is noticed while a shard is being built.
    threading.Thread(target=_read_names, args=(shards, scratch_path), daemon=True).start()
    try:
        with PictureDecoder() as decoder:
            _reply(sandbox=", ".join(decoder.layers()))
            while True:
                counter = _PictureCounter()
                receipt = build_shard(
                    dataset_uri,
                    shards.get(),
                    scratch_path=scratch_path,
                    decode=decoder.decode,
                    on_pictures=counter.add,
                )
                counter.flush()
                _reply(num_records=receipt.num_records, size_bytes=receipt.size_bytes)
    except RepotError as err:
        _reply(error=type(err).__name__, message=str(err))
    except MemoryError as err:
        _reply(error=RepotError.__name__, message=describe_out_of_memory(err))


def _read_names(shards: queue.SimpleQueue[str], scratch_path: Path) -> None:
    for line in sys.stdin:
        shards.put(line.rstrip("\n"))
    shutil.rmtree(scratch_path, ignore_errors=True)
    os._exit(0)


class _PictureCounter:
    """Counts finished pictures and reports them at intervals."""

    def __init__(self) -> None:
        self._count = 0
        self._reported_at = time.monotonic()

    def add(self, count: int) -> None:
        self._count += count
        if time.monotonic() - self._reported_at >= REPORT_INTERVAL_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._count:
            _reply(pictures=self._count)
        self._count, self._reported_at = 0, time.monotonic()


def _reply(**fields: int | str) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
