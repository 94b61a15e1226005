"""Measure building shards from an object store that takes 50 ms per request.

A server in a process of its own stands for the store. It speaks as much of Google Cloud Storage's
API as a builder needs, so the real client, all checks of `repot.storage` and the real builder take
part; only the network is missing. Three tables:

    connections   one builder with one decoder: the rate from the store, for each number of
                  requests in flight, next to the rate from a local folder
    builders      1, 4 and 16 builders. This machine has too few cores for 16 decoders, so these
                  builders sleep for each picture instead of decoding it: what is measured is
                  whether reading, writing and the store let them go on, not decoding
    rate limit    builders meet a store that accepts only some requests per second for a while, and
                  answers 429 to the others: how many are refused, and how soon the full rate is
                  back

The server and all builders share this machine's cores, as no store does. Rates are pictures per
second of wall time, without the start of the processes.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar, cast
from unittest import mock

import google_crc32c
import numpy as np
from PIL import Image

from repot.picture_result import MINIATURE_BYTES, Edges, Picture
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.progress import ProgressCounter
from repot.settings import DatasetSettings
from repot.shard_builder import worker_pool
from repot.shard_builder.worker_pool import WorkerPool

LATENCY_SECONDS = 0.05
PICTURES_PER_SHARD = 1024
PAGE_OBJECTS = 1000
BUCKET = "gs://bucket"


class _Store(asyncio.Protocol):
    """One connection to the store."""

    objects: ClassVar[dict[str, bytes]] = {}
    uploads: ClassVar[dict[str, list[bytes]]] = {}
    latency_seconds = 0.0
    max_per_second = 0.0
    num_requests = num_refused = 0
    _accepted_at = 0.0

    def __init__(self) -> None:
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        length = int(headers.get("content-length", 0))
        if len(self._buffer) < end + 4 + length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        self._buffer.clear()
        method, target, _ = head.split(" ")
        if target == "/control":
            self._send(*self._control(body))
            return
        _Store.num_requests += 1
        if self._is_refused():
            _Store.num_refused += 1
            self._later(429, {}, b"{}")
        else:
            self._later(*self._answer(method, urllib.parse.urlsplit(target), headers, body))

    def _is_refused(self) -> bool:
        """Accept requests at an even rate, with bursts of a tenth of a second."""
        if not _Store.max_per_second:
            return False
        now, step = time.monotonic(), 1 / _Store.max_per_second
        if _Store._accepted_at - now > 0.1:
            return True
        _Store._accepted_at = max(_Store._accepted_at, now) + step
        return False

    def _control(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        for name, value in json.loads(body or b"{}").items():
            if name == "delete_datasets":
                for each in [each for each in _Store.objects if each.startswith("datasets/")]:
                    del _Store.objects[each]
            elif name == "put":
                _Store.objects.update({key: text.encode() for key, text in value.items()})
            else:
                setattr(_Store, name, value)
        state = {name: getattr(_Store, name) for name in ("num_requests", "num_refused")}
        return 200, {}, json.dumps(state).encode()

    def _answer(
        self, method: str, url: urllib.parse.SplitResult, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path.startswith("/upload"):
            return self._upload(method, query, headers, body)
        name = urllib.parse.unquote(url.path.partition("/o/")[2])
        if not name:
            return 200, {}, json.dumps(self._list(query)).encode()
        if name not in _Store.objects:
            return 404, {}, b'{"error": {"message": "No such object"}}'
        if method == "DELETE":
            del _Store.objects[name]
            return 204, {}, b""
        if query.get("alt") != "media":
            return 200, {}, json.dumps(_describe(name)).encode()
        data = _Store.objects[name]
        goog = {"X-Goog-Generation": "1", "X-Goog-Hash": f"crc32c={_crc32c(name)}"}
        return 200, goog, data

    @staticmethod
    def _list(query: dict[str, str]) -> dict[str, Any]:
        """Return a page of the objects with a prefix, at most 1000 as the service does."""
        prefix, after = query.get("prefix", ""), query.get("pageToken", "")
        names = sorted(each for each in _Store.objects if each.startswith(prefix) and each > after)
        page: dict[str, Any] = {"items": [_describe(each) for each in names[:PAGE_OBJECTS]]}
        return {**page, "nextPageToken": names[PAGE_OBJECTS - 1]} if names[PAGE_OBJECTS:] else page

    def _upload(
        self, method: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Store an object that comes in one request, or in a second one: a resumable upload."""
        if method == "PUT":
            name, (span, total) = query["upload_id"], headers["content-range"][6:].split("/")
            parts = _Store.uploads.setdefault(name, [])
            parts.append(body)
            if not span.endswith(f"-{int(total) - 1}"):
                return 308, {"Range": f"bytes=0-{span.partition('-')[2]}"}, b""
            return self._store(name, b"".join(_Store.uploads.pop(name)))
        if query["uploadType"] == "resumable":
            name = urllib.parse.quote(json.loads(body)["name"], safe="")
            return 200, {"Location": f"http://{headers['host']}/upload?upload_id={name}"}, b""
        boundary = b"--" + headers["content-type"].partition("boundary=")[2].strip('"').encode()
        _, metadata, content, _ = body.split(boundary)
        name = json.loads(metadata.partition(b"\r\n\r\n")[2])["name"]
        return self._store(name, content.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))

    def _store(self, name: str, data: bytes) -> tuple[int, dict[str, str], bytes]:
        _Store.objects[name] = data
        _crc32cs.pop(name, None)
        return 200, {}, json.dumps(_describe(name)).encode()

    def _later(self, status: int, headers: dict[str, str], body: bytes) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(_Store.latency_seconds, self._send, status, headers, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        fields = {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        if not self._transport.is_closing():
            self._transport.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body)  # type: ignore[attr-defined]


_crc32cs: dict[str, str] = {}


def _crc32c(name: str) -> str:
    if name not in _crc32cs:
        value = google_crc32c.value(_Store.objects[name])
        _crc32cs[name] = base64.b64encode(value.to_bytes(4, "big")).decode()
    return _crc32cs[name]


def _describe(name: str) -> dict[str, str]:
    size = len(_Store.objects[name])
    described = {"name": name, "size": str(size), "crc32c": _crc32c(name), "generation": "1"}
    return {**described, "updated": "2026-11-01T02:00:00.000Z"}


def serve(pictures_path: Path) -> None:
    """Serve the files of a folder until the end of standard input; print the port."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Store, "127.0.0.1", 0, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.read)

    for path in pictures_path.rglob("*.jpg"):
        _Store.objects[f"pictures/{path.relative_to(pictures_path)}"] = path.read_bytes()
    asyncio.run(run())
    os._exit(0)


def control(**settings: Any) -> dict[str, int]:
    """Set what the store does from now on; return its counters."""
    url = os.environ["STORAGE_EMULATOR_HOST"] + "/control"
    with urllib.request.urlopen(url, data=json.dumps(settings).encode()) as response:
        return dict(json.load(response))


@contextmanager
def running_store(pictures_path: Path) -> Iterator[None]:
    """Run the store for the duration of the block."""
    command = [sys.executable, __file__, "--serve", str(pictures_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        port = int(cast(IO[bytes], server.stdout).readline())
        os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
        yield
        cast(IO[bytes], server.stdin).close()


def write_pictures(folder: Path, count: int) -> None:
    """Write JPEGs of 500 x 375 pixels, about 57 kB each, into two label folders."""
    draw = np.random.default_rng(0)
    jpegs = []
    for _ in range(32):
        coarse = draw.integers(0, 256, (47, 63, 3), np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC))
        noise = draw.normal(0, 9, pixels.shape)
        buffer = io.BytesIO()
        noisy = np.clip(pixels + noise, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(buffer, "JPEG", quality=82)
        jpegs.append(buffer.getvalue())
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
    for number in range(count):
        # Distinct contents: copies would have to be in one split.
        data = jpegs[number % len(jpegs)]
        comment = b"\xff\xfe\x00\x0a%08d" % number
        (folder / "ab"[number % 2] / f"{number:06d}.jpg").write_bytes(data[:2] + comment + data[2:])
    sizes = sum(map(len, jpegs)) / len(jpegs)
    print(f"{count} JPEGs of 500 x 375 pixels and {sizes / 1000:.0f} kB", flush=True)


def plan(pictures_uri: str, dataset_uri: str, num_shards: int) -> list[str]:
    """Plan a dataset; return the names of its training shards."""
    planned = plan_dataset(
        PictureRoots(pictures_uri=pictures_uri),
        dataset_folder=lambda _: dataset_uri,
        listings_uri=None,
        settings=DatasetSettings(
            train_shards=num_shards, validation_shards=1, validation_fraction=0.001, num_threads=1
        ),
    )
    return [name for name in planned.plan.shard_names if name.startswith("train")]


class SleepingDecoder:
    """Stands for a decoder on a core of its own, and its host: it waits as long as it would."""

    seconds = 0.0

    def __init__(self, *, host: object = None) -> None:
        """Start no process."""

    def close(self) -> None:
        """Do nothing."""

    def layers(self) -> list[str]:
        """Return that there is no sandbox."""
        return ["none"]

    def decode(
        self, files: Sequence[tuple[str, bytes]], _crops: Sequence[Edges | None], *, max_side: int
    ) -> list[Picture]:
        """Return each file as it is, after a while."""
        time.sleep(self.seconds * len(files))
        miniature = bytes(MINIATURE_BYTES)
        return [
            Picture(jpeg=data, height=375, width=500, source_format="JPEG", miniature=miniature)
            for _, data in files
        ]


def act_as_worker(connections: int, sleep_seconds: float, arguments: Sequence[str]) -> None:
    """Run the shard builder's worker, with fewer connections or with a sleeping decoder."""
    from repot.storage import retries

    if connections:
        retries.NUM_CONNECTIONS = connections
    from repot.shard_builder import worker

    if sleep_seconds:
        SleepingDecoder.seconds = sleep_seconds
        vars(worker)["PictureDecoder"] = vars(worker)["DecoderHost"] = SleepingDecoder
    sys.argv = [sys.argv[0], *arguments]
    worker.main()


@contextmanager
def changed_workers(*, connections: int = 0, sleep_seconds: float = 0.0) -> Iterator[None]:
    """Start workers that `act_as_worker` during the block."""
    popen: Any = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        own = [sys.executable, __file__, "--worker", str(connections), str(sleep_seconds)]
        return popen([*own, *command[4:]], **options)

    with mock.patch.object(
        worker_pool, "subprocess", SimpleNamespace(Popen=start, PIPE=subprocess.PIPE)
    ):
        yield


def build(pools: Sequence[WorkerPool], shares: Sequence[Sequence[str]]) -> float:
    """Build a share of shards with each pool at the same time; return the seconds.

    The first shard of each share is built before: the processes start, and connections are opened.
    """
    counter = ProgressCounter("build", 0, unit="pictures")
    with ThreadPoolExecutor(len(pools)) as drivers:

        def run(first: int, last: int | None) -> None:
            parts = [share[first:last] for share in shares]
            list(
                drivers.map(
                    lambda pool, part: pool.build(part, counter, with_store=True), pools, parts
                )
            )

        run(0, 1)
        started = time.monotonic()
        run(1, None)
        return time.monotonic() - started


def measure_connections(folder: Path, num_shards: int, sleep_seconds: float = 0.0) -> None:
    """Print the rates of one builder, whose decoder decodes or sleeps."""
    name = f"builder that sleeps {1000 * sleep_seconds:.0f} ms per picture" if sleep_seconds else ""
    print(f"\n{name or 'one builder':36} {'pictures/s':>10} {'ratio':>6}")

    def rate(pictures_uri: str, dataset_uri: str, *, connections: int = 0) -> float:
        # A few requests at a time are slow: less work tells as much.
        factor = 8 if 0 < connections <= 8 else 1
        count = 3 if factor > 1 else num_shards
        names = plan(pictures_uri, dataset_uri, num_shards * factor)[:count]
        with (
            changed_workers(connections=connections, sleep_seconds=sleep_seconds),
            WorkerPool(dataset_uri, num_decoders=1) as pool,
        ):
            seconds = build([pool], [names])
        control(delete_datasets=1)
        return (count - 1) * PICTURES_PER_SHARD / factor / seconds

    local = rate(str(folder / "pictures"), str(folder / f"local{sleep_seconds}"))
    print(f"{'local folder':36} {local:10.0f} {1.0:6.2f}", flush=True)
    counts = () if sleep_seconds else (1, 8, 32, 64)
    cases = [
        ("store, no latency", 0.0, 0),
        *((f"store, 50 ms, {count} at a time", LATENCY_SECONDS, count) for count in counts),
        ("store, 50 ms, 128 at a time (repot)", LATENCY_SECONDS, 0),
    ]
    for number, (name, latency, connections) in enumerate(cases):
        control(latency_seconds=latency)
        dataset_uri = f"{BUCKET}/datasets/c{number}"
        found = rate(f"{BUCKET}/pictures", dataset_uri, connections=connections)
        print(f"{name:36} {found:10.0f} {found / local:6.2f}", flush=True)


def measure_builders(num_shards: int, sleep_seconds: float) -> None:
    """Print the rates of 1, 4 and 16 builders that sleep instead of decoding."""
    control(latency_seconds=LATENCY_SECONDS)
    print(f"\nbuilders that sleep {1000 * sleep_seconds:.0f} ms per picture instead of decoding it")
    print(f"{'builders':>8} {'pictures/s':>11} {'of linear':>10} {'requests/s':>11}")
    single = 0.0
    per_builder, size = num_shards // 16, PICTURES_PER_SHARD // 8
    for count in (1, 4, 16):
        dataset_uri = f"{BUCKET}/datasets/b{count}"
        names = plan(f"{BUCKET}/pictures", dataset_uri, num_shards)
        shares = [names[n * per_builder : (n + 1) * per_builder] for n in range(count)]
        with changed_workers(sleep_seconds=sleep_seconds), ExitStack() as stack:
            pools = [stack.enter_context(WorkerPool(dataset_uri, num_decoders=1)) for _ in shares]
            before = control()["num_requests"]
            seconds = build(pools, shares)
            requests = (control()["num_requests"] - before) * (per_builder - 1) / per_builder
        rate = count * (per_builder - 1) * size / seconds
        single = single or rate
        print(
            f"{count:8} {rate:11.1f} {rate / count / single:10.2f} {requests / seconds:11.0f}",
            flush=True,
        )


def measure_rate_limit(num_shards: int) -> None:
    """Print how builders meet a limit of 60 requests per second, and how they recover."""
    control(latency_seconds=LATENCY_SECONDS)
    dataset_uri = f"{BUCKET}/datasets/limited"
    names = plan(f"{BUCKET}/pictures", dataset_uri, num_shards)
    print("\n4 builders, 10 ms per picture; the store accepts 60 requests/s from 3 s to 13 s")
    print(f"{'from':>6} {'requests/s':>11} {'refused':>8}")
    with changed_workers(sleep_seconds=0.01), ExitStack() as stack:
        pools = [stack.enter_context(WorkerPool(dataset_uri, num_decoders=1)) for _ in range(4)]
        counter = ProgressCounter("build", 0, unit="pictures")
        with ThreadPoolExecutor(4) as drivers:
            futures = [
                drivers.submit(pool.build, names[n::4], counter, with_store=True)
                for n, pool in enumerate(pools)
            ]
            time.sleep(3)  # The processes start.
            started, last = time.monotonic(), control()
            while not all(future.done() for future in futures):
                at = time.monotonic() - started
                control(max_per_second=60.0 if 3 <= at < 13 else 0.0)
                time.sleep(1.0)
                now = control()
                refused = now["num_refused"] - last["num_refused"]
                accepted = now["num_requests"] - last["num_requests"] - refused
                print(f"{at:5.0f}s {accepted:11} {refused:8}", flush=True)
                last = now
            for future in futures:
                future.result()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=8, help="shards of 1024 pictures")
    parser.add_argument("--sleep", type=float, default=0.04, help="seconds per picture")
    parser.add_argument("--only", choices=("connections", "builders", "limit"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_pictures(folder / "pictures", arguments.shards * PICTURES_PER_SHARD + 2)
        with running_store(folder / "pictures"):
            if arguments.only in (None, "connections"):
                measure_connections(folder, arguments.shards)
                measure_connections(folder, max(2, arguments.shards // 2), sleep_seconds=0.002)
            if arguments.only in (None, "builders"):
                measure_builders(8 * arguments.shards, arguments.sleep)
            if arguments.only in (None, "limit"):
                measure_rate_limit(8 * arguments.shards)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--worker"]:
        act_as_worker(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
    else:
        main()
