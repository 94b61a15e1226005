import json
import socket
from pathlib import Path
from typing import Any

import pytest

from repot import progress
from repot.checkpoint_fetcher.downloads import download
from repot.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("no_pauses")


def test_a_file_is_downloaded_under_the_name_in_its_address(web: Any, tmp_path: Path) -> None:
    url = web.serve("/models/in%20ception.tar.gz", b"abc")

    path = download(f"{url}?key=1", tmp_path)

    assert path == tmp_path / "in ception.tar.gz"
    assert path.read_bytes() == b"abc"


def test_progress_is_told_in_bytes(
    web: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(progress.EVENTS_VARIABLE, str(tmp_path / "events"))

    download(web.serve("/w.h5", bytes(9 << 20)), tmp_path)

    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [(event["done"], event["total"], event["unit"]) for event in events] == [
        (done << 20, 9 << 20, "bytes") for done in (4, 8, 9)
    ]
    assert {event["task"] for event in events} == {"fetch checkpoint"}


@pytest.mark.parametrize("failure", [{"status": 503}, {"status": 429}, {"length": 10}])
def test_what_may_pass_is_tried_again(web: Any, tmp_path: Path, failure: dict[str, int]) -> None:
    for _ in range(3):
        web.serve("/w.h5", b"part", **failure)

    path = download(web.serve("/w.h5", b"whole"), tmp_path)

    assert path.read_bytes() == b"whole"
    assert len(web.requests) == 4


@pytest.mark.parametrize(
    ("failure", "reason"),
    [({"status": 500}, "the server answers 500"), ({"length": 10}, "the request failed")],
)
def test_what_does_not_pass_is_an_error_after_four_attempts(
    web: Any, tmp_path: Path, failure: dict[str, int], reason: str
) -> None:
    url = web.serve("/w.h5", b"part", **failure)

    with pytest.raises(
        CheckpointError,
        match=f"{url} must be downloaded; {reason}.*Check the address and the network",
    ):
        download(url, tmp_path)
    assert len(web.requests) == 4


def test_a_refusal_is_an_error_at_once_and_tells_no_secret(web: Any, tmp_path: Path) -> None:
    url = web.url.replace("http://", "http://me:password@")

    with pytest.raises(
        CheckpointError, match="must be downloaded; the server answers 404"
    ) as caught:
        download(f"{url}/missing.h5?signature=secret", tmp_path)
    assert len(web.requests) == 1
    assert not {"password", "signature", "secret"} & set(
        str(caught.value).replace("=", " ").split()
    )
    assert f"{web.url}/missing.h5" in str(caught.value)


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with pytest.raises(
        CheckpointError, match=r"must be downloaded; the request failed .*Connection refused"
    ):
        download(f"http://127.0.0.1:{port}/w.h5", tmp_path)


def test_an_address_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must be downloaded; .* Check the address"):
        download("https://a b/w.h5", tmp_path)
