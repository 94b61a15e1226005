"""A worker: threads that read pictures and write shards, and the decoders that they use.

`repot.shard_builder.worker_pool` runs one in its own process, and others as processes:

    python -m repot.shard_builder.worker DATASET_URI SCRATCH_FOLDER NUM_DECODERS

A worker takes requests and gives replies; a process has one JSON object per line of its standard
input and output:

    {"shard": name}                           build a shard; as many at the same time as
                                              SHARDS_PER_DECODER times NUM_DECODERS
    {"sandbox": text}                         the layers of the sandbox that decodes the pictures
    {"pictures": n}                           n more pictures are done
    {"shard": name, "num_records": n, "size_bytes": n}    the shard is finished
    {"error": class name, "message": text}    a request cannot be fulfilled

    {"thumbnails": [picture, ...], "max_side": n}         reduce pictures
    {"thumbnails": [base64 or null, ...]}     their JPEGs; null if one cannot be read any more

The worker has access to the storage and decodes nothing: sandboxed processes do that. A decoder
decodes a batch of any shard, then of another one: with an object store, more shards are under way
than there are decoders, so that one is read, uploaded and completed while others are decoded. A
worker process exits as soon as its standard input ends, which also happens when its parent is
killed.
"""

import base64
import contextlib
import json
import logging
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from repot.errors import DataError, RepotError, StorageError
from repot.memory import describe_out_of_memory, limit_heaps
from repot.picture_decoder import DecoderHost, PictureDecoder
from repot.picture_result import Edges, Picture, RejectedPicture

SHARDS_PER_DECODER = 2
"""Shards that a worker can build at the same time, per decoder."""

_log = logging.getLogger(__name__)

Fields = Mapping[str, Any]
"""A request or a reply, see above."""

_NUM_READERS = 16
_CLOSE_SECONDS = 2.0


def main() -> None:
    """Be a worker process."""
    dataset_uri, scratch_path, num_decoders = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    lock = threading.Lock()

    def reply(fields: Fields) -> None:
        with lock:
            sys.stdout.write(json.dumps(fields) + "\n")
            sys.stdout.flush()

    worker = Worker(dataset_uri, scratch_path, num_decoders=num_decoders, reply=reply)
    # Read here, so that its end is noticed while shards are being built.
    for line in sys.stdin:
        worker.request(json.loads(line))
    shutil.rmtree(scratch_path, ignore_errors=True)
    os._exit(0)


class Worker:
    """Fulfils requests until one fails."""

    def __init__(
        self,
        dataset_uri: str,
        scratch_path: Path,
        *,
        num_decoders: int,
        reply: Callable[[Fields], None],
    ) -> None:
        """Start the threads and the decoders.

        Args:
            dataset_uri: Folder of a planned dataset.
            scratch_path: Local folder for temporary files; it is created when it is needed.
            num_decoders: Number of decoders.
            reply: Called with each reply, by any thread.
        """
        limit_heaps()
        self._dataset_uri, self._scratch_path, self._reply = dataset_uri, scratch_path, reply
        self._requests: queue.SimpleQueue[Fields | None] = queue.SimpleQueue()
        self._decoders = _Decoders()
        # First, so that the decoders start while this process imports the rest.
        starter = threading.Thread(target=self._start_decoders, args=[num_decoders], daemon=True)
        starter.start()
        # Not joined at the end of the program: a read from a disk that is gone never returns.
        self._threads = [
            threading.Thread(target=self._serve, daemon=True)
            for _ in range(SHARDS_PER_DECODER * num_decoders)
        ]
        for thread in self._threads:
            thread.start()

    def request(self, fields: Fields) -> None:
        """Take a request."""
        self._requests.put(fields)

    def close(self) -> None:
        """Give up what is not finished, and end the decoders."""
        for _ in self._threads:
            self._requests.put(None)
        self._decoders.close()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            self._decoders.release()

    def _start_decoders(self, number: int) -> None:
        """Start decoders, which end with the thread that started them; wait for `close`."""
        with self._reported_errors():
            self._decoders.run(number, lambda layers: self._reply({"sandbox": layers}))

    def _serve(self) -> None:
        with self._reported_errors():
            from repot.shard_builder import shard

            while (request := self._requests.get()) is not None:
                if "thumbnails" in request:
                    self._reply({"thumbnails": _thumbnails(request, self._decoders)})
                    continue
                counter = _PictureCounter(self._reply)
                receipt = shard.build_shard(
                    self._dataset_uri,
                    request["shard"],
                    scratch_path=self._scratch_path,
                    decode=self._decoders.decode,
                    on_pictures=counter.add,
                )
                counter.flush()
                self._reply(
                    {
                        "shard": receipt.shard,
                        "num_records": receipt.num_records,
                        "size_bytes": receipt.size_bytes,
                    }
                )

    @contextlib.contextmanager
    def _reported_errors(self) -> Iterator[None]:
        """Reply with the error of the block, if there is one."""
        try:
            yield
        except RepotError as err:
            self._report(type(err).__name__, str(err))
        except MemoryError as err:
            self._report(RepotError.__name__, describe_out_of_memory(err))
        except Exception as err:  # noqa: BLE001 (whoever waits for the reply raises it)
            if not self._decoders.is_closed():
                _log.exception("A worker has failed")
            message = f"A worker must build its shards; it has failed: {type(err).__name__}: {err}."
            self._report(RepotError.__name__, message)

    def _report(self, error_name: str, message: str) -> None:
        # An error after `close` is a result of it, because decoders are killed.
        if not self._decoders.is_closed():
            self._reply({"error": error_name, "message": message})


class _Decoders:
    """Decoders, each of which decodes one batch at a time, whichever thread has one."""

    def __init__(self) -> None:
        self._idle: queue.SimpleQueue[PictureDecoder | None] = queue.SimpleQueue()
        self._all: list[PictureDecoder] = []
        self._is_closed = threading.Event()
        self._has_ended = threading.Event()

    def run(self, number: int, on_start: Callable[[str], None]) -> None:
        """Start decoders; return after `close`."""
        host = DecoderHost()
        try:
            for _ in range(number):
                decoder = PictureDecoder(host=host)
                self._all.append(decoder)
                layers = ", ".join(decoder.layers())
                if self._is_closed.is_set():
                    return
                on_start(layers)
                self._idle.put(decoder)
            self._is_closed.wait()
        finally:
            host.close()
            self._has_ended.set()

    def close(self) -> None:
        """End the decoders; who decodes or waits for one gets a RepotError."""
        self._is_closed.set()
        for decoder in self._all:
            decoder.stop()
        self._idle.put(None)
        self._has_ended.wait(_CLOSE_SECONDS)

    def is_closed(self) -> bool:
        """Return whether `close` has begun."""
        return self._is_closed.is_set()

    def release(self) -> None:
        """Release the memory and descriptors of decoders that nobody uses any more."""
        for decoder in self._all:
            decoder.close()

    def decode(
        self,
        files: Sequence[tuple[str, bytes]],
        crops: Sequence[Edges | None] = (),
        *,
        max_side: int = 0,
    ) -> list[Picture | RejectedPicture]:
        """Decode pictures as soon as a decoder is idle, see `PictureDecoder.decode`."""
        decoder = self._idle.get()
        try:
            if decoder is None:
                raise RepotError("A worker must run until its work is done; it was closed before.")
            return decoder.decode(files, crops, max_side=max_side)
        finally:
            self._idle.put(decoder)


def _thumbnails(request: Fields, decoders: _Decoders) -> list[str | None]:
    """Return JPEGs in base64; None for pictures that cannot be read or decoded any more."""
    import dacite

    from repot.shard_builder.shard import Readers, crop_edges, read_picture
    from repot.work_list import SourcePicture

    def read(source: SourcePicture) -> bytes | None:
        try:
            return read_picture(source)
        except (RejectedPicture, DataError, StorageError):
            return None

    sources = [
        dacite.from_dict(SourcePicture, value, dacite.Config(cast=[tuple]))
        for value in request["thumbnails"]
    ]
    with contextlib.closing(Readers(_NUM_READERS)) as readers:
        pending = [readers.submit(read, source) for source in sources]
        files = {
            number: (source.uri, data)
            for number, (source, future) in enumerate(zip(sources, pending, strict=True))
            if (data := future.result()) is not None
        }
    results = decoders.decode(
        list(files.values()),
        [crop_edges(sources[number]) for number in files],
        max_side=request["max_side"],
    )
    found = {
        number: base64.b64encode(result.jpeg).decode()
        for number, result in zip(files, results, strict=True)
        if isinstance(result, Picture)
    }
    return [found.get(number) for number in range(len(sources))]


class _PictureCounter:
    """Counts finished pictures and reports them at intervals."""

    def __init__(self, reply: Callable[[Fields], None]) -> None:
        from repot.progress import REPORT_INTERVAL_SECONDS

        self._reply, self._interval, self._count = reply, REPORT_INTERVAL_SECONDS, 0
        self._reported_at = time.monotonic()

    def add(self, count: int) -> None:
        self._count += count
        if time.monotonic() - self._reported_at >= self._interval:
            self.flush()

    def flush(self) -> None:
        if self._count:
            self._reply({"pictures": self._count})
        self._count, self._reported_at = 0, time.monotonic()


if __name__ == "__main__":
    main()
