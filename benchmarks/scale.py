"""Measure what planning many pictures on gs:// costs: processor time, memory, and stored bytes.

    make scale
    .venv/bin/python -m benchmarks.scale [PICTURES] [--labels N] [--layout tutorial|stable]

A server on this machine lists PICTURES objects in folders of labels, as Cloud Storage does, in
pages of 1000; it runs in a process of its own, which is not counted. A new process plans their
dataset through Google's client library, into a temporary folder. Nothing is built.

The table states the processor time of that process and its largest memory next to the baseline: the
same measurement before work lists were compressed columns (commit 6fe706d, 1,000,000 pictures).
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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

NUM_PICTURES = 1_000_000
PAGE_SIZE = 1000
BUCKET = "pictures"
BASELINE = "65 s (52 s of repot, 13 s of the client)", "1,016 MB", "274 bytes"
LIMIT = "60 s", "500 MB", ""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", nargs="?", type=int, default=NUM_PICTURES)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--layout", default="tutorial")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--plan", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.pictures, arguments.labels)
    elif arguments.plan:
        plan(arguments.plan, arguments.layout)
    else:
        measure(arguments.pictures, arguments.labels, arguments.layout)
        print("\nmanifest.json, simulated:\n| pictures | shards | size | write | read |")
        print("|---|---|---|---|---|")
        for factor in (1, 10):
            simulate(arguments.pictures * factor, arguments.labels)


def measure(num_pictures: int, num_labels: int, layout: str) -> None:
    """Start the server, plan in a new process, and print what that took."""
    command = [sys.executable, "-m", "benchmarks.scale"]
    numbers = [str(num_pictures), "--labels", str(num_labels)]
    server = subprocess.Popen([*command, *numbers, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        port = server.stdout.readline().strip() if server.stdout else ""
        with tempfile.TemporaryDirectory(prefix="repot-scale-") as folder:
            environment = {**os.environ, "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
            started = time.monotonic()
            result = subprocess.run(
                [*command, "--layout", layout, "--plan", folder],
                env=environment,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            wall_seconds = time.monotonic() - started
            cpu_seconds, memory_mb = json.loads(result.stdout.splitlines()[-1])
            sizes = {
                name: sum(path.stat().st_size for path in Path(folder).glob(f"*/{name}"))
                for name in ("work/*", "plan.json")
            }
    finally:
        server.terminate()
        server.wait()
    print(f"plan {num_pictures:,} pictures of {num_labels:,} labels on gs://, layout {layout}")
    print("| | processor time | memory | work lists, per picture |")
    print("|---|---|---|---|")
    print(f"| before, 1,000,000 pictures | {' | '.join(BASELINE)} |")
    print(f"| limit, 1,000,000 pictures | {' | '.join(LIMIT)} |")
    print(
        f"| now | {cpu_seconds:.1f} s | {memory_mb:,.0f} MB | "
        f"{sizes['work/*'] / num_pictures:.0f} bytes |"
    )
    print(
        f"{wall_seconds:.0f} s on the clock; work lists {sizes['work/*'] / 1e6:.1f} MB, plan.json "
        f"{sizes['plan.json'] / 1e3:.0f} kB"
    )


def simulate(num_pictures: int, num_labels: int) -> None:
    """Print what the manifest of so many pictures takes, from made-up receipts."""
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


def plan(folder: str, layout: str) -> None:
    """Plan the dataset, and print processor time and memory of this process."""
    from repot.planner.listing import PictureRoots
    from repot.planner.plan import plan_dataset
    from repot.settings import DatasetSettings

    plan_dataset(
        PictureRoots(pictures_uri=f"gs://{BUCKET}"),
        dataset_folder=lambda dataset_id: f"{folder}/{dataset_id or 'none'}",
        listings_uri=None,
        settings=DatasetSettings(shard_layout=layout),
    )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))


def serve(num_pictures: int, num_labels: int) -> None:
    """Answer requests for listings of the bucket, until this process is ended."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            is_list = url.path.rstrip("/").endswith("/o")
            body = json.dumps(
                _page(num_pictures, num_labels, parse_qs(url.query))
                if is_list
                else {"error": {"code": 404, "message": "No such object"}}
            ).encode()
            self.send_response(200 if is_list else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    threading.Event().wait()


def _page(num_pictures: int, num_labels: int, query: dict[str, list[str]]) -> dict[str, object]:
    """Return one page of the listing, in the order of the names."""
    start = int(query.get("pageToken", ["0"])[0])
    end = min(num_pictures, start + PAGE_SIZE)
    per_label = -(-num_pictures // num_labels)
    items = []
    for number in range(start, end):
        mixed = number * 2654435761 % 2**32
        items.append(
            {
                "name": f"label_{number // per_label:04}/IMG_{number % per_label:08}.jpg",
                "size": str(40_000 + mixed % 30_000),
                "crc32c": base64.b64encode(struct.pack(">I", mixed)).decode(),
                "generation": str(1_700_000_000_000_000 + number * 104_729),
                "updated": "2026-01-01T00:00:00.000Z",
            }
        )
    page: dict[str, object] = {"items": items}
    if end < num_pictures:
        page["nextPageToken"] = str(end)
    return page


if __name__ == "__main__":
    main()
