"""Measure building shards from an object store that takes 50 ms per request.

    make object-storage
    .venv/bin/python -m benchmarks.object_storage [--only requests|connections|builders|limit]

A server in a process of its own stands for the store. It speaks as much of the APIs of Google Cloud
Storage and S3 as a builder needs, so the real clients, all checks of `repot.storage` and the real
builder take part; only the network and TLS are missing. Four tables:

    requests      processor time of reading and writing one small object, next to a bare
                  `http.client`, `urllib3`, and the clients of Google and Amazon
    connections   one builder with one decoder: the rate from the store, for each number of
                  requests in flight, next to the rate from a local folder; processor time of the
                  builder and of the server per picture, and the largest memory of the process
                  that reads and writes
    builders      1, 4 and 16 builders, or other numbers. This machine has too few cores for that
                  many decoders, so these builders sleep for each picture instead of decoding it:
                  what is measured is whether reading, writing and the store let them go on, not
                  decoding
    rate limit    builders meet a store that accepts only some requests per second for a while, and
                  answers 429 to the others: how many are refused, and how soon the full rate is
                  back

The server and all builders share this machine's cores, as no store does. Rates are pictures per
second of wall time, without the start of the processes.
"""

import argparse
import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar, cast
from unittest import mock

import google_crc32c
import numpy as np
import urllib3
from PIL import Image

from repot import storage
from repot.dataset_plan import read_plan
from repot.picture_result import MINIATURE_BYTES, Edges, Picture
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.progress import ProgressCounter
from repot.settings import DatasetSettings
from repot.shard_builder import worker_pool
from repot.shard_builder.worker_pool import WorkerPool
from repot.storage.gcs import client as gcs_client
from repot.storage.retries import NUM_CONNECTIONS
from repot.storage.s3 import client as s3_client

LATENCY_SECONDS = 0.05
PICTURES_PER_SHARD = 1024
PAGE_OBJECTS = 1000
SHARDS_PER_BUILDER = 3
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
        self._head = ""
        self._headers: dict[str, str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._head:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
            del self._buffer[: end + 4]
            fields = (line.partition(":") for line in lines)
            self._headers = {name.lower(): value.strip() for name, _, value in fields}
            if self._headers.get("expect") == "100-continue":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if len(self._buffer) < int(self._headers.get("content-length", 0)):
            return
        body = bytes(self._buffer)
        self._buffer.clear()
        method, target, _ = self._head.split(" ")
        self._head = ""
        if target == "/control":
            self._transport.write(_response(*self._control(body)))
            return
        _Store.num_requests += 1
        if self._is_refused():
            _Store.num_refused += 1
            response = _response(429, {}, b"{}")
        else:
            response = self._answer(method, urllib.parse.urlsplit(target), body)
        loop = asyncio.get_running_loop()
        loop.call_later(_Store.latency_seconds, self._send, response)

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
        return 200, {}, json.dumps({**state, "process": os.getpid()}).encode()

    def _answer(self, method: str, url: urllib.parse.SplitResult, body: bytes) -> bytes:
        if url.path.startswith("/bucket/"):
            return self._answer_s3(method, urllib.parse.unquote(url.path[len("/bucket/") :]), body)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path.startswith("/upload"):
            return _response(*self._upload(method, query, body))
        name = urllib.parse.unquote(url.path.partition("/o/")[2])
        if not name:
            return _response(200, {}, json.dumps(self._list(query)).encode())
        if name not in _Store.objects:
            return _response(404, {}, b'{"error": {"message": "No such object"}}')
        if method == "DELETE":
            del _Store.objects[name]
            return _response(204, {}, b"")
        return _response(200, *self._content(name, with_data=query.get("alt") == "media"))

    def _content(self, name: str, *, with_data: bool) -> tuple[dict[str, str], bytes]:
        if not with_data:
            return {}, json.dumps(_describe(name)).encode()
        # About as many headers as the real service sends.
        headers = {
            **_USUAL_HEADERS,
            "X-Goog-Generation": "1",
            "X-Goog-Metageneration": "1",
            "X-Goog-Hash": f"crc32c={_crc32c(name)}",
            "X-Goog-Storage-Class": "STANDARD",
            "X-Goog-Stored-Content-Encoding": "identity",
            "X-Goog-Stored-Content-Length": str(len(_Store.objects[name])),
            "X-GUploader-UploadID": "x" * 90,
        }
        return headers, _Store.objects[name]

    def _answer_s3(self, method: str, name: str, body: bytes) -> bytes:
        if method == "PUT":
            self._store(name, body)
        if name not in _Store.objects:
            return _response(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
        headers = {
            **_USUAL_HEADERS,
            "x-amz-checksum-crc32c": _crc32c(name),
            "x-amz-checksum-type": "FULL_OBJECT",
            "x-amz-id-2": "x" * 76,
            "x-amz-request-id": "x" * 16,
            "x-amz-server-side-encryption": "AES256",
        }
        return _response(200, headers, b"" if method == "PUT" else _Store.objects[name])

    @staticmethod
    def _list(query: dict[str, str]) -> dict[str, Any]:
        """Return a page of the objects with a prefix, at most 1000 as the service does."""
        prefix, after = query.get("prefix", ""), query.get("pageToken", "")
        names = sorted(each for each in _Store.objects if each.startswith(prefix) and each > after)
        page: dict[str, Any] = {"items": [_describe(each) for each in names[:PAGE_OBJECTS]]}
        return {**page, "nextPageToken": names[PAGE_OBJECTS - 1]} if names[PAGE_OBJECTS:] else page

    def _upload(
        self, method: str, query: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Store an object that comes in one request, or in a second one: a resumable upload."""
        headers = self._headers
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

    def _send(self, response: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(response)


_USUAL_HEADERS = {
    "Accept-Ranges": "bytes",
    "Cache-Control": "private, max-age=0",
    "Date": "Thu, 01 Jan 2026 00:00:00 GMT",
    "ETag": '"1"',
    "Expires": "Thu, 01 Jan 2026 00:00:00 GMT",
    "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
    "Server": "benchmark",
}
_crc32cs: dict[str, str] = {}


def _response(status: int, headers: dict[str, str], body: bytes) -> bytes:
    fields = {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body


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
        os.environ["AWS_ENDPOINT_URL_S3"] = os.environ["STORAGE_EMULATOR_HOST"]
        os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "key"
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


def num_pictures(dataset_uri: str, shards: Sequence[str]) -> int:
    """Return the number of pictures in shards of a planned dataset."""
    by_shard = read_plan(dataset_uri).num_pictures
    return sum(by_shard[shard] for shard in shards)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What building took.

    Attributes:
        seconds: Wall time.
        builder_seconds, server_seconds: Processor time of this process and all workers and
            decoders, and of the server.
        worker_mb: The largest memory of a process that reads and writes.
    """

    seconds: float
    builder_seconds: float
    server_seconds: float
    worker_mb: float


def build(
    pools: Sequence[WorkerPool], shares: Sequence[Sequence[str]], *, with_store: bool = True
) -> Cost:
    """Build a share of shards with each pool at the same time.

    The first shard of each share is built before: the processes start, and connections are opened.
    """
    counter = ProgressCounter("build", 0, unit="pictures")
    with ThreadPoolExecutor(len(pools)) as drivers:

        def run(first: int, last: int | None) -> None:
            parts = [share[first:last] for share in shares]
            list(
                drivers.map(
                    lambda pool, part: pool.build(part, counter, with_store=with_store),
                    pools,
                    parts,
                )
            )

        run(0, 1)
        server = control()["process"]
        started, before = time.monotonic(), processor_seconds()
        run(1, None)
        seconds, after = time.monotonic() - started, processor_seconds()
    used = {process: after[process] - before.get(process, 0.0) for process in after}
    return Cost(
        seconds=seconds,
        builder_seconds=sum(used.values()) - used[server],
        server_seconds=used[server],
        worker_mb=largest_worker_mb(),
    )


def processor_seconds() -> dict[int, float]:
    """Return the processor time of this process and of all that come from it, by process id."""
    parents, times = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # Source: proc_pid_stat(5). The name in parentheses may contain blanks.
            fields = path.read_text().rpartition(")")[2].split()
            process = int(path.parent.name)
            parents[process] = int(fields[1])
            times[process] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    found = {os.getpid()}
    while new := {process for process in parents if parents[process] in found} - found:
        found |= new
    return {process: times[process] for process in found}


def largest_worker_mb() -> float:
    """Return the largest memory that a worker process has had so far; 0 if there is none."""
    largest = 0.0
    for process in processor_seconds():
        with contextlib.suppress(OSError):
            folder = Path("/proc", str(process))
            if b"--worker" in (folder / "cmdline").read_bytes():
                status = (folder / "status").read_text()
                peak_kb = status.partition("VmHWM:")[2].split()[0]
                largest = max(largest, int(peak_kb) / 1024)
    return largest


def measure_connections(folder: Path, num_shards: int, sleep_seconds: float = 0.0) -> None:
    """Print the rates of one builder, whose decoder decodes or sleeps."""
    name = f"builder that sleeps {1000 * sleep_seconds:.0f} ms per picture" if sleep_seconds else ""
    print(
        f"\n{name or 'one builder':36} {'pictures/s':>10} {'ratio':>6} {'CPU, builder':>13} "
        f"{'server':>8} {'memory':>7}"
    )

    def rate(
        name: str, pictures_uri: str, dataset_uri: str, local: float, *, connections: int = 0
    ) -> float:
        # A few requests at a time are slow: less work tells as much.
        factor = 16 if 0 < connections <= 8 else 1
        count = 2 if factor > 1 else num_shards
        names = plan(pictures_uri, dataset_uri, num_shards * factor)[:count]
        with (
            changed_workers(connections=connections, sleep_seconds=sleep_seconds),
            WorkerPool(dataset_uri, num_decoders=1) as pool,
        ):
            # Only worker processes sleep.
            with_store = pictures_uri.startswith(BUCKET) or sleep_seconds > 0
            cost = build([pool], [names], with_store=with_store)
        control(delete_datasets=1)
        pictures = (count - 1) * PICTURES_PER_SHARD / factor
        found = pictures / cost.seconds
        print(
            f"{name:36} {found:10.0f} {found / (local or found):6.2f} "
            f"{1000 * cost.builder_seconds / pictures:10.2f} ms "
            f"{1000 * cost.server_seconds / pictures:5.2f} ms "
            # Without a store, this process reads and writes.
            + (f"{cost.worker_mb:4.0f} MB" if cost.worker_mb else ""),
            flush=True,
        )
        return found

    pictures = str(folder / "pictures")
    local = rate("local folder", pictures, str(folder / f"local{sleep_seconds}"), 0.0)
    counts = () if sleep_seconds else (8, 32, 64)
    cases = [
        ("store, no latency", 0.0, 0),
        *((f"store, 50 ms, {count} at a time", LATENCY_SECONDS, count) for count in counts),
        ("store, 50 ms, 128 at a time (repot)", LATENCY_SECONDS, 0),
    ]
    for number, (name, latency, connections) in enumerate(cases):
        control(latency_seconds=latency)
        dataset_uri = f"{BUCKET}/datasets/c{number}"
        rate(name, f"{BUCKET}/pictures", dataset_uri, local, connections=connections)


def measure_builders(counts: Sequence[int], num_shards: int, sleep_seconds: float) -> None:
    """Print the rates of numbers of builders that sleep instead of decoding.

    Args:
        counts: The numbers of builders, 1 first.
        num_shards: Shards for each builder.
        sleep_seconds: How long a builder sleeps for each picture.
    """
    control(latency_seconds=LATENCY_SECONDS)
    print(f"\nbuilders that sleep {1000 * sleep_seconds:.0f} ms per picture instead of decoding it")
    print(f"{'builders':>8} {'pictures/s':>11} {'of linear':>10} {'requests/s':>11} {'memory':>10}")
    single = 0.0
    for count in counts:
        dataset_uri = f"{BUCKET}/datasets/b{count}"
        names = plan(f"{BUCKET}/pictures", dataset_uri, num_shards * max(counts))
        shares = [names[n * num_shards : (n + 1) * num_shards] for n in range(count)]
        size = num_pictures(dataset_uri, names) / len(names)
        with changed_workers(sleep_seconds=sleep_seconds), ExitStack() as stack:
            pools = [stack.enter_context(WorkerPool(dataset_uri, num_decoders=1)) for _ in shares]
            before = control()["num_requests"]
            cost = build(pools, shares)
            requests = (control()["num_requests"] - before) * (num_shards - 1) / num_shards
        rate = count * (num_shards - 1) * size / cost.seconds
        single = single or rate
        print(
            f"{count:8} {rate:11.1f} {rate / count / single:10.2f} "
            f"{requests / cost.seconds:11.0f} {cost.worker_mb:7.0f} MB",
            flush=True,
        )


def measure_requests(num_requests: int) -> None:
    """Print the processor time of one request for a small object, by several programs."""
    control(latency_seconds=LATENCY_SECONDS)
    endpoint = os.environ["STORAGE_EMULATOR_HOST"]
    local = threading.local()
    name = "pictures/a/000000.jpg"
    path = f"/download/storage/v1/b/bucket/o/{urllib.parse.quote(name, safe='')}?alt=media"
    pool = urllib3.connection_from_url(endpoint, maxsize=NUM_CONNECTIONS)
    google, amazon = gcs_client.client(), s3_client.client()
    data = storage.read_object(f"{BUCKET}/{name}", version="1").data

    def bare() -> object:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
        local.connection.request("GET", path)
        return local.connection.getresponse().read()

    def read_with_boto3() -> object:
        return amazon.get_object(Bucket="bucket", Key=name)["Body"].read()

    programs: dict[str, Callable[[], object]] = {
        "GET: bare http.client": bare,
        "GET: urllib3": lambda: pool.request("GET", path, retries=False).data,
        "GET: google-cloud-storage": lambda: google.bucket("bucket").blob(name).download_as_bytes(),
        "GET: boto3": read_with_boto3,
        "GET: repot, gs://": lambda: storage.read_object(f"{BUCKET}/{name}", version="1"),
        "GET: repot, s3://": lambda: storage.read_object(f"s3://bucket/{name}", version="1"),
        "PUT: google-cloud-storage": lambda: (
            google.bucket("bucket").blob("new").upload_from_string(data)
        ),
        "PUT: boto3": lambda: amazon.put_object(Bucket="bucket", Key="new", Body=data),
        "PUT: repot, gs://": lambda: storage.write_bytes(f"{BUCKET}/new", data),
        "PUT: repot, s3://": lambda: storage.write_bytes("s3://bucket/new", data),
    }
    print(
        f"\n{f'{len(data) / 1000:.0f} kB':36} {'1 thread':>10} {f'{NUM_CONNECTIONS} threads':>12}"
    )
    for program, call in programs.items():
        # With one thread, the latency would only take time.
        control(latency_seconds=0.0)
        alone = request_seconds(call, num_requests // 10, num_threads=1)
        control(latency_seconds=LATENCY_SECONDS)
        together = request_seconds(call, num_requests, num_threads=NUM_CONNECTIONS)
        print(f"{program:36} {1000 * alone:7.3f} ms {1000 * together:9.3f} ms", flush=True)


def request_seconds(call: Callable[[], object], number: int, *, num_threads: int) -> float:
    """Return this process's processor time per call."""
    with ThreadPoolExecutor(num_threads) as threads:
        # Connections are opened.
        wait([threads.submit(call) for _ in range(num_threads + 2)])
        started = time.process_time()
        wait([threads.submit(call) for _ in range(number)])
        return (time.process_time() - started) / number


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
            before = control()["num_requests"]
            while control()["num_requests"] < before + 500:
                time.sleep(0.1)  # The processes start.
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
    parser.add_argument("--shards", type=int, default=6, help="shards of 1024 pictures")
    parser.add_argument("--sleep", type=float, default=0.04, help="seconds per picture")
    parser.add_argument("--builders", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=3000, help="requests of each kind")
    tables = ("requests", "connections", "builders", "limit")
    parser.add_argument("--only", choices=tables, action="append")
    arguments = parser.parse_args()
    chosen = arguments.only or tables
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_pictures(folder / "pictures", arguments.shards * PICTURES_PER_SHARD + 2)
        with running_store(folder / "pictures"):
            if "requests" in chosen:
                measure_requests(arguments.requests)
            if "connections" in chosen:
                measure_connections(folder, arguments.shards)
                measure_connections(folder, max(2, arguments.shards // 2), sleep_seconds=0.002)
            if "builders" in chosen:
                measure_builders(arguments.builders, SHARDS_PER_BUILDER, arguments.sleep)
            if "limit" in chosen:
                measure_rate_limit(8 * arguments.shards)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--worker"]:
        act_as_worker(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
    else:
        main()
