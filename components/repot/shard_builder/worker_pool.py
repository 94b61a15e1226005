"""A pool of worker processes that build shards in parallel, and that end when this process ends.

Each worker is a new interpreter running `repot.shard_builder.worker`. Nothing is forked, and the
main module of this process is not imported again, so any program can use the pool.
"""

import contextlib
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import IO, cast

from repot import errors
from repot.progress import ProgressCounter

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Worker:
    process: subprocess.Popen[str]
    names: IO[str]
    replies: IO[str]
    is_first: bool


def build_in_processes(
    dataset_uri: str, shards: Sequence[str], *, num_processes: int, counter: ProgressCounter
) -> None:
    """Build shards in worker processes, one shard at a time in each; the first error stops all.

    Args:
        dataset_uri: Folder of a planned dataset.
        shards: Names of the shards.
        num_processes: Number of worker processes.
        counter: Counts the finished pictures.

    Raises:
        DataError: A picture was changed or deleted after it was listed.
        StorageError: Reading or writing failed.
        RepotError: A worker process died.
    """
    waiting = deque(shards)
    with (
        tempfile.TemporaryDirectory(prefix="repot-shards-") as scratch,
        ThreadPoolExecutor(num_processes) as drivers,
        # Closed first: drivers wait for replies of workers, so workers must end before drivers are
        # joined.
        contextlib.ExitStack() as stack,
    ):
        workers = [
            stack.enter_context(_worker(dataset_uri, scratch, is_first=number == 0))
            for number in range(num_processes)
        ]
        futures = [drivers.submit(_drive, worker, waiting, counter) for worker in workers]
        for future in as_completed(futures):
            future.result()


@contextlib.contextmanager
def _worker(dataset_uri: str, scratch: str, *, is_first: bool) -> Iterator[_Worker]:
    """Start a worker process; kill it at the end."""
    command = [sys.executable, "-P", "-m", "repot.shard_builder.worker", dataset_uri, scratch]
    # In its own process group: Ctrl-C in the terminal goes to this process, which ends the workers.
    process = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    )
    names, replies = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
    try:
        yield _Worker(process=process, names=names, replies=replies, is_first=is_first)
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            names.close()
        replies.close()


def _drive(worker: _Worker, waiting: deque[str], counter: ProgressCounter) -> None:
    """Have a worker build one waiting shard after another until none is left."""
    while True:
        try:
            shard = waiting.popleft()
        except IndexError:
            return
        _build(worker, shard, counter)


def _build(worker: _Worker, shard: str, counter: ProgressCounter) -> None:
    started = time.monotonic()
    with contextlib.suppress(BrokenPipeError):
        worker.names.write(f"{shard}\n")
        worker.names.flush()
    for line in worker.replies:
        reply = json.loads(line)
        if "error" in reply:
            raise getattr(errors, reply["error"])(reply["message"])
        if "num_records" in reply:
            _log.info(
                "%s: %d records, %d bytes in %.1f s",
                shard,
                reply["num_records"],
                reply["size_bytes"],
                time.monotonic() - started,
            )
            return
        if "pictures" in reply:
            counter.add(reply["pictures"])
        elif worker.is_first:
            _log.info("pictures are decoded in a sandbox: %s", reply["sandbox"])
    status = worker.process.wait()
    raise errors.RepotError(
        "A worker process must run until its shards are built; "
        f"the one for {shard} exited with status {status}. See its last log lines above. "
        "If it was killed (-9), give it more memory or use fewer processes."
    )
