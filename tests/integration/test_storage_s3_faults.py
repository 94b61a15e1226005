"""Faults between repot and Amazon S3, injected by a proxy."""

import gc
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from repot import storage
from repot.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError
from repot.storage import retries
from repot.storage.checksums import crc32c_to_base64
from repot.storage.s3 import client, objects, transfer
from tests.integration.faulty_proxy import (
    Fault,
    FaultyProxy,
    Response,
    drop_connection,
    flip_bit,
    lose_response,
    run_proxy,
    truncate,
)


def refuse(status: int, code: str = "Code", message: str = "Try again.") -> Fault:
    """Return the fault that the service does nothing and returns an error."""
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    body = f"<?xml version='1.0'?>{error}".encode()
    return lambda _forward: (status, [("Content-Type", "application/xml")], body)


@pytest.fixture
def proxy(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setattr(objects, "SETTLE_SECONDS", 0.0)
    with run_proxy(s3_endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        yield server


@pytest.mark.parametrize(
    "fault",
    [
        refuse(503, "SlowDown"),
        refuse(500),
        refuse(400, "RequestTimeout"),
        lose_response(refuse(503)),
        drop_connection,
    ],
)
def test_transient_error_is_retried(fault: Fault, proxy: FaultyProxy, s3: str) -> None:
    proxy.faults = {method: [fault] for method in ("GET", "HEAD", "PUT", "DELETE")}
    info = storage.write_bytes(f"{s3}/x", b"data")
    assert storage.read_bytes(f"{s3}/x") == b"data"
    assert storage.stat(f"{s3}/x") == info
    assert len(storage.list_objects(s3)) == 1
    storage.delete(f"{s3}/x")
    assert not any(proxy.faults.values())


@pytest.mark.parametrize("fault", [lose_response(refuse(503)), drop_connection])
def test_own_write_with_a_lost_response_is_not_a_conflict(
    fault: Fault, proxy: FaultyProxy, s3: str
) -> None:
    proxy.faults["PUT"] = [fault]
    first = storage.write_bytes(f"{s3}/x", b"1", if_absent=True)
    proxy.faults["PUT"] = [fault]
    second = storage.swap_bytes(f"{s3}/x", b"2", expected_version=first.version)
    assert storage.stat(f"{s3}/x") == second
    assert [request.method for request in proxy.requests].count("PUT") == 4


def test_lost_response_to_the_end_of_an_upload_of_parts_is_no_failure(
    proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SINGLE_REQUEST_BYTES", 5 << 20)
    monkeypatch.setattr(transfer, "PART_BYTES", 5 << 20)
    data = bytes((5 << 20) + 1)
    # The first POST begins the upload, the second one ends it.
    gone = refuse(404, "NoSuchUpload")
    proxy.faults["POST"] = [lambda forward: forward(), lose_response(refuse(503)), gone]
    info = storage.write_bytes(f"{s3}/x", data)
    assert proxy.faults["POST"] == []
    assert storage.stat(f"{s3}/x") == info
    assert info.crc32c == storage.crc32c_hex(data)
    # An upload that is gone without an object is one.
    storage.delete(f"{s3}/x")
    proxy.faults["POST"] = [lambda forward: forward(), gone]
    with pytest.raises(NotFoundError, match=f"{s3}/x cannot be written"):
        storage.write_bytes(f"{s3}/x", data)


def test_listing_that_is_cut_off_is_no_listing(proxy: FaultyProxy, s3: str) -> None:
    body = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
    proxy.faults["GET"] = [lambda _: (200, [("Content-Type", "application/xml")], body)]
    with pytest.raises(StorageError, match="does not respond as an S3 service"):
        storage.list_objects(s3)


@pytest.mark.parametrize("size_bytes", [9, (5 << 20) + 1])
def test_write_between_check_and_write_is_a_conflict(
    size_bytes: int, proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SINGLE_REQUEST_BYTES", 5 << 20)
    monkeypatch.setattr(transfer, "PART_BYTES", 5 << 20)

    def overtake(forward: Callable[[], Response]) -> Response:
        """Let another process write before this request."""
        bucket, name = s3.removeprefix("s3://"), "x"
        client.client().put_object(Bucket=bucket, Key=name, Body=b"other data")
        return forward()

    # A multipart upload ends with its second POST.
    last = "PUT" if size_bytes == 9 else "POST"
    proxy.faults[last] = [overtake] if last == "PUT" else [lambda forward: forward(), overtake]
    with pytest.raises(AlreadyExistsError):
        storage.write_bytes(f"{s3}/x", bytes(size_bytes), if_absent=True)
    assert storage.read_bytes(f"{s3}/x") == b"other data"


def test_overwritten_swap_is_a_conflict_if_the_service_ignores_conditions(
    proxy: FaultyProxy, s3: str
) -> None:
    proxy.dropped_headers = {"if-match", "if-none-match"}
    first = storage.swap_bytes(f"{s3}/x", b"1", expected_version=None)

    def overwrite(forward: Callable[[], Response]) -> Response:
        response = forward()
        client.client().put_object(Bucket=s3.removeprefix("s3://"), Key="x", Body=b"other data")
        return response

    proxy.faults["PUT"] = [overwrite]
    with pytest.raises(ConflictError, match="another process wrote it"):
        storage.swap_bytes(f"{s3}/x", b"2", expected_version=first.version)


def test_swap_that_another_swap_built_on_is_not_a_conflict(proxy: FaultyProxy, s3: str) -> None:
    first = storage.swap_bytes(f"{s3}/x", b"1", expected_version=None)

    def build_on(forward: Callable[[], Response]) -> Response:
        response = forward()
        info = storage.stat(f"{s3}/x")
        assert info is not None
        storage.swap_bytes(f"{s3}/x", b"3", expected_version=info.version)
        return response

    proxy.faults["PUT"] = [build_on]
    storage.swap_bytes(f"{s3}/x", b"2", expected_version=first.version)
    assert storage.read_bytes(f"{s3}/x") == b"3"


def test_write_drops_conditions_if_the_service_rejects_them(
    proxy: FaultyProxy, s3: str, caplog: pytest.LogCaptureFixture
) -> None:
    rejection = refuse(
        501,
        "NotImplemented",
        "A header you provided implies functionality that is not implemented.",
    )
    proxy.faults["PUT"] = [lambda forward: forward(), rejection]
    storage.check_writable(s3)
    assert f"{proxy.url} ignores conditions on writes" in caplog.text
    proxy.faults["PUT"] = [rejection]
    first = storage.swap_bytes(f"{s3}/x", b"1", expected_version=None)
    proxy.faults["PUT"] = [rejection]
    storage.swap_bytes(f"{s3}/x", b"2", expected_version=first.version)
    assert storage.read_bytes(f"{s3}/x") == b"2"


@pytest.mark.parametrize("size_bytes", [1000, 3 << 20])
@pytest.mark.parametrize("fault", [flip_bit, truncate])
def test_damaged_download_is_repeated(
    fault: Fault, size_bytes: int, proxy: FaultyProxy, s3: str
) -> None:
    data = os.urandom(size_bytes)
    storage.write_bytes(f"{s3}/x", data)
    proxy.faults["GET"] = [fault, fault]
    assert storage.read_bytes(f"{s3}/x") == data
    assert proxy.faults["GET"] == []


def test_download_that_is_damaged_every_time_fails(
    proxy: FaultyProxy, s3: str, tmp_path: Path
) -> None:
    storage.write_bytes(f"{s3}/x", b"data")
    proxy.faults["GET"] = [flip_bit] * 6
    with pytest.raises(StorageError, match=f"{s3}/x must arrive as it is stored"):
        storage.read_bytes(f"{s3}/x")
    with pytest.raises(StorageError, match=f"{s3}/x must arrive as it is stored"):
        storage.download(f"{s3}/x", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size_bytes", [1000, (5 << 20) + 1])
def test_upload_sends_checksum_and_condition(
    size_bytes: int, proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SINGLE_REQUEST_BYTES", 5 << 20)
    monkeypatch.setattr(transfer, "PART_BYTES", 5 << 20)
    data = os.urandom(size_bytes)
    storage.write_bytes(f"{s3}/x", data, if_absent=True)
    sent = [request for request in proxy.requests if request.method in ("PUT", "POST")]
    parts = [data[: 5 << 20], data[5 << 20 :]] if len(sent) > 1 else [data]
    checksums = [
        request.headers["x-amz-checksum-crc32c"] for request in sent if request.method == "PUT"
    ]
    assert checksums == [crc32c_to_base64(storage.crc32c_hex(part)) for part in parts]
    assert [request.body for request in sent if request.method == "PUT"] == parts
    assert sent[-1].headers["If-None-Match"] == "*"
    assert sent[0].headers["x-amz-meta-repot-crc32c"] == storage.crc32c_hex(data)


def test_permanent_error_is_not_retried(proxy: FaultyProxy, s3: str) -> None:
    proxy.faults["GET"] = [refuse(400, "Code", "Words.")] * 2
    with pytest.raises(
        StorageError, match=r"the service returned 400 \(Words\)\. Check the bucket"
    ):
        storage.read_bytes(f"{s3}/x")
    assert len(proxy.requests) == 1


def test_read_from_a_missing_bucket_names_the_bucket(s3: str) -> None:
    for operation in (storage.stat, storage.read_bytes):
        with pytest.raises(StorageError, match=f"there is no bucket {s3}-missing") as caught:
            operation(f"{s3}-missing/x")
        assert not isinstance(caught.value, NotFoundError)


def test_missing_object_is_none_without_access_to_its_bucket(proxy: FaultyProxy, s3: str) -> None:
    proxy.faults["HEAD"] = [lambda forward: forward(), refuse(403, "AccessDenied")]
    assert storage.stat(f"{s3}/x") is None


def test_retried_download_leaves_no_connection_open(proxy: FaultyProxy, s3: str) -> None:
    storage.write_bytes(f"{s3}/x", b"data")
    proxy.faults["GET"] = [refuse(503), truncate]
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        storage.read_bytes(f"{s3}/x")
        gc.collect()
    assert [
        str(warning.message) for warning in recorded if warning.category is ResourceWarning
    ] == []


def test_retries_end_at_the_deadline(
    proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DEADLINE_SECONDS", 2.0)
    proxy.faults["GET"] = [refuse(503, "SlowDown", "Busy.")] * 20
    with pytest.raises(StorageError, match=r"returned 503 \(Busy\)"):
        storage.read_bytes(f"{s3}/x")
    assert 2 <= 20 - len(proxy.faults["GET"]) < 20


def run_without_cloud(**environment: str) -> tuple[str, float]:
    """Write to a bucket in a new process without a cloud; return its output and seconds."""
    program = """
from repot import storage
from repot.errors import StorageError
from repot.storage import retries
retries.FIRST_READ_SECONDS = retries.FIRST_DEADLINE_SECONDS = 2.0
try:
    storage.check_writable("s3://bucket/folder")
except StorageError as err:
    print(err)
"""
    base = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "NO_PROXY": "*"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=base | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout, time.monotonic() - started


KEYS = {"AWS_ACCESS_KEY_ID": "repot", "AWS_SECRET_ACCESS_KEY": "repot"}


def test_missing_profile_is_named() -> None:
    output, _ = run_without_cloud(AWS_PROFILE="nobody")
    assert "the S3 credentials are missing or not valid" in output
    assert "nobody" in output


@pytest.mark.parametrize("endpoint", ["minio:9000", "nonsense"])
def test_invalid_endpoint_is_named(endpoint: str) -> None:
    output, _ = run_without_cloud(AWS_ENDPOINT_URL=endpoint, **KEYS)
    assert f"s3:// needs the address of a service; got '{endpoint}'" in output
    assert "Set AWS_ENDPOINT_URL_S3 to the service's address" in output


@pytest.mark.parametrize("is_silent", [False, True])
def test_unresponsive_endpoint_is_named_within_seconds(is_silent: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if is_silent:
            listener.listen(100)
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        output, seconds = run_without_cloud(AWS_ENDPOINT_URL_S3=endpoint, **KEYS)
    assert "s3://bucket/folder/.repot-" in output
    assert f"{endpoint} does not respond" in output
    assert "Check the network" in output
    assert seconds < 15
    assert retries.FIRST_DEADLINE_SECONDS + retries.FIRST_READ_SECONDS <= 30


@pytest.mark.parametrize("status", [200, 404, 405])
def test_endpoint_that_is_not_an_s3_service_is_named(status: int) -> None:
    class WebPage(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>The console</title><p>Sign in")

    with ThreadingHTTPServer(("127.0.0.1", 0), WebPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        output, seconds = run_without_cloud(AWS_ENDPOINT_URL_S3=endpoint, **KEYS)
        server.shutdown()
    assert endpoint in output
    assert seconds < 15
