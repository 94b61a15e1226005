import os
import time
from pathlib import Path

import pytest

from repot import storage
from repot.planner import checksums
from repot.planner.checksums import add_checksums
from repot.planner.listing import FoundFile, PictureRoots, list_files


def _add_checksums(
    folder: Path, listings: Path | None = None
) -> tuple[list[FoundFile], dict[str, str]]:
    roots = PictureRoots(pictures_uri=str(folder))
    return add_checksums(list_files(roots).files, roots, str(listings) if listings else None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two files that were written an hour ago."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    hour_ago = time.time() - 3600
    for name in ("a", "b"):
        (folder / name).write_bytes(b"123456789")
        os.utime(folder / name, (hour_ago, hour_ago))
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the paths of files as they are read."""
    paths: list[str] = []
    original = checksums._read

    def read(file: FoundFile) -> tuple[str, str]:
        paths.append(file.path)
        return original(file)

    monkeypatch.setattr(checksums, "_read", read)
    return paths


def test_local_files_get_checksums(folder: Path) -> None:
    files, unreadable = _add_checksums(folder)
    assert [(file.path, file.crc32c) for file in files] == [("a", "e3069283"), ("b", "e3069283")]
    assert unreadable == {}


def test_second_call_reads_only_changed_files(
    folder: Path, tmp_path: Path, reads: list[str]
) -> None:
    first, _ = _add_checksums(folder, tmp_path / "listings")
    assert sorted(reads) == ["a", "b"]
    reads.clear()
    assert _add_checksums(folder, tmp_path / "listings")[0] == first
    assert reads == []
    (folder / "b").write_bytes(b"987654321")
    changed, _ = _add_checksums(folder, tmp_path / "listings")
    assert reads == ["b"]
    assert changed[1].crc32c == storage.crc32c_hex(b"987654321")


def test_each_folder_has_its_own_cache(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    _add_checksums(folder, tmp_path / "listings")
    folder.rename(tmp_path / "moved")
    reads.clear()
    _add_checksums(tmp_path / "moved", tmp_path / "listings")
    assert sorted(reads) == ["a", "b"]


def test_recently_written_file_is_not_cached(
    folder: Path, tmp_path: Path, reads: list[str]
) -> None:
    (folder / "b").write_bytes(b"new")
    _add_checksums(folder, tmp_path / "listings")
    reads.clear()
    _add_checksums(folder, tmp_path / "listings")
    assert reads == ["b"]


def test_no_listings_uri_disables_the_cache(folder: Path, reads: list[str]) -> None:
    _add_checksums(folder, None)
    _add_checksums(folder, None)
    assert sorted(reads) == ["a", "a", "b", "b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_file_without_read_permission_is_unreadable(folder: Path) -> None:
    (folder / "a").chmod(0)
    files, unreadable = _add_checksums(folder)
    assert [file.path for file in files] == ["b"]
    assert "permission" in unreadable["a"]


def test_file_deleted_after_listing_is_unreadable(folder: Path) -> None:
    roots = PictureRoots(pictures_uri=str(folder))
    listed = list_files(roots).files
    (folder / "a").unlink()
    files, unreadable = add_checksums(listed, roots, None)
    assert [file.path for file in files] == ["b"]
    assert "no such file" in unreadable["a"]


def test_gcs_objects_are_not_read(gcs: str, reads: list[str]) -> None:
    storage.write_bytes(f"{gcs}/p/a/1", b"123456789")
    roots = PictureRoots(pictures_uri=f"{gcs}/p")
    files, _ = add_checksums(list_files(roots).files, roots, f"{gcs}/listings")
    assert files[0].crc32c == "e3069283"
    assert reads == []
    assert storage.list_objects(f"{gcs}/listings") == []
