"""Containers of tasks, against a server that answers as Docker does."""

import contextlib
import json
import re
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker
import pytest
from kfp.local import docker_task_handler
from kfp.local.docker_task_handler import DockerTaskHandler
from kfp.local.status import Status

from repot.progress import EVENTS_VARIABLE, PROCESS, ProcessExited, parse_event
from repot_pipelines.local.child import _make_docker_runner
from repot_pipelines.local.docker import make_runner, run_container

OUTPUT = b"one line\n"


class Docker:
    """A daemon with one container.

    Attributes:
        status: Exit status of the container.
        calls: Method and path, without the version, of every request.
    """

    def __init__(self) -> None:
        self.status = 0
        self.calls: list[str] = []
        self.created: dict[str, Any] = {}

    def answer(self, call: str, body: bytes) -> tuple[int, Any]:
        self.calls.append(call)
        if call == "POST /containers/create":
            self.created = json.loads(body)
            return 201, {"Id": "c1", "Warnings": []}
        if call.startswith("GET /containers/c1/logs"):
            # Source: the stream format of Docker's API, "Attach to a container".
            return 200, struct.pack(">BxxxL", 1, len(OUTPUT)) + OUTPUT
        if call.startswith("GET /containers/c1/json"):
            config = {"Tty": False}
            return 200, {"Id": "c1", "Name": "/c1", "Config": config, "HostConfig": {}}
        if call in ("GET /version", "GET /info"):
            return 200, {"ApiVersion": "1.43", "SecurityOptions": []}
        if call.startswith("POST /containers/c1/wait"):
            return 200, {"StatusCode": self.status}
        return 204, b""


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Docker]:
    fake = Docker()

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = re.sub(r"^/v[\d.]+", "", self.path)
            status, content = fake.answer(f"{self.command} {path}", body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = reply

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("status", [0, 1, 137])
def test_status_of_a_container_is_that_of_its_task(
    daemon: Docker, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.status = status

    with contextlib.closing(docker.from_env()) as client:
        found = run_container(client, "image:1", ["python3"], {}, labels={"repot-run": "r"})

    assert found == status
    assert capsys.readouterr().out == OUTPUT.decode()
    # Docker must keep the container until its status is known.
    assert not daemon.created["HostConfig"].get("AutoRemove")
    assert daemon.created["Labels"] == {"repot-run": "r"}
    calls = [call.partition("?")[0] for call in daemon.calls]
    assert calls.index("POST /containers/c1/wait") < calls.index("DELETE /containers/c1")


def test_killed_task_is_reported_with_its_own_status(
    daemon: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))
    monkeypatch.setattr(docker_task_handler, "run_docker_container", None)
    daemon.status = 137

    runner = _make_docker_runner({"storage_uri": "gs://bucket"}, tmp_path)
    handler = DockerTaskHandler("image:1", ["python3"], str(tmp_path), runner)

    assert handler.run() == Status.FAILURE
    (line,) = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert parse_event(line) == ProcessExited(process=PROCESS, status=137)


def test_folder_of_a_manifest_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "m.csv").write_text("path,label")
    (tmp_path / "boxes").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "suspects.csv").write_text("path,new_label")
    arguments = {
        "pictures_uri": f"{tmp_path}/in/m.csv",
        "bounding_box_file_uri": f"{tmp_path}/boxes",
        "corrections_file_uri": f"{tmp_path}/out/suspects.csv",
        "storage_uri": f"{tmp_path}/storage",
    }
    mounts = make_runner(arguments, tmp_path / "work").container_run_args["mounts"]
    assert {mount["Source"]: mount["ReadOnly"] for mount in mounts} == {
        f"{tmp_path}/in": True,
        f"{tmp_path}/boxes": True,
        f"{tmp_path}/out/suspects.csv": True,
        f"{tmp_path}/storage": False,
        f"{tmp_path}/work": False,
    }


def test_containers_get_proxies_and_the_absolute_path_of_google_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "key.json")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "localhost")

    arguments = make_runner({"storage_uri": "gs://bucket"}, tmp_path / "work").container_run_args

    key = str(tmp_path / "key.json")
    assert {mount["Source"]: mount["ReadOnly"] for mount in arguments["mounts"]}[key]
    environment = arguments["environment"]
    assert environment["GOOGLE_APPLICATION_CREDENTIALS"] == key
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"
    assert environment["no_proxy"] == "localhost"
