"""A worker process that builds shards; `repot.shard_builder.worker_pool` starts it.

    python -m repot.shard_builder.worker DATASET_URI SCRATCH_FOLDER NUM_DECODERS

Standard input has one JSON request per line, standard output JSON lines:

    {"shard": name}                           build a shard; as many at the same time as
                                              SHARDS_PER_DECODER times NUM_DECODERS
    {"sandbox": text}                         the layers of the sandbox that decodes the pictures
    {"pictures": n}                           n more pictures are done
    {"shard": name, "num_records": n, "size_bytes": n}    the shard is finished
    {"error": class name, "message": text}    a request cannot be fulfilled

    {"thumbnails": [picture, ...], "max_side": n}         reduce pictures
    {"thumbnails": [base64 or null, ...]}     their JPEGs; null if one cannot be read any more

The worker has access to the storage and decodes nothing: sandboxed processes do that. Several share
one worker, because its start takes as long as 300 pictures. A decoder decodes a batch of any shard,
then of another one: with an object store, more shards are under way than there are decoders, so
that one is read, uploaded and completed while others are decoded. The worker exits as soon as its
standard input ends, which also happens when its parent is killed.
"""

import base64
import contextlib
import json
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from repot.errors import DataError, RepotError, StorageError
from repot.memory import describe_out_of_memory
from repot.picture_decoder import PictureDecoder
from repot.picture_result import Edges, Picture, RejectedPicture

SHARDS_PER_DECODER = 2
"""Shards that a worker can build at the same time, per decoder."""

_NUM_READERS = 16

_reply_lock = threading.Lock()


def main() -> None:
    """Fulfil the requests on standard input."""
    dataset_uri, scratch_path, num_decoders = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    decoders = _Decoders()
    # First, so that the decoders start while this process imports the rest.
    for _ in range(num_decoders):
        threading.Thread(target=decoders.keep_one, daemon=True).start()
    for _ in range(SHARDS_PER_DECODER * num_decoders):
        arguments = (requests, decoders, dataset_uri, scratch_path)
        threading.Thread(target=_serve, args=arguments, daemon=True).start()
    # Read here, so that its end is noticed while shards are being built.
    for line in sys.stdin:
        requests.put(json.loads(line))
    shutil.rmtree(scratch_path, ignore_errors=True)
    os._exit(0)


class _Decoders:
    """Decoders, each of which decodes one batch at a time, whichever thread has one."""

    def __init__(self) -> None:
        self._idle: queue.SimpleQueue[PictureDecoder] = queue.SimpleQueue()

    def keep_one(self) -> None:
        """Start a decoder, which ends with the thread that started it; return never."""
        with _reported_errors(), PictureDecoder() as decoder:
            _reply(sandbox=", ".join(decoder.layers()))
            self._idle.put(decoder)
            threading.Event().wait()

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
            return decoder.decode(files, crops, max_side=max_side)
        finally:
            self._idle.put(decoder)


def _serve(
    requests: queue.SimpleQueue[dict[str, Any]],
    decoders: _Decoders,
    dataset_uri: str,
    scratch_path: Path,
) -> None:
    """Fulfil one request after another until one fails."""
    with _reported_errors():
        from repot.shard_builder import shard

        while True:
            request = requests.get()
            if "thumbnails" in request:
                _reply(thumbnails=_thumbnails(request, decoders))
                continue
            counter = _PictureCounter()
            receipt = shard.build_shard(
                dataset_uri,
                request["shard"],
                scratch_path=scratch_path,
                decode=decoders.decode,
                on_pictures=counter.add,
            )
            counter.flush()
            _reply(
                shard=receipt.shard,
                num_records=receipt.num_records,
                size_bytes=receipt.size_bytes,
            )


@contextlib.contextmanager
def _reported_errors() -> Iterator[None]:
    """Reply with the error of the block, if there is one."""
    try:
        yield
    except RepotError as err:
        _reply(error=type(err).__name__, message=str(err))
    except MemoryError as err:
        _reply(error=RepotError.__name__, message=describe_out_of_memory(err))


def _thumbnails(request: Mapping[str, Any], decoders: _Decoders) -> list[str | None]:
    """Return JPEGs in base64; None for pictures that cannot be read or decoded any more."""
    import dacite

    from repot.dataset_plan import SourcePicture
    from repot.shard_builder.shard import crop_edges, read_picture

    def read(source: SourcePicture) -> bytes | None:
        try:
            return read_picture(source)
        except (RejectedPicture, DataError, StorageError):
            return None

    sources = [
        dacite.from_dict(SourcePicture, value, dacite.Config(cast=[tuple]))
        for value in request["thumbnails"]
    ]
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        files = {
            number: (source.uri, data)
            for number, (source, data) in enumerate(
                zip(sources, readers.map(read, sources), strict=True)
            )
            if data is not None
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

    def __init__(self) -> None:
        from repot.progress import REPORT_INTERVAL_SECONDS

        self._interval, self._count = REPORT_INTERVAL_SECONDS, 0
        self._reported_at = time.monotonic()

    def add(self, count: int) -> None:
        self._count += count
        if time.monotonic() - self._reported_at >= self._interval:
            self.flush()

    def flush(self) -> None:
        if self._count:
            _reply(pictures=self._count)
        self._count, self._reported_at = 0, time.monotonic()


def _reply(**fields: int | str | list[str | None]) -> None:
    with _reply_lock:
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
