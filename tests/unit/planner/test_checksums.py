import os
import time
from pathlib import Path

import pytest

from repot import storage
from repot.planner import checksums
from repot.planner.checksums import add_checksums
from repot.planner.listing import FoundFile, PictureRoots, list_files


def _check(folder: Path, listings: Path | None) -> tuple[list[FoundFile], dict[str, str]]:
    roots = PictureRoots(pictures_uri=str(folder))
    return add_checksums(list_files(roots), roots, str(listings) if listings else None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of two files that were written an hour ago."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(b"123456789")
        _age(folder / name)
    return folder


def _age(path: Path) -> None:
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths of the files that are read from now on."""
    paths: list[str] = []
    original = checksums._read

    def read(file: FoundFile) -> tuple[str, str]:
        paths.append(file.path)
        return original(file)

    monkeypatch.setattr(checksums, "_read", read)
    return paths


def test_every_file_gets_its_checksum(folder: Path) -> None:
    files, unreadable = _check(folder, None)
    assert [(file.path, file.crc32c) for file in files] == [("a", "e3069283"), ("b", "e3069283")]
    assert unreadable == {}


def test_second_start_reads_only_what_changed(
    folder: Path, tmp_path: Path, reads: list[str]
) -> None:
    first, _ = _check(folder, tmp_path / "listings")
    assert sorted(reads) == ["a", "b"]
    reads.clear()
    assert _check(folder, tmp_path / "listings")[0] == first
    assert reads == []
    (folder / "b").write_bytes(b"987654321")
    changed, _ = _check(folder, tmp_path / "listings")
    assert reads == ["b"]
    assert changed[1].crc32c == storage.crc32c_hex(b"987654321")


def test_other_folder_has_its_own_memory(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    _check(folder, tmp_path / "listings")
    folder.rename(tmp_path / "moved")
    reads.clear()
    _check(tmp_path / "moved", tmp_path / "listings")
    assert sorted(reads) == ["a", "b"]


def test_file_written_a_moment_ago_is_read_again(
    folder: Path, tmp_path: Path, reads: list[str]
) -> None:
    (folder / "b").write_bytes(b"new")
    _check(folder, tmp_path / "listings")
    reads.clear()
    _check(folder, tmp_path / "listings")
    assert reads == ["b"]


def test_nothing_is_remembered_without_a_place(folder: Path, reads: list[str]) -> None:
    _check(folder, None)
    _check(folder, None)
    assert sorted(reads) == ["a", "a", "b", "b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_unreadable(folder: Path) -> None:
    (folder / "a").chmod(0)
    files, unreadable = _check(folder, None)
    assert [file.path for file in files] == ["b"]
    assert "permission is denied" in unreadable["a"]


def test_file_that_vanished_is_unreadable(folder: Path) -> None:
    roots = PictureRoots(pictures_uri=str(folder))
    listed = list_files(roots)
    (folder / "a").unlink()
    files, unreadable = add_checksums(listed, roots, None)
    assert [file.path for file in files] == ["b"]
    assert "there is no such file" in unreadable["a"]


def test_objects_are_never_read(gcs: str, reads: list[str]) -> None:
    storage.write_bytes(f"{gcs}/p/a/1", b"123456789")
    roots = PictureRoots(pictures_uri=f"{gcs}/p")
    files, _ = add_checksums(list_files(roots), roots, f"{gcs}/listings")
    assert files[0].crc32c == "e3069283"
    assert reads == []
    assert storage.list_objects(f"{gcs}/listings") == []
