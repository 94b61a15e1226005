"""What goes wrong between repot and Google Cloud Storage: a proxy before a real server makes it go wrong."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from repot import storage
from repot.errors import AlreadyExistsError, ConflictError, StorageError
from repot.storage import gcs_client

Answer = tuple[int, list[tuple[str, str]], bytes]
Fault = Callable[["FaultyProxy", Answer], Answer | None]


class FaultyProxy(ThreadingHTTPServer):
    """Forwards requests, keeps their bodies, and spoils the next answers to a method as `faults` say."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint.removeprefix("http://")
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[tuple[str, str, bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer | None:
        self.requests.append((method, path, body))
        faults = self.faults.get(method)
        if path.startswith("/nowhere"):
            return faults.pop(0)(self, (200, [], b"")) if faults else None
        connection = http.client.HTTPConnection(self.endpoint)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        whole: Answer = (answer.status, answer.getheaders(), answer.read())
        connection.close()
        return faults.pop(0)(self, whole) if faults else whole


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.forward(self.command, self.path, dict(self.headers), body)
        if answer is None:
            self.close_connection = True
            return
        status, headers, data = answer
        length = dict(headers).get("X-Length", str(len(data)))
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "x-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = length != str(len(data))

    do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


def fail(status: int, message: str = "Try again.") -> Fault:
    """Return the fault that the service does what it is asked, and answers with an error."""
    body = json.dumps({"error": {"code": status, "message": message}}).encode()
    return lambda _proxy, _answer: (status, [("Content-Type", "application/json")], body)


def hang_up(_proxy: FaultyProxy, _answer: Answer) -> None:
    """Close the connection without an answer, after the service did what it was asked."""


def flip_a_bit(_proxy: FaultyProxy, answer: Answer) -> Answer:
    status, headers, data = answer
    return status, headers, bytes([data[0] ^ 1]) + data[1:]


def cut(_proxy: FaultyProxy, answer: Answer) -> Answer:
    status, headers, data = answer
    return status, [*headers, ("X-Length", str(len(data)))], data[: len(data) // 2]


@pytest.fixture
def proxy(gcs: str, gcs_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(gcs_endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("fault", [fail(503), fail(500), fail(429), hang_up])
def test_passing_failure_is_tried_again(fault: Fault, proxy: FaultyProxy, gcs: str) -> None:
    proxy.faults = {method: [fault] for method in ("GET", "POST", "DELETE")}
    info = storage.write_bytes(f"{gcs}/x", b"data")
    assert storage.read_bytes(f"{gcs}/x") == b"data"
    assert storage.list_objects(gcs) == [info]
    storage.delete(f"{gcs}/x")
    assert not any(proxy.faults.values())


@pytest.mark.parametrize("fault", [fail(503), hang_up])
def test_own_write_whose_answer_got_lost_is_no_conflict(fault: Fault, proxy: FaultyProxy, gcs: str) -> None:
    proxy.faults["POST"] = [fault]
    first = storage.write_bytes(f"{gcs}/x", b"1", if_absent=True)
    proxy.faults["POST"] = [fault]
    second = storage.swap_bytes(f"{gcs}/x", b"2", expected_version=first.version)
    assert storage.stat(f"{gcs}/x") == second
    assert [method for method, _, _ in proxy.requests].count("POST") == 4


def test_equal_write_of_somebody_else_is_a_conflict(proxy: FaultyProxy, gcs: str) -> None:
    first = storage.write_bytes(f"{gcs}/x", b"1", if_absent=True)
    storage.swap_bytes(f"{gcs}/x", b"2", expected_version=first.version)
    proxy.faults["POST"] = [fail(503)]
    with pytest.raises(ConflictError):
        storage.swap_bytes(f"{gcs}/x", b"2", expected_version=first.version)
    with pytest.raises(AlreadyExistsError):
        storage.write_bytes(f"{gcs}/x", b"2", if_absent=True)


@pytest.mark.parametrize("size_bytes", [1000, 3 << 20])
@pytest.mark.parametrize("fault", [flip_a_bit, cut])
def test_damaged_download_is_fetched_again(fault: Fault, size_bytes: int, proxy: FaultyProxy, gcs: str) -> None:
    data = os.urandom(size_bytes)
    storage.write_bytes(f"{gcs}/x", data)
    proxy.faults["GET"] = [fault, fault]
    assert storage.read_bytes(f"{gcs}/x") == data
    assert proxy.faults["GET"] == []


def test_download_that_is_always_damaged_is_refused(proxy: FaultyProxy, gcs: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{gcs}/x", b"data")
    proxy.faults["GET"] = [flip_a_bit] * 6
    with pytest.raises(StorageError, match=f"{gcs}/x must arrive as it is stored"):
        storage.read_bytes(f"{gcs}/x")
    with pytest.raises(StorageError, match=f"{gcs}/x must arrive as it is stored"):
        storage.download(f"{gcs}/x", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_resumed_download_is_checked_as_a_whole(proxy: FaultyProxy, gcs: str) -> None:
    def flip_and_cut(proxy: FaultyProxy, answer: Answer) -> Answer:
        return cut(proxy, flip_a_bit(proxy, answer))

    data = os.urandom(3 << 20)
    storage.write_bytes(f"{gcs}/x", data)
    proxy.faults["GET"] = [flip_and_cut]
    assert storage.read_bytes(f"{gcs}/x") == data


@pytest.mark.parametrize("size_bytes", [1000, (8 << 20) + 1])
def test_upload_sends_checksum_and_precondition(size_bytes: int, proxy: FaultyProxy, gcs: str) -> None:
    from repot.storage.checksums import crc32c_to_base64

    data = os.urandom(size_bytes)
    storage.write_bytes(f"{gcs}/x", data, if_absent=True)
    (path, body) = next((path, body) for method, path, body in proxy.requests if method == "POST")
    assert "ifGenerationMatch=0" in path
    assert f'"crc32c": "{crc32c_to_base64(storage.crc32c_hex(data))}"'.encode() in body


def test_upload_that_is_stored_otherwise_is_deleted_and_refused(proxy: FaultyProxy, gcs: str) -> None:
    def lie(_proxy: FaultyProxy, answer: Answer) -> Answer:
        status, headers, data = answer
        return status, headers, json.dumps(json.loads(data) | {"crc32c": "AAAAAA=="}).encode()

    proxy.faults["POST"] = [lie]
    with pytest.raises(StorageError, match=f"{gcs}/x must be stored as it was sent"):
        storage.write_bytes(f"{gcs}/x", b"data")
    assert storage.stat(f"{gcs}/x") is None


def test_denied_access_names_the_account_and_the_role(proxy: FaultyProxy, gcs: str) -> None:
    words = "robot@project.iam.gserviceaccount.com does not have storage.objects.create access to the object."
    proxy.faults = {"GET": [fail(403, words)] * 2, "POST": [fail(403, words)] * 2}
    for act in (
        storage.check_writable,
        lambda uri: storage.write_bytes(uri, b""),
        storage.read_bytes,
        storage.list_objects,
    ):
        print(act)
        with pytest.raises(StorageError, match=rf"access is denied \({words[:-1]}\)") as caught:
            act(f"{gcs}/folder")
        assert f"Storage Object User (roles/storage.objectUser) on {gcs}." in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "words"), [(401, "the Google credentials are missing"), (400, "answered 400 (No.*)")]
)
def test_refused_request_is_not_repeated(status: int, words: str, proxy: FaultyProxy, gcs: str) -> None:
    proxy.faults["GET"] = [fail(status, "No.")] * 2
    with pytest.raises(StorageError, match=words):
        storage.read_bytes(f"{gcs}/x")
    assert len(proxy.faults["GET"]) == 1


def test_missing_bucket_of_a_read_is_named(proxy: FaultyProxy, gcs: str) -> None:
    proxy.faults["GET"] = [fail(404, "The specified bucket does not exist.")] * 2
    for act in (storage.stat, storage.read_bytes):
        with pytest.raises(StorageError, match=f"there is no bucket {gcs}"):
            act(f"{gcs}/x")


def test_secrets_in_a_url_are_not_told(proxy: FaultyProxy, gcs: str, caplog: pytest.LogCaptureFixture) -> None:
    def no_session(_proxy: FaultyProxy, _answer: Answer) -> Answer:
        return 200, [("Location", f"{proxy.url}/nowhere?upload_id=SECRET")], b""

    proxy.faults["POST"] = [no_session]
    proxy.faults["PUT"] = [fail(503), fail(410, "")]
    with pytest.raises(StorageError, match="answered 410") as caught:
        storage.write_bytes(f"{gcs}/x", bytes((8 << 20) + 1))
    assert "SECRET" not in str(caught.value) + caplog.text
    assert "trying again" in caplog.text


def test_service_that_stays_away_is_given_up(proxy: FaultyProxy, gcs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs_client, "DEADLINE_SECONDS", 1.0)
    proxy.faults["GET"] = [fail(503, "Busy.")] * 20
    with pytest.raises(StorageError, match=r"answered 503 \(Busy\)"):
        storage.read_bytes(f"{gcs}/x")
    assert 2 <= 20 - len(proxy.faults["GET"]) < 20


def run_without_cloud(environment: dict[str, str]) -> tuple[str, float]:
    """Write to a bucket in a new process where no cloud is; return its last words and its seconds."""
    program = """
from repot import storage
from repot.errors import StorageError
try:
    storage.check_writable("gs://bucket/folder")
except StorageError as err:
    print(err)
"""
    kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=kept | {"HOME": "/nonexistent", "NO_PROXY": "*"} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done.stdout, time.monotonic() - started


def test_missing_credentials_say_how_to_get_some() -> None:
    # A port that nobody listens at is a metadata server that is not there.
    words, seconds = run_without_cloud({"GCE_METADATA_HOST": f"127.0.0.1:{free_port()}"})
    assert "the Google credentials are missing or no longer valid. Run `gcloud auth" in words
    assert words.count("\n") == 1
    assert seconds < 30


def test_missing_key_file_says_how_to_get_one(tmp_path: Path) -> None:
    words, seconds = run_without_cloud({"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none.json")})
    assert "the Google credentials are missing" in words
    assert seconds < 10


@pytest.mark.parametrize("is_silent", [False, True])
def test_endpoint_that_does_not_answer_is_named_soon(is_silent: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if is_silent:
            listener.listen(100)
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        words, seconds = run_without_cloud({"STORAGE_EMULATOR_HOST": endpoint})
    assert "gs://bucket/folder/.repot-" in words
    assert f"{endpoint} does not answer" in words
    assert "Check the network" in words
    assert seconds < 45


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
