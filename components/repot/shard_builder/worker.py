"""A worker process that builds shards; `repot.shard_builder.worker_pool` starts it.

    python -m repot.shard_builder.worker DATASET_URI SCRATCH_FOLDER NUM_DECODERS

Standard input has one JSON request per line, standard output JSON lines:

    {"shard": name}                           build a shard; as many are built at the same time as
                                              there are decoders
    {"sandbox": text}                         the layers of the sandbox that decodes the pictures
    {"pictures": n}                           n more pictures are done
    {"shard": name, "num_records": n, "size_bytes": n}    the shard is finished
    {"error": class name, "message": text}    a request cannot be fulfilled

    {"thumbnails": [picture, ...], "max_side": n}         reduce pictures
    {"thumbnails": [base64 or null, ...]}     their JPEGs; null if one cannot be read any more

The worker has access to the storage and decodes nothing: sandboxed processes do that. Each is used
by a thread of its own. Several share one worker, because its start takes as long as 300 pictures.
The worker exits as soon as its standard input ends, which also happens when its parent is killed.
"""

import base64
import json
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repot.errors import DataError, RepotError, StorageError
from repot.memory import describe_out_of_memory
from repot.picture_decoder import PictureDecoder

_reply_lock = threading.Lock()


def main() -> None:
    """Fulfil the requests on standard input."""
    dataset_uri, scratch_path, num_decoders = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for _ in range(num_decoders):
        arguments = (requests, dataset_uri, scratch_path)
        threading.Thread(target=_serve, args=arguments, daemon=True).start()
    # Read here, so that its end is noticed while shards are being built.
    for line in sys.stdin:
        requests.put(json.loads(line))
    shutil.rmtree(scratch_path, ignore_errors=True)
    os._exit(0)


def _serve(
    requests: queue.SimpleQueue[dict[str, Any]], dataset_uri: str, scratch_path: Path
) -> None:
    """Fulfil one request after another until one fails."""
    try:
        # First, so that the decoder starts while this process imports the rest.
        with PictureDecoder() as decoder:
            from repot.shard_builder import shard

            _reply(sandbox=", ".join(decoder.layers()))
            while True:
                request = requests.get()
                if "thumbnails" in request:
                    _reply(thumbnails=_thumbnails(request, decoder))
                    continue
                counter = _PictureCounter()
                receipt = shard.build_shard(
                    dataset_uri,
                    request["shard"],
                    scratch_path=scratch_path,
                    decode=decoder.decode,
                    on_pictures=counter.add,
                )
                counter.flush()
                _reply(
                    shard=receipt.shard,
                    num_records=receipt.num_records,
                    size_bytes=receipt.size_bytes,
                )
    except RepotError as err:
        _reply(error=type(err).__name__, message=str(err))
    except MemoryError as err:
        _reply(error=RepotError.__name__, message=describe_out_of_memory(err))


def _thumbnails(request: Mapping[str, Any], decoder: PictureDecoder) -> list[str | None]:
    """Return JPEGs in base64; None for pictures that cannot be read or decoded any more."""
    import dacite

    from repot.dataset_plan import SourcePicture
    from repot.picture_result import Picture, RejectedPicture
    from repot.shard_builder.shard import crop_edges, read_picture

    sources = [
        dacite.from_dict(SourcePicture, value, dacite.Config(cast=[tuple]))
        for value in request["thumbnails"]
    ]
    files: dict[int, tuple[str, bytes]] = {}
    for number, source in enumerate(sources):
        try:
            files[number] = source.uri, read_picture(source)
        except (RejectedPicture, DataError, StorageError):
            continue
    results = decoder.decode(
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
