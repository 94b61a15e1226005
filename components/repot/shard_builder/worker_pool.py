"""A pool of workers that build shards in parallel, and that end when this process ends.

A shard is built by a worker, which reads and writes, and by a decoder, see
`repot.shard_builder.worker`. The first worker are threads of this process, which has nothing else
to do meanwhile: a process of its own would take as long to start as decoding 400 pictures. It reads
and writes local files only. Requests to an object store are made by processes, which can be ended
while they wait for an answer, and so are shards for more than MAX_DECODERS decoders.

Each worker process is a new interpreter running `repot.shard_builder.worker`. Nothing is forked,
and the main module of this process is not imported again, so any program can use the pool.
"""

import base64
import contextlib
import dataclasses
import json
import logging
import queue
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from repot import errors, storage
from repot.memory import num_cores
from repot.progress import ProgressCounter
from repot.shard_builder.worker import SHARDS_PER_DECODER, Fields, Worker
from repot.work_list import SourcePicture

MAX_DECODERS = 2
"""Decoders per worker. Two leave its interpreter idle for three quarters of the time."""

_log = logging.getLogger(__name__)


class WorkerPool:
    """Workers that are started when they are needed, and end with `close`."""

    def __init__(self, dataset_uri: str, *, num_decoders: int = 0) -> None:
        """Start nothing yet.

        Args:
            dataset_uri: Folder of a planned dataset.
            num_decoders: Number of shards to build at the same time; 0 uses one per core.
        """
        self._dataset_uri = dataset_uri
        self._num_decoders = num_decoders or num_cores()
        self._workers: list[_Worker] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Return this object."""
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the workers."""
        self.close()

    def start(self, *, with_store: bool = False) -> None:
        """Start the first worker, so that it is ready when the first shard is to be built."""
        self._start(1, with_store=with_store)

    def close(self) -> None:
        """End the workers; they are started again if they are needed."""
        self._workers = []
        self._open.close()

    def build(
        self, shards: Sequence[str], counter: ProgressCounter, *, with_store: bool = False
    ) -> None:
        """Build shards, one at a time with each decoder; the first error stops all.

        Args:
            shards: Names of the shards.
            counter: Counts the finished pictures.
            with_store: Whether an object store is read or written: then SHARDS_PER_DECODER
                shards are built with each decoder, to hide its latency.

        Raises:
            DataError: A picture was changed or deleted after it was listed.
            StorageError: Reading or writing failed.
            RepotError: A worker process died.
        """
        waiting = deque(shards)
        workers = self._start(min(self._num_decoders, len(shards)), with_store=with_store)
        with ThreadPoolExecutor(len(workers)) as drivers:
            try:
                futures = [
                    drivers.submit(
                        worker.build,
                        waiting,
                        counter,
                        shards_per_decoder=SHARDS_PER_DECODER if with_store else 1,
                        num_last=self._num_decoders,
                    )
                    for worker in workers
                ]
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                # Drivers wait for replies, so workers must end before drivers are joined.
                self.close()
                raise

    def thumbnails(self, pictures: Sequence[SourcePicture], max_side: int) -> list[bytes | None]:
        """Return JPEGs with sides of at most `max_side` pixels; None for an unreadable picture.

        Raises:
            RepotError: The worker process died, or had too little memory.
        """
        worker, *_ = self._workers or self._start(1, with_store=False)
        try:
            return worker.thumbnails(pictures, max_side)
        except BaseException:
            self.close()
            raise

    def _start(self, num_decoders: int, *, with_store: bool) -> "list[_Worker]":
        """Return the workers, after starting those that this number of decoders needs."""
        has_store = with_store or not storage.is_local(self._dataset_uri)
        if has_store and any(isinstance(each.connection, _Threads) for each in self._workers):
            self.close()
        for first in range(len(self._workers) * MAX_DECODERS, num_decoders, MAX_DECODERS):
            number = min(MAX_DECODERS, self._num_decoders - first)
            scratch = Path(tempfile.gettempdir()) / f"repot-shards-{secrets.token_hex(8)}"
            self._open.callback(shutil.rmtree, scratch, ignore_errors=True)
            start = _Process if has_store or first else _Threads
            connection = start(self._dataset_uri, scratch, number)
            self._open.callback(connection.close)
            self._workers.append(_Worker(connection, num_decoders=number, is_first=first == 0))
        return self._workers


class _Process:
    """The connection to a worker process."""

    def __init__(self, dataset_uri: str, scratch_path: Path, num_decoders: int) -> None:
        command = [sys.executable, "-P", "-m", "repot.shard_builder.worker"]
        command += [dataset_uri, str(scratch_path), str(num_decoders)]
        # In its own process group: Ctrl-C in the terminal goes to this process, which ends it.
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        self._requests = cast(IO[str], self._process.stdin)

    def send(self, fields: Fields) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._requests.write(json.dumps(fields) + "\n")
            self._requests.flush()

    def replies(self) -> Iterator[Fields]:
        """Yield replies until the process ends."""
        for line in cast(IO[str], self._process.stdout):
            yield json.loads(line)

    def end(self) -> str:
        """Return how the process, which gives no more replies, has ended."""
        return f"exited with status {self._process.wait()}"

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        cast(IO[str], self._process.stdout).close()


class _Threads:
    """The connection to a worker in this process."""

    def __init__(self, dataset_uri: str, scratch_path: Path, num_decoders: int) -> None:
        self._replies: queue.SimpleQueue[Fields | None] = queue.SimpleQueue()
        self._worker = Worker(
            dataset_uri, scratch_path, num_decoders=num_decoders, reply=self._replies.put
        )

    def send(self, fields: Fields) -> None:
        self._worker.request(fields)

    def replies(self) -> Iterator[Fields]:
        """Yield replies until the worker is closed."""
        while (reply := self._replies.get()) is not None:
            yield reply

    def end(self) -> str:
        """Return how the worker, which gives no more replies, has ended."""
        return "was closed"

    def close(self) -> None:
        """Give up what is not finished."""
        self._worker.close()
        self._replies.put(None)


class _Worker:
    """Has shards built over a connection."""

    def __init__(
        self, connection: _Process | _Threads, *, num_decoders: int, is_first: bool
    ) -> None:
        self.connection = connection
        self._num_decoders, self._is_first = num_decoders, is_first

    def build(
        self,
        waiting: deque[str],
        counter: ProgressCounter,
        *,
        shards_per_decoder: int,
        num_last: int,
    ) -> None:
        """Build one waiting shard after another until none is left.

        Args:
            waiting: Names of the shards that no worker has begun.
            counter: Counts the finished pictures.
            shards_per_decoder: Shards to build at the same time with each decoder.
            num_last: Number of last shards to leave for idle decoders of any worker.
        """
        max_shards = self._num_decoders * shards_per_decoder
        started: dict[str, float] = {}
        while True:
            while len(started) < self._num_decoders or (
                len(started) < max_shards and len(waiting) > num_last
            ):
                try:
                    shard = waiting.popleft()
                except IndexError:
                    break
                started[shard] = time.monotonic()
                self.connection.send({"shard": shard})
            if not started:
                return
            for reply in self._replies(f"the one for {', '.join(started)}"):
                if "pictures" in reply:
                    counter.add(reply["pictures"])
                elif "shard" in reply:
                    _log.info(
                        "%s: %d records, %d bytes in %.1f s",
                        reply["shard"],
                        reply["num_records"],
                        reply["size_bytes"],
                        time.monotonic() - started.pop(reply["shard"]),
                    )
                    break

    def thumbnails(self, pictures: Sequence[SourcePicture], max_side: int) -> list[bytes | None]:
        """Return JPEGs of pictures, see `WorkerPool.thumbnails`."""
        thumbnails = list(map(dataclasses.asdict, pictures))
        self.connection.send({"thumbnails": thumbnails, "max_side": max_side})
        reply = next(each for each in self._replies("that for thumbnails") if "thumbnails" in each)
        return [text and base64.b64decode(text) for text in reply["thumbnails"]]

    def _replies(self, purpose: str) -> Iterator[Fields]:
        """Yield the replies of the worker, without end.

        Raises:
            RepotError: It has failed, or died.
        """
        for reply in self.connection.replies():
            if "error" in reply:
                raise getattr(errors, reply["error"])(reply["message"])
            if "sandbox" in reply:
                if self._is_first:
                    _log.info("pictures are decoded in a sandbox: %s", reply["sandbox"])
                    self._is_first = False
                continue
            yield reply
        raise errors.RepotError(
            "A worker process must run until its shards are built; "
            f"{purpose} {self.connection.end()}. See its last log lines above. "
            "If it was killed (-9), give it more memory or use fewer processes."
        )
