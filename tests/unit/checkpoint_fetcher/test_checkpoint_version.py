import socket
from pathlib import Path
from typing import Any

import pytest

from repot import storage
from repot.checkpoints import Source, find_version
from repot.errors import CheckpointError


def version(uri: str | Path, sha256: str = "") -> str | None:
    return find_version(Source(name="w", uri=str(uri), sha256=sha256))


def test_version_of_a_file_changes_with_it(tmp_path: Path) -> None:
    weights = tmp_path / "w.h5"
    storage.write_bytes(str(weights), b"one")
    first = version(weights)
    assert first
    assert version(weights) == first

    storage.write_bytes(str(weights), b"two")

    assert version(weights) not in ("", None, first)


def test_version_of_an_object_changes_with_it(gcs: str) -> None:
    storage.write_bytes(f"{gcs}/m/model.ckpt.index", b"i")
    storage.write_bytes(f"{gcs}/m/model.ckpt.data-00000-of-00001", b"one")
    first = version(f"{gcs}/m/model.ckpt")

    storage.write_bytes(f"{gcs}/m/model.ckpt.data-00000-of-00001", b"two")

    assert first
    assert version(f"{gcs}/m/model.ckpt") not in ("", None, first)


def test_known_checksum_needs_no_look() -> None:
    assert version("/nowhere/w.h5", sha256="a" * 64) == ""


def test_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="there is none at /nowhere/w"):
        version("/nowhere/w.h5")


@pytest.mark.parametrize(("etag", "expected"), [('"3-abc"', '"3-abc"'), ("", ""), (None, None)])
def test_version_on_the_web_is_what_the_server_says(
    web: Any, etag: str | None, expected: str | None
) -> None:
    url = web.serve("/w.h5", b"abc")
    if etag is not None:
        web.etags["/w.h5"] = etag

    assert version(url) == expected
    assert not web.requests


def test_version_of_a_server_that_is_not_there_is_not_known() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    assert version(f"http://127.0.0.1:{port}/w.h5") is None
