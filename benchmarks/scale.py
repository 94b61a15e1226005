"""Measure what planning many pictures costs: processor time, memory, and stored bytes.

    make scale
    .venv/bin/python -m benchmarks.scale [PICTURES] [--source gs|s3|s3-crc32c|manifest|local]
                                         [--labels N] [--layout tutorial|stable]

    gs         PICTURES objects in folders of labels, listed in pages of 1000
    s3         the same on S3, without a CRC32C: their ETags identify them
    s3-crc32c  the same with a CRC32C, which takes a request for each, the first time
    manifest   a CSV file whose rows name the objects on gs://
    local      PICTURES files of 64 bytes, each of which is read for its checksum

A server on this machine stands for the store; it runs in a process of its own, which is not
counted. A new process plans the dataset through the clients of Google or Amazon, into a temporary
folder. Nothing is built.

The table states the processor time of that process and its largest memory next to the baseline: the
measurement of gs before work lists were compressed columns (commit 6fe706d, 1,000,000 pictures).
Then it simulates the manifest of as many and of ten times as many pictures.
"""

import argparse
import base64
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

NUM_PICTURES = 1_000_000
SOURCES = ("gs", "s3", "s3-crc32c", "manifest", "local")
PAGE_SIZE = 1000
BUCKET = "pictures"
BASELINE = "65 s (52 s of repot, 13 s of the client)", "1,016 MB", "274 bytes"
LIMIT = "60 s", "500 MB", ""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", nargs="?", type=int, default=NUM_PICTURES)
    parser.add_argument("--source", choices=SOURCES, default="gs")
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--layout", default="tutorial")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--plan", default="", help=argparse.SUPPRESS)
    parser.add_argument("--listings", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    bucket = Bucket(
        num_pictures=arguments.pictures,
        num_labels=arguments.labels,
        has_crc32c=arguments.source == "s3-crc32c",
    )
    if arguments.serve:
        serve(bucket)
    elif arguments.plan:
        plan(arguments.source, arguments.plan, arguments.listings, arguments.layout)
    else:
        measure(bucket, arguments.source, arguments.layout)
        if arguments.source == "gs":
            print("\nmanifest.json, simulated:\n| pictures | shards | size | write | read |")
            print("|---|---|---|---|---|")
            for factor in (1, 10):
                simulate(arguments.pictures * factor, arguments.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """The objects of a bucket, sorted by name; they follow from their numbers."""

    num_pictures: int
    num_labels: int
    has_crc32c: bool

    def name(self, number: int) -> str:
        """Return the name of an object."""
        per_label = -(-self.num_pictures // self.num_labels)
        return f"label_{number // per_label:04}/IMG_{number % per_label:08}.jpg"

    def numbers(self, query: Mapping[str, Sequence[str]], token: str) -> range:
        """Return the objects of one page of a listing; the whole bucket and a folder are listed."""
        start, end = 0, self.num_pictures
        if prefix := query.get("prefix", [""])[0]:
            per_label = -(-self.num_pictures // self.num_labels)
            start = int(prefix[6:10]) * per_label if len(prefix) == 11 else start
            end = min(end, start + per_label) if len(prefix) == 11 else end
        start = int(query.get(token, [str(start)])[0])
        return range(start, end)

    def number(self, name: str) -> int:
        """Return the number of the object with a name."""
        per_label = -(-self.num_pictures // self.num_labels)
        return int(name[6:10]) * per_label + int(name[15:23])


def mixed(number: int) -> int:
    """Return 32 bits that are different for every number."""
    return number * 2654435761 % 2**32


def size_bytes(number: int) -> int:
    """Return the size of an object."""
    return 40_000 + mixed(number) % 30_000


def crc32c(number: int) -> str:
    """Return the CRC32C of an object in base64."""
    return base64.b64encode(struct.pack(">I", mixed(number))).decode()


def measure(bucket: Bucket, source: str, layout: str) -> None:
    """Start the server, plan in a new process, and print what that took."""
    command = [sys.executable, "-m", "benchmarks.scale", str(bucket.num_pictures)]
    command += ["--labels", str(bucket.num_labels), "--source", source, "--layout", layout]
    server = subprocess.Popen([*command, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        port = server.stdout.readline().strip() if server.stdout else ""
        endpoint = f"http://127.0.0.1:{port}"
        environment = {
            **os.environ,
            "STORAGE_EMULATOR_HOST": endpoint,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "key",
        }
        with tempfile.TemporaryDirectory(prefix="repot-scale-") as temporary:
            prepare(source, bucket, Path(temporary, "pictures"))
            print(
                f"plan {bucket.num_pictures:,} pictures of {bucket.num_labels:,} labels, "
                f"{source}, layout {layout}"
            )
            print("| | processor time | memory | work lists, per picture | on the clock |")
            print("|---|---|---|---|---|")
            print(f"| before, 1,000,000 pictures on gs:// | {' | '.join(BASELINE)} | |")
            print(f"| limit, 1,000,000 pictures on gs:// | {' | '.join(LIMIT)} | |")
            runs = ("first", "again") if source in ("s3-crc32c", "local") else ("now",)
            for run in runs:
                folder = Path(temporary, run)
                listings = ["--listings", f"{temporary}/listings"] if len(runs) > 1 else []
                started = time.monotonic()
                result = subprocess.run(
                    [*command, *listings, "--plan", str(folder)],
                    env=environment,
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                wall_seconds = time.monotonic() - started
                cpu_seconds, memory_mb = json.loads(result.stdout.splitlines()[-1])
                work_bytes = sum(path.stat().st_size for path in folder.glob("*/work/*"))
                print(
                    f"| {run} | {cpu_seconds:.1f} s | {memory_mb:,.0f} MB | "
                    f"{work_bytes / bucket.num_pictures:.0f} bytes | {wall_seconds:.0f} s |",
                    flush=True,
                )
    finally:
        server.terminate()
        server.wait()


def prepare(source: str, bucket: Bucket, path: Path) -> None:
    """Write the files or the manifest that are planned."""
    if source == "manifest":
        with path.with_suffix(".csv").open("w") as file:
            file.write("path,label\n")
            for number in range(bucket.num_pictures):
                name = bucket.name(number)
                file.write(f"gs://{BUCKET}/{name},{name[:10]}\n")
    if source == "local":
        for number in range(bucket.num_pictures):
            picture = path / bucket.name(number)
            try:
                picture.write_bytes(b"%064d" % number)
            except FileNotFoundError:
                picture.parent.mkdir(parents=True)
                picture.write_bytes(b"%064d" % number)


def simulate(num_pictures: int, num_labels: int) -> None:
    """Print the size and cost of a manifest of this many pictures, from made-up receipts."""
    from repot.manifest import Manifest, Receipt, shard_name
    from repot.settings import DatasetSettings

    num_shards = -(-num_pictures // 1024)
    manifest = Manifest(
        dataset_id="0" * 16,
        pictures_uri=f"gs://{BUCKET}",
        labels=tuple(f"label_{i:04}" for i in range(num_labels)),
        settings=DatasetSettings(train_shards=min(num_shards, 99_999)),
        shards=tuple(
            Receipt(
                shard=shard_name("train", i, num_shards),
                split="train",
                num_records=1024,
                size_bytes=57_000 * 1024 + i,
                crc32c=f"{i:08x}",
                class_counts={},
            )
            for i in range(num_shards)
        ),
        num_found=num_pictures,
        num_accepted=num_pictures,
        num_by_label={"train": {f"label_{i:04}": 1000 for i in range(num_labels)}},
    )
    started = time.process_time()
    text = json.dumps(manifest.to_json(), indent=2, sort_keys=True)
    written = time.process_time()
    Manifest.from_text(text)
    read = time.process_time()
    print(
        f"| {num_pictures:,} | {num_shards:,} | {len(text) / 1e6:.1f} MB | "
        f"{written - started:.1f} s | {read - written:.1f} s |",
        flush=True,
    )


def plan(source: str, folder: str, listings: str, layout: str) -> None:
    """Plan the dataset, and print processor time and memory of this process."""
    from repot.planner.listing import PictureRoots
    from repot.planner.plan import plan_dataset
    from repot.settings import DatasetSettings

    pictures = Path(folder).parent / "pictures"
    uri = {"gs": f"gs://{BUCKET}", "manifest": f"{pictures}.csv", "local": str(pictures)}
    plan_dataset(
        PictureRoots(pictures_uri=uri.get(source, f"s3://{BUCKET}")),
        dataset_folder=lambda dataset_id: f"{folder}/{dataset_id or 'none'}",
        listings_uri=listings or None,
        settings=DatasetSettings(shard_layout=layout),
    )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))


def serve(bucket: Bucket) -> None:
    """Answer requests for listings and states of objects, until this process is ended."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if url.path.startswith("/storage/") and url.path.rstrip("/").endswith("/o"):
                self._send(200, "application/json", json.dumps(_page(bucket, query)).encode())
            elif "list-type" in query:
                self._send(200, "application/xml", _s3_page(bucket, query).encode())
            else:
                error = {"error": {"code": 404, "message": "No such object"}}
                self._send(404, "application/json", json.dumps(error).encode())

        def do_HEAD(self) -> None:
            number = bucket.number(self.path.split("?")[0].partition(f"/{BUCKET}/")[2])
            self.send_response(200)
            self.send_header("Content-Length", str(size_bytes(number)))
            self.send_header("ETag", f'"{mixed(number):032x}"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.send_header("x-amz-checksum-crc32c", crc32c(number))
            self.send_header("x-amz-checksum-type", "FULL_OBJECT")
            self.end_headers()

        def _send(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 1024

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    threading.Event().wait()


def _page(bucket: Bucket, query: dict[str, list[str]]) -> dict[str, object]:
    """Return one page of the listing of gs://, in the order of the names."""
    numbers = bucket.numbers(query, "pageToken")
    items = [
        {
            "name": bucket.name(number),
            "size": str(size_bytes(number)),
            "crc32c": crc32c(number),
            "generation": str(1_700_000_000_000_000 + number * 104_729),
        }
        for number in numbers[:PAGE_SIZE]
    ]
    page: dict[str, object] = {"items": items}
    if rest := numbers[PAGE_SIZE:]:
        page["nextPageToken"] = str(rest.start)
    return page


def _s3_page(bucket: Bucket, query: dict[str, list[str]]) -> str:
    """Return one page of the listing of s3://, in the order of the names."""
    numbers = bucket.numbers(query, "continuation-token")
    rest = numbers[PAGE_SIZE:]
    algorithm = "<ChecksumAlgorithm>CRC32C</ChecksumAlgorithm>" if bucket.has_crc32c else ""
    contents = "".join(
        f"<Contents><Key>{bucket.name(number)}</Key>"
        f"<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{mixed(number):032x}&quot;</ETag>{algorithm}"
        f"<Size>{size_bytes(number)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for number in numbers[:PAGE_SIZE]
    )
    token = f"<NextContinuationToken>{rest.start}</NextContinuationToken>" if rest else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><IsTruncated>{str(bool(rest)).lower()}</IsTruncated>"
        f"{contents}{token}</ListBucketResult>"
    )


if __name__ == "__main__":
    main()
