"""What goes wrong between repot and Amazon S3: a proxy before a real server makes it go wrong."""

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
from repot.storage.checksums import crc32c_to_base64
from repot.storage.s3 import client, objects, transfer
from tests.conftest import free_port
from tests.integration.faulty_proxy import (
    Answer,
    Fault,
    FaultyProxy,
    cut,
    flip_a_bit,
    hang_up,
    lose_answer,
    proxy_of,
)


def refuse(status: int, code: str = "Code", message: str = "Try again.") -> Fault:
    """Return the fault that the service does nothing, and answers with an error."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return lambda _ask: (status, [("Content-Type", "application/xml")], body)


@pytest.fixture
def proxy(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setattr(objects, "SETTLE_SECONDS", 0.0)
    with proxy_of(s3_endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        yield server


@pytest.mark.parametrize(
    "fault",
    [
        refuse(503, "SlowDown"),
        refuse(500),
        refuse(400, "RequestTimeout"),
        lose_answer(refuse(503)),
        hang_up,
    ],
)
def test_passing_failure_is_tried_again(fault: Fault, proxy: FaultyProxy, s3: str) -> None:
    proxy.faults = {method: [fault] for method in ("GET", "HEAD", "PUT", "DELETE")}
    info = storage.write_bytes(f"{s3}/x", b"data")
    assert storage.read_bytes(f"{s3}/x") == b"data"
    assert storage.stat(f"{s3}/x") == info
    assert len(storage.list_objects(s3)) == 1
    storage.delete(f"{s3}/x")
    assert not any(proxy.faults.values())


@pytest.mark.parametrize("fault", [lose_answer(refuse(503)), hang_up])
def test_own_write_whose_answer_got_lost_is_no_conflict(
    fault: Fault, proxy: FaultyProxy, s3: str
) -> None:
    proxy.faults["PUT"] = [fault]
    first = storage.write_bytes(f"{s3}/x", b"1", if_absent=True)
    proxy.faults["PUT"] = [fault]
    second = storage.swap_bytes(f"{s3}/x", b"2", expected_version=first.version)
    assert storage.stat(f"{s3}/x") == second
    assert [request.method for request in proxy.requests].count("PUT") == 4


@pytest.mark.parametrize("size_bytes", [9, (5 << 20) + 1])
def test_write_that_comes_between_look_and_write_is_a_conflict(
    size_bytes: int, proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SINGLE_REQUEST_BYTES", 5 << 20)
    monkeypatch.setattr(transfer, "PART_BYTES", 5 << 20)

    def overtake(ask: Callable[[], Answer]) -> Answer:
        """Let somebody else write before this request."""
        bucket, name = s3.removeprefix("s3://"), "x"
        client.client().put_object(Bucket=bucket, Key=name, Body=b"somebody else's")
        return ask()

    last = "PUT" if size_bytes == 9 else "POST"
    proxy.faults[last] = [overtake] if last == "PUT" else [lambda ask: ask(), overtake]
    with pytest.raises(AlreadyExistsError):
        storage.write_bytes(f"{s3}/x", bytes(size_bytes), if_absent=True)
    assert storage.read_bytes(f"{s3}/x") == b"somebody else's"


def test_swap_that_is_overwritten_by_a_service_that_ignores_conditions_is_told(
    proxy: FaultyProxy, s3: str
) -> None:
    proxy.dropped = {"if-match", "if-none-match"}
    first = storage.swap_bytes(f"{s3}/x", b"1", expected_version=None)

    def overwrite(ask: Callable[[], Answer]) -> Answer:
        answer = ask()
        client.client().put_object(
            Bucket=s3.removeprefix("s3://"), Key="x", Body=b"somebody else's"
        )
        return answer

    proxy.faults["PUT"] = [overwrite]
    with pytest.raises(ConflictError, match="another process wrote it"):
        storage.swap_bytes(f"{s3}/x", b"2", expected_version=first.version)


def test_swap_that_others_built_upon_is_no_conflict(proxy: FaultyProxy, s3: str) -> None:
    first = storage.swap_bytes(f"{s3}/x", b"1", expected_version=None)

    def build_upon(ask: Callable[[], Answer]) -> Answer:
        answer = ask()
        info = storage.stat(f"{s3}/x")
        assert info is not None
        storage.swap_bytes(f"{s3}/x", b"3", expected_version=info.version)
        return answer

    proxy.faults["PUT"] = [build_upon]
    storage.swap_bytes(f"{s3}/x", b"2", expected_version=first.version)
    assert storage.read_bytes(f"{s3}/x") == b"3"


def test_service_that_refuses_conditions_is_written_without(
    proxy: FaultyProxy, s3: str, caplog: pytest.LogCaptureFixture
) -> None:
    no = refuse(
        501,
        "NotImplemented",
        "A header you provided implies functionality that is not implemented.",
    )
    proxy.faults["PUT"] = [lambda ask: ask(), no]
    storage.check_writable(s3)
    assert f"{proxy.url} ignores conditions on writes" in caplog.text
    proxy.faults["PUT"] = [no]
    first = storage.swap_bytes(f"{s3}/x", b"1", expected_version=None)
    proxy.faults["PUT"] = [no]
    storage.swap_bytes(f"{s3}/x", b"2", expected_version=first.version)
    assert storage.read_bytes(f"{s3}/x") == b"2"


@pytest.mark.parametrize("size_bytes", [1000, 3 << 20])
@pytest.mark.parametrize("fault", [flip_a_bit, cut])
def test_damaged_download_is_fetched_again(
    fault: Fault, size_bytes: int, proxy: FaultyProxy, s3: str
) -> None:
    data = os.urandom(size_bytes)
    storage.write_bytes(f"{s3}/x", data)
    proxy.faults["GET"] = [fault, fault]
    assert storage.read_bytes(f"{s3}/x") == data
    assert proxy.faults["GET"] == []


def test_download_that_is_always_damaged_is_refused(
    proxy: FaultyProxy, s3: str, tmp_path: Path
) -> None:
    storage.write_bytes(f"{s3}/x", b"data")
    proxy.faults["GET"] = [flip_a_bit] * 6
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
    pieces = [data[: 5 << 20], data[5 << 20 :]] if len(sent) > 1 else [data]
    checksums = [
        request.headers["x-amz-checksum-crc32c"] for request in sent if request.method == "PUT"
    ]
    assert checksums == [crc32c_to_base64(storage.crc32c_hex(piece)) for piece in pieces]
    assert [request.body for request in sent if request.method == "PUT"] == pieces
    assert sent[-1].headers["If-None-Match"] == "*"
    assert sent[0].headers["x-amz-meta-repot-crc32c"] == storage.crc32c_hex(data)


ACTS: list[Callable[[str], object]] = [
    storage.check_writable,
    lambda uri: storage.write_bytes(uri, b""),
    storage.read_bytes,
    storage.list_objects,
]


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", r"access is denied \(Words\)\. Allow s3:GetObject, .* on {bucket}\."),
        (
            403,
            "InvalidAccessKeyId",
            r"credentials are missing or not valid \(Words\)\. Set AWS_ACCESS_KEY_ID",
        ),
        (
            403,
            "SignatureDoesNotMatch",
            r"credentials are missing or not valid \(Words\)\. Set AWS_ACCESS_KEY_ID",
        ),
        (
            400,
            "ExpiredToken",
            r"credentials are missing or not valid \(Words\)\. Set AWS_ACCESS_KEY_ID",
        ),
        (
            301,
            "PermanentRedirect",
            r"another region \(Words\)\. Set AWS_DEFAULT_REGION to the region of {bucket}\.",
        ),
        (400, "Code", r"the service returned 400 \(Words\)\. Check the bucket"),
    ],
)
def test_refusal_says_what_to_do(
    status: int, code: str, words: str, proxy: FaultyProxy, s3: str
) -> None:
    for act in ACTS:
        proxy.requests.clear()
        proxy.faults = {method: [refuse(status, code, "Words.")] * 3 for method in ("GET", "PUT")}
        with pytest.raises(StorageError, match=words.format(bucket=s3)) as caught:
            act(f"{s3}/folder")
        assert "\n" not in str(caught.value)
        # After a 301 the client looks for the region, and asks there.
        assert len([request for request in proxy.requests if request.method != "HEAD"]) == (
            2 if status == 301 else 1
        )


def test_missing_bucket_of_a_read_is_named(s3: str) -> None:
    for act in (storage.stat, storage.read_bytes):
        with pytest.raises(StorageError, match=f"there is no bucket {s3}-missing") as caught:
            act(f"{s3}-missing/x")
        assert not isinstance(caught.value, NotFoundError)


def test_denied_look_at_the_bucket_hides_no_missing_object(proxy: FaultyProxy, s3: str) -> None:
    proxy.faults["HEAD"] = [lambda ask: ask(), refuse(403, "AccessDenied")]
    assert storage.stat(f"{s3}/x") is None


def test_repeated_download_leaves_no_connection_open(proxy: FaultyProxy, s3: str) -> None:
    storage.write_bytes(f"{s3}/x", b"data")
    proxy.faults["GET"] = [refuse(503), cut]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        storage.read_bytes(f"{s3}/x")
        gc.collect()
    assert [str(warning.message) for warning in seen if warning.category is ResourceWarning] == []


def test_service_that_stays_away_is_given_up(
    proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "DEADLINE_SECONDS", 1.0)
    proxy.faults["GET"] = [refuse(503, "SlowDown", "Busy.")] * 20
    with pytest.raises(StorageError, match=r"returned 503 \(Busy\)"):
        storage.read_bytes(f"{s3}/x")
    assert 2 <= 20 - len(proxy.faults["GET"]) < 20


def run_without_cloud(**environment: str) -> tuple[str, float]:
    """Write to a bucket in a new process where no cloud is; return its last words and its seconds."""
    program = """
from repot import storage
from repot.errors import StorageError
from repot.storage.s3 import client
client.FIRST_READ_SECONDS = client.FIRST_DEADLINE_SECONDS = 2.0
try:
    storage.check_writable("s3://bucket/folder")
except StorageError as err:
    print(err)
"""
    known = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "NO_PROXY": "*"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=known | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout, time.monotonic() - started


KEYS = {"AWS_ACCESS_KEY_ID": "repot", "AWS_SECRET_ACCESS_KEY": "repot"}


def test_missing_credentials_say_how_to_get_some() -> None:
    # A port that nobody listens at is a metadata server that is not there.
    metadata = f"http://127.0.0.1:{free_port()}"
    words, seconds = run_without_cloud(AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata)
    assert (
        "the S3 credentials are missing or not valid (Unable to locate credentials). Set AWS_ACCESS_KEY_ID"
        in words
    )
    assert seconds < 30


def test_missing_profile_says_how_to_get_one() -> None:
    words, _ = run_without_cloud(AWS_PROFILE="nobody")
    assert "the S3 credentials are missing or not valid" in words
    assert "nobody" in words


@pytest.mark.parametrize("endpoint", ["minio:9000", "nonsense"])
def test_endpoint_that_is_no_address_is_named(endpoint: str) -> None:
    words, _ = run_without_cloud(AWS_ENDPOINT_URL=endpoint, **KEYS)
    assert f"s3:// needs the address of a service; got '{endpoint}'" in words
    assert "Set AWS_ENDPOINT_URL_S3 to the service's address" in words


@pytest.mark.parametrize("is_silent", [False, True])
def test_endpoint_that_does_not_answer_is_named_soon(is_silent: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if is_silent:
            listener.listen(100)
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        words, seconds = run_without_cloud(AWS_ENDPOINT_URL_S3=endpoint, **KEYS)
    assert "s3://bucket/folder/.repot-" in words
    assert f"{endpoint} does not respond" in words
    assert "Check the network" in words
    assert seconds < 15
    assert client.FIRST_DEADLINE_SECONDS + client.FIRST_READ_SECONDS <= 30


@pytest.mark.parametrize("status", [200, 404, 405])
def test_endpoint_that_is_another_kind_of_server_is_named(status: int) -> None:
    class WebPage(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>The console</title><p>Sign in")

    with ThreadingHTTPServer(("127.0.0.1", 0), WebPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        words, seconds = run_without_cloud(AWS_ENDPOINT_URL_S3=endpoint, **KEYS)
        server.shutdown()
    assert endpoint in words
    assert seconds < 15
