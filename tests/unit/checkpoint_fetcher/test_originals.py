import contextlib
import hashlib
import json
import re
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot import progress, storage
from repot.checkpoint_fetcher import originals
from repot.checkpoint_fetcher.originals import download, fetch_original
from repot.checkpoint_files import find_version
from repot.errors import CheckpointError
from repot.tls import CA_VARIABLES
from tests.certificates import Authority
from tests.conftest import free_port
from tests.web_server import WebServer, running_web_server

pytestmark = pytest.mark.usefixtures("no_pauses")


def test_single_local_file_has_its_own_checksum_and_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"abc")

    original = fetch_original(str(tmp_path / "w.h5"), tmp_path / "folder")

    assert original.paths == (tmp_path / "w.h5",)
    assert original.sha256 == hashlib.sha256(b"abc").hexdigest()


def test_several_files_have_the_checksum_of_the_output_of_sha256sum(tmp_path: Path) -> None:
    for name in ("m-1.index", "m-1.data-00000-of-00001"):
        (tmp_path / name).write_text(name)

    original = fetch_original(str(tmp_path / "m-1"), tmp_path / "folder")

    command = "LC_ALL=C sha256sum m-1.* | sha256sum"
    printed = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert original.sha256 == printed.split()[0]


def test_checksum_does_not_depend_on_the_location(tmp_path: Path, gcs: str, web: WebServer) -> None:
    for name in ("m-1.index", "m-1.data-00000-of-00001"):
        (tmp_path / name).write_text(name)
        storage.write_text(f"{gcs}/train/{name}", name)

    local, bucket = (
        fetch_original(uri, tmp_path / "folder")
        for uri in (str(tmp_path / "m-1"), f"{gcs}/train/m-1")
    )
    index = fetch_original(web.serve("/m-1.index", b"m-1.index"), tmp_path / "web")

    assert local.sha256 == bucket.sha256
    assert index.sha256 == hashlib.sha256(b"m-1.index").hexdigest()
    assert [path.read_text() for path in bucket.paths] == ["m-1.data-00000-of-00001", "m-1.index"]


def test_unexpected_checksum_is_an_error_with_both_checksums(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    fetch_original(str(tmp_path / "w.h5"), tmp_path, sha256=digest)

    with pytest.raises(
        CheckpointError, match=f"w.h5 must have SHA-256 {'0' * 64}; it has {digest}"
    ):
        fetch_original(str(tmp_path / "w.h5"), tmp_path, sha256="0" * 64)


def test_download_is_named_after_the_path_of_its_url(web: WebServer, tmp_path: Path) -> None:
    url = web.serve("/models/in%20ception.tar.gz", b"abc")

    path = download(f"{url}?key=1", tmp_path)

    assert path == tmp_path / "in ception.tar.gz"
    assert path.read_bytes() == b"abc"


def test_download_reports_progress_in_bytes(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(progress.EVENTS_VARIABLE, str(tmp_path / "events"))

    download(web.serve("/w.h5", bytes(9 << 20)), tmp_path)

    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    # How often events come depends on how fast the chunks arrive.
    done = [event["done"] for event in events]
    assert done == sorted(set(done))
    assert done[0] > 0
    assert done[-1] == 9 << 20
    assert {(event["total"], event["unit"]) for event in events} == {(9 << 20, "bytes")}
    assert {event["task"] for event in events} == {"fetch checkpoint"}


@pytest.mark.parametrize("failure", [{"status": 503}, {"status": 429}, {"length": 10}])
def test_temporary_failure_is_retried(
    web: WebServer, tmp_path: Path, failure: dict[str, int]
) -> None:
    for _ in range(3):
        web.serve("/w.h5", b"part", **failure)

    path = download(web.serve("/w.h5", b"whole"), tmp_path)

    assert path.read_bytes() == b"whole"
    assert len(web.requests) == 4


@pytest.mark.parametrize(
    ("failure", "reason"),
    [({"status": 500}, "the server answered 500"), ({"length": 10}, "the request failed")],
)
def test_lasting_failure_is_an_error_after_four_attempts(
    web: WebServer, tmp_path: Path, failure: dict[str, int], reason: str
) -> None:
    url = web.serve("/w.h5", b"part", **failure)

    with pytest.raises(
        CheckpointError,
        match=f"{url} must be downloaded; {reason}.*Check the address and the network",
    ):
        download(url, tmp_path)
    assert len(web.requests) == 4


def test_refused_request_is_not_retried_and_its_error_has_no_secrets(
    web: WebServer, tmp_path: Path
) -> None:
    url = web.url.replace("http://", "http://me:password@")

    with pytest.raises(
        CheckpointError, match="must be downloaded; the server answered 404"
    ) as caught:
        download(f"{url}/missing.h5?signature=secret", tmp_path)

    assert len(web.requests) == 1
    message = str(caught.value)
    assert not any(secret in message for secret in ("password", "signature", "secret"))
    assert f"{web.url}/missing.h5" in message


@pytest.mark.parametrize(
    "address",
    ["http://{secrets[0]}@127.0.0.1:{port}/w.h5?{secrets[1]}", "http://{secrets[0]}@a b/"],
)
def test_error_of_a_failed_request_and_its_causes_have_no_secrets(
    tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = address.format(secrets=("me:p4ss", "sig=t0ken"), port=free_port())
    with pytest.raises(CheckpointError) as caught:
        download(url, tmp_path)

    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "must be downloaded" in shown
    assert not re.search("p4ss|t0ken", shown)


def test_download_above_the_largest_size_is_an_error(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(originals, "MAX_BYTES", 99)
    url = web.serve("/w.h5", bytes(100))
    assert download(web.serve("/small.h5", bytes(99)), tmp_path).stat().st_size == 99

    with pytest.raises(CheckpointError, match=rf"{url} must have at most 99 bytes"):
        download(url, tmp_path)
    assert len(web.requests) == 2


def test_object_above_the_largest_size_is_an_error(
    gcs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(originals, "MAX_BYTES", 99)
    storage.write_bytes(f"{gcs}/w.h5", bytes(100))

    with pytest.raises(CheckpointError, match=rf"{gcs}/w\.h5 must have at most 99 bytes"):
        fetch_original(f"{gcs}/w.h5", tmp_path)


def test_download_that_never_ends_stops_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(originals, "MAX_SECONDS", 0.3)
    started = time.monotonic()
    header = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"

    with (
        server_of(header, repeat=b"x") as url,
        pytest.raises(CheckpointError, match=r"it took longer than 0 s\. Download it, and give"),
    ):
        download(url, tmp_path)

    assert time.monotonic() - started < 5


def test_download_of_unknown_length_is_complete_and_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"64\r\n" + b"x" * 100 + b"\r\n"

    with server_of(header, body, b"0\r\n\r\n") as url:
        assert download(url, tmp_path).read_bytes() == b"x" * 100

    monkeypatch.setattr(originals, "MAX_BYTES", 99)
    with (
        server_of(header, body, b"0\r\n\r\n") as url,
        pytest.raises(CheckpointError, match="must have at most 99 bytes"),
    ):
        download(url, tmp_path)


@contextlib.contextmanager
def server_of(*parts: bytes, repeat: bytes = b"") -> Iterator[str]:
    """Answer one request with these bytes, and then with others every 20 ms."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reply() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"".join(parts))
                while repeat:
                    connection.sendall(repeat)
                    time.sleep(0.02)

        thread = threading.Thread(target=reply)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/w.h5"
        thread.join()


def test_unreachable_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"must be downloaded; the request failed .*Connection refused"
    ):
        download(f"http://127.0.0.1:{free_port()}/w.h5", tmp_path)


def test_malformed_url_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must be downloaded; .* Check the address"):
        download("https://a b/w.h5", tmp_path)


def test_server_of_an_unknown_authority_needs_a_ca_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    authority = Authority(tmp_path)
    with running_web_server(authority.server_context()) as web:
        url = web.serve("/weights.h5", b"data")
        with pytest.raises(CheckpointError, match="set SSL_CERT_FILE to a PEM file") as caught:
            download(url, tmp_path)
        assert f"{url} must be downloaded; the certificate of {web.url} is not trusted" in str(
            caught.value
        )
        assert web.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
        assert download(url, tmp_path).read_bytes() == b"data"
        web.etags["/weights.h5"] = "tag"
        assert find_version(url) == "tag"
