"""Picture files are read in order, ahead of their use, from disks and from the web."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot import picture_files
from repot.picture_files import read_ahead
from tests.web_server import WebServer, running_web_server


@pytest.fixture
def web() -> Iterator[WebServer]:
    with running_web_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_files, "RETRY_PAUSES_SECONDS", (0.0, 0.0))


def test_files_are_read_in_order(tmp_path: Path, web: WebServer) -> None:
    names = []
    for number in range(150):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
        local, url = str(tmp_path / f"{number}.jpg"), web.serve(f"/{number}", b"%d" % number)
        names.append(url if number % 15 == 0 else local)

    files = list(read_ahead(names))

    assert [file.name for file in files] == names
    assert [file.data for file in files] == [b"%d" % number for number in range(150)]


def test_problem_of_one_file_does_not_stop_the_others(tmp_path: Path, web: WebServer) -> None:
    (tmp_path / "good.jpg").write_bytes(b"good")
    names = [f"{tmp_path}/missing.jpg", "ftp://host/a.jpg", f"{web.url}/none", "/dev/zero"]

    *bad, good = read_ahead([*names, f"{tmp_path}/good.jpg"])

    assert good.data == b"good"
    texts = ["there is no such file", "ftp://host/a.jpg", "the server answered 404"]
    for file, text in zip(bad, [*texts, "there is no such file"], strict=True):
        assert text in file.problem


def test_failing_server_is_asked_again(web: WebServer) -> None:
    web.serve("/a", b"", status=503)
    web.serve("/a", b"cut", length=9)
    url = web.serve("/a", b"picture")
    assert next(read_ahead([url])).data == b"picture"
    url = web.serve("/b", b"", status=500)
    assert "the server answered 500. Check" in next(read_ahead([url])).problem
    assert web.requests == ["/a"] * 3 + ["/b"] * 3


def test_secrets_of_a_url_are_not_shown(web: WebServer) -> None:
    (file,) = read_ahead([f"{web.url}/a?X-Amz-Signature=0123456789abcdef"])
    assert "404" in file.problem
    assert "0123456789abcdef" not in file.problem


@pytest.mark.parametrize(("size", "is_read"), [(9, True), (10, True), (11, False)])
def test_largest_file_is_read(
    size: int, is_read: bool, tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_files, "MAX_FILE_BYTES", 10)
    (tmp_path / "a").write_bytes(b"x" * size)

    for file in read_ahead([str(tmp_path / "a"), web.serve("/a", b"x" * size)]):
        assert (file.data == b"x" * size) == is_read
        assert is_read or "must have at most 10 bytes" in file.problem


def test_a_limited_number_of_files_is_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for name in itertools.repeat(str(tmp_path / "a")):
            taken += 1
            yield name

    files = read_ahead(endless())
    for _ in range(1000):
        next(files)
    files.close()  # type: ignore[attr-defined]
    assert 1000 <= taken <= 1200
    monkeypatch.setattr(picture_files, "MAX_AHEAD_BYTES", 3000)
    taken = 0
    files = read_ahead(endless())
    for _ in range(1000):
        next(files)
    files.close()  # type: ignore[attr-defined]
    assert 1000 <= taken <= 1008
