import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from repot import storage
from repot.checkpoint_fetcher.originals import fetch_original
from repot.errors import CheckpointError


def test_one_file_has_its_own_checksum_and_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"abc")

    original = fetch_original(str(tmp_path / "w.h5"), tmp_path / "folder")

    assert original.paths == (tmp_path / "w.h5",)
    assert original.sha256 == hashlib.sha256(b"abc").hexdigest()


def test_several_files_have_the_checksum_of_their_checksums(tmp_path: Path) -> None:
    for name in ("m-1.index", "m-1.data-00000-of-00001"):
        (tmp_path / name).write_text(name)

    original = fetch_original(str(tmp_path / "m-1"), tmp_path / "folder")

    command = "LC_ALL=C sha256sum m-1.* | sha256sum"
    printed = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert original.sha256 == printed.split()[0]


def test_the_checksum_is_the_same_wherever_the_files_lie(
    tmp_path: Path, gcs: str, web: Any
) -> None:
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


def test_another_checksum_than_promised_is_an_error_with_both(tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    fetch_original(str(tmp_path / "w.h5"), tmp_path, sha256=digest)

    with pytest.raises(
        CheckpointError, match=f"w.h5 must have SHA-256 {'0' * 64}; it has {digest}"
    ):
        fetch_original(str(tmp_path / "w.h5"), tmp_path, sha256="0" * 64)
