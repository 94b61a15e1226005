"""Faults between repot and Google Cloud Storage, injected by a proxy."""

import gc
import json
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
from repot.storage.gcs import client
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


def refuse(status: int, message: str = "Try again.") -> Fault:
    """Return the fault that the service does nothing and returns an error."""
    body = json.dumps({"error": {"code": status, "message": message}}).encode()
    return lambda _forward: (status, [("Content-Type", "application/json")], body)


def flip_bit_and_truncate(forward: Callable[[], Response]) -> Response:
    return truncate(lambda: flip_bit(forward))


@pytest.fixture
def proxy(gcs: str, gcs_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with run_proxy(gcs_endpoint) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.mark.parametrize(
    "fault", [refuse(503), refuse(500), refuse(429), lose_response(refuse(503)), drop_connection]
)
def test_transient_error_is_retried(fault: Fault, proxy: FaultyProxy, gcs: str) -> None:
    proxy.faults = {method: [fault] for method in ("GET", "POST", "DELETE")}
    info = storage.write_bytes(f"{gcs}/x", b"data")
    assert storage.read_bytes(f"{gcs}/x") == b"data"
    assert storage.list_objects(gcs) == [info]
    storage.delete(f"{gcs}/x")
    assert not any(proxy.faults.values())


@pytest.mark.parametrize("fault", [lose_response(refuse(503)), drop_connection])
def test_own_write_with_a_lost_response_is_not_a_conflict(
    fault: Fault, proxy: FaultyProxy, gcs: str
) -> None:
    proxy.faults["POST"] = [fault]
    first = storage.write_bytes(f"{gcs}/x", b"1", if_absent=True)
    proxy.faults["POST"] = [fault]
    second = storage.swap_bytes(f"{gcs}/x", b"2", expected_version=first.version)
    assert storage.stat(f"{gcs}/x") == second
    assert [request.method for request in proxy.requests].count("POST") == 4


def test_equal_write_of_another_process_is_a_conflict(proxy: FaultyProxy, gcs: str) -> None:
    first = storage.write_bytes(f"{gcs}/x", b"1", if_absent=True)
    storage.swap_bytes(f"{gcs}/x", b"2", expected_version=first.version)
    proxy.faults["POST"] = [refuse(503)]
    with pytest.raises(ConflictError):
        storage.swap_bytes(f"{gcs}/x", b"2", expected_version=first.version)
    with pytest.raises(AlreadyExistsError):
        storage.write_bytes(f"{gcs}/x", b"2", if_absent=True)


@pytest.mark.parametrize("size_bytes", [1000, 3 << 20])
@pytest.mark.parametrize("fault", [flip_bit, truncate])
def test_damaged_download_is_repeated(
    fault: Fault, size_bytes: int, proxy: FaultyProxy, gcs: str
) -> None:
    data = os.urandom(size_bytes)
    storage.write_bytes(f"{gcs}/x", data)
    proxy.faults["GET"] = [fault, fault]
    assert storage.read_bytes(f"{gcs}/x") == data
    assert proxy.faults["GET"] == []


def test_download_that_is_damaged_every_time_fails(
    proxy: FaultyProxy, gcs: str, tmp_path: Path
) -> None:
    storage.write_bytes(f"{gcs}/x", b"data")
    proxy.faults["GET"] = [flip_bit] * 6
    with pytest.raises(StorageError, match=f"{gcs}/x must arrive as it is stored"):
        storage.read_bytes(f"{gcs}/x")
    with pytest.raises(StorageError, match=f"{gcs}/x must arrive as it is stored"):
        storage.download(f"{gcs}/x", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_resumed_download_is_verified_as_a_whole(proxy: FaultyProxy, gcs: str) -> None:
    data = os.urandom(3 << 20)
    storage.write_bytes(f"{gcs}/x", data)
    proxy.faults["GET"] = [flip_bit_and_truncate]
    assert storage.read_bytes(f"{gcs}/x") == data


def test_object_replaced_during_a_resumed_download_is_read_again(
    proxy: FaultyProxy, gcs: str
) -> None:
    old, new = os.urandom(1000), os.urandom(1000)
    info = storage.write_bytes(f"{gcs}/x", old)

    def replace_and_truncate(forward: Callable[[], Response]) -> Response:
        def forward_then_replace() -> Response:
            response = forward()
            storage.write_bytes(f"{gcs}/x", new)
            return response

        return truncate(forward_then_replace)

    proxy.faults["GET"] = [replace_and_truncate]
    assert storage.read_bytes(f"{gcs}/x") == new
    proxy.faults["GET"] = [replace_and_truncate]
    with pytest.raises(NotFoundError, match="changed or deleted since"):
        storage.read_bytes(f"{gcs}/x", version=info.version)


@pytest.mark.parametrize("size_bytes", [1000, (8 << 20) + 1])
def test_upload_sends_checksum_and_precondition(
    size_bytes: int, proxy: FaultyProxy, gcs: str
) -> None:
    from repot.storage.checksums import crc32c_to_base64

    data = os.urandom(size_bytes)
    storage.write_bytes(f"{gcs}/x", data, if_absent=True)
    (path, body) = next(
        (path, body) for method, path, _, body in proxy.requests if method == "POST"
    )
    assert "ifGenerationMatch=0" in path
    assert f'"crc32c": "{crc32c_to_base64(storage.crc32c_hex(data))}"'.encode() in body


def test_upload_that_is_stored_damaged_is_deleted_and_fails(proxy: FaultyProxy, gcs: str) -> None:
    def change_checksum(forward: Callable[[], Response]) -> Response:
        status, headers, data = forward()
        return status, headers, json.dumps(json.loads(data) | {"crc32c": "AAAAAA=="}).encode()

    proxy.faults["POST"] = [change_checksum]
    with pytest.raises(StorageError, match=f"{gcs}/x must be stored as it was sent"):
        storage.write_bytes(f"{gcs}/x", b"data")
    assert storage.stat(f"{gcs}/x") is None


def test_violated_bucket_policy_is_reported_and_not_a_conflict(
    proxy: FaultyProxy, gcs: str
) -> None:
    proxy.faults["POST"] = [refuse(412, "Request violates constraint 'x/y'.")] * 2
    for if_absent in (False, True):
        with pytest.raises(
            StorageError, match=r"returned 412 \(Request violates constraint 'x/y'\)"
        ) as caught:
            storage.write_bytes(f"{gcs}/x", b"", if_absent=if_absent)
        assert not isinstance(caught.value, AlreadyExistsError)


def test_permanent_error_is_not_retried(proxy: FaultyProxy, gcs: str) -> None:
    proxy.faults["GET"] = [refuse(400, "No.")] * 2
    with pytest.raises(StorageError, match=r"the service returned 400 \(No\)"):
        storage.read_bytes(f"{gcs}/x")
    assert len(proxy.requests) == 1


def test_retried_download_leaves_no_connection_open(proxy: FaultyProxy, gcs: str) -> None:
    storage.write_bytes(f"{gcs}/x", b"data")
    proxy.faults["GET"] = [refuse(503)]
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        storage.read_bytes(f"{gcs}/x")
        gc.collect()
    assert [
        str(warning.message) for warning in recorded if warning.category is ResourceWarning
    ] == []


def test_only_the_object_itself_is_requested(proxy: FaultyProxy, gcs: str) -> None:
    storage.write_bytes(f"{gcs}/x", b"")
    storage.exists(f"{gcs}/y")
    paths = [request.path for request in proxy.requests]
    assert len(paths) == 2
    assert all("/o" in path for path in paths)


def test_read_from_a_missing_bucket_names_the_bucket(proxy: FaultyProxy, gcs: str) -> None:
    proxy.faults["GET"] = [refuse(404, "The specified bucket does not exist.")] * 2
    for operation in (storage.stat, storage.read_bytes):
        with pytest.raises(StorageError, match=f"there is no bucket {gcs}"):
            operation(f"{gcs}/x")


def test_secrets_in_a_url_are_not_shown(
    proxy: FaultyProxy,
    gcs: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client.state, "limit", retries.RequestLimit())

    def no_session(_forward: Callable[[], Response]) -> Response:
        return 200, [("Location", f"{proxy.url}/nowhere?upload_id=SECRET")], b""

    proxy.faults["POST"] = [no_session]
    proxy.faults["PUT"] = [refuse(503), refuse(410, "")]
    with pytest.raises(StorageError, match="returned 410") as caught:
        storage.write_bytes(f"{gcs}/x", bytes((8 << 20) + 1))
    assert "SECRET" not in str(caught.value) + caplog.text
    assert "trying again" in caplog.text


def test_retries_end_at_the_deadline(
    proxy: FaultyProxy, gcs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DEADLINE_SECONDS", 2.0)
    proxy.faults["GET"] = [refuse(503, "Busy.")] * 20
    with pytest.raises(StorageError, match=r"returned 503 \(Busy\)"):
        storage.read_bytes(f"{gcs}/x")
    assert 2 <= 20 - len(proxy.faults["GET"]) < 20


def run_without_cloud(environment: dict[str, str]) -> tuple[str, float]:
    """Write to a bucket in a new process without a cloud; return its output and seconds."""
    program = """
from repot import storage
from repot.errors import StorageError
from repot.storage import retries
retries.FIRST_READ_SECONDS = retries.FIRST_DEADLINE_SECONDS = 2.0
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


def test_rejected_credentials_say_how_to_log_in(tmp_path: Path) -> None:
    class RejectingServer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(400)
            self.end_headers()
            error = {"error": "invalid_grant", "error_description": "Token has been revoked."}
            self.wfile.write(json.dumps(error).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), RejectingServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        key = {
            "type": "service_account",
            "client_email": "robot@project.iam.gserviceaccount.com",
            "private_key": private_key(),
            "token_uri": f"http://127.0.0.1:{server.server_port}/token",
        }
        (tmp_path / "key.json").write_text(json.dumps(key))
        output, seconds = run_without_cloud(
            {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json")}
        )
        server.shutdown()
    reason = "have expired or are not valid (invalid_grant: Token has been revoked)"
    assert f"the Google credentials {reason}. Run `gcloud auth application-default" in output
    assert "PRIVATE" not in output
    assert seconds < 30


def test_missing_key_file_says_how_to_log_in(tmp_path: Path) -> None:
    output, seconds = run_without_cloud(
        {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none.json")}
    )
    assert "the Google credentials are missing" in output
    assert seconds < 10


@pytest.mark.parametrize("is_silent", [False, True])
def test_unresponsive_endpoint_is_named_within_seconds(is_silent: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if is_silent:
            listener.listen(100)
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        output, seconds = run_without_cloud({"STORAGE_EMULATOR_HOST": endpoint})
    assert "gs://bucket/folder/.repot-" in output
    assert f"{endpoint} does not respond" in output
    assert "Check the network" in output
    assert seconds < 15
    assert retries.FIRST_DEADLINE_SECONDS + retries.FIRST_READ_SECONDS <= 30


def private_key() -> str:
    """Return a new private key in PEM, as in the key file of a service account."""
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
