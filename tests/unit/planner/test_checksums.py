import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from repot import storage
from repot.planner import checksums
from repot.planner.checksums import add_checksums
from repot.planner.file_table import FoundFile
from repot.planner.listing import PictureRoots, list_root


def _add_checksums(
    folder: Path, listings: Path | None = None
) -> tuple[list[FoundFile], dict[str, str]]:
    uri = str(folder)
    files = list_root("", uri).files
    roots = PictureRoots(pictures_uri=uri)
    unreadable = add_checksums(files, roots, str(listings) if listings else None)
    return [file for file in files if file.checksum], unreadable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two files."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(b"123456789")
    return folder


@pytest.fixture(autouse=True)
def everything_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every file for old enough to be cached, however new."""
    monkeypatch.setattr(checksums, "SETTLED_NS", -3600 * 10**9)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the paths of files as they are read."""
    paths: list[str] = []
    original = checksums._read

    def read(file: FoundFile) -> checksums._Read:
        paths.append(file.path)
        return original(file)

    monkeypatch.setattr(checksums, "_read", read)
    return paths


def test_local_files_get_checksums(folder: Path) -> None:
    files, unreadable = _add_checksums(folder)
    assert [(file.path, file.checksum) for file in files] == [("a", "e3069283"), ("b", "e3069283")]
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
    assert changed[1].checksum == storage.crc32c_hex(b"987654321")


def test_unchanged_files_are_not_looked_up_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = _add_checksums(folder, tmp_path / "listings")

    def look_up(uri: str, version: str) -> None:
        raise AssertionError(uri)

    monkeypatch.setattr(checksums, "file_state", look_up)
    assert _add_checksums(folder, tmp_path / "listings")[0] == first


def test_checksum_of_file_that_changed_since_it_was_listed_is_not_cached(
    folder: Path, tmp_path: Path, reads: list[str]
) -> None:
    roots = PictureRoots(pictures_uri=str(folder))
    listed = list_root("", str(folder)).files
    (folder / "b").write_bytes(b"another")
    add_checksums(listed, roots, str(tmp_path / "listings"))
    reads.clear()
    files, _ = _add_checksums(folder, tmp_path / "listings")
    assert reads == ["b"]
    assert files[1].checksum == storage.crc32c_hex(b"another")


def test_each_folder_has_its_own_cache(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    _add_checksums(folder, tmp_path / "listings")
    folder.rename(tmp_path / "moved")
    reads.clear()
    _add_checksums(tmp_path / "moved", tmp_path / "listings")
    assert sorted(reads) == ["a", "b"]


def test_recently_changed_file_is_not_cached(
    folder: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "SETTLED_NS", 1_000_000_000)
    time.sleep(1.2)
    (folder / "b").write_bytes(b"new")
    (folder / "a").rename(folder / "c")  # changes the change time only
    os.utime(folder / "b", (0, 0))
    _add_checksums(folder, tmp_path / "listings")
    reads.clear()
    time.sleep(1.2)
    _add_checksums(folder, tmp_path / "listings")
    assert sorted(reads) == ["b", "c"]
    reads.clear()
    _add_checksums(folder, tmp_path / "listings")
    assert reads == []


def _replace_in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _replace_by_rename(path: Path, data: bytes) -> None:
    path.with_name("new").write_bytes(data)
    path.with_name("new").replace(path)


def _replace_after_delete(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("replace", [_replace_in_place, _replace_by_rename, _replace_after_delete])
def test_file_of_equal_size_and_time_is_read_again(
    folder: Path, tmp_path: Path, reads: list[str], replace: Callable[[Path, bytes], None]
) -> None:
    _add_checksums(folder, tmp_path / "listings")
    reads.clear()
    status = (folder / "b").stat()
    replace(folder / "b", b"987654321")
    os.utime(folder / "b", ns=(status.st_atime_ns, status.st_mtime_ns))
    files, _ = _add_checksums(folder, tmp_path / "listings")
    assert reads == ["b"]
    assert files[1].checksum == storage.crc32c_hex(b"987654321")
    assert files[1].version == f"9-{status.st_mtime_ns}"


def test_two_files_that_swap_names_are_read_again(
    folder: Path, tmp_path: Path, reads: list[str]
) -> None:
    (folder / "b").write_bytes(b"987654321")
    for name in ("a", "b"):
        os.utime(folder / name, (1_000, 1_000))
    _add_checksums(folder, tmp_path / "listings")
    reads.clear()
    for old, new in (("a", "t"), ("b", "a"), ("t", "b")):
        (folder / old).rename(folder / new)
    files, _ = _add_checksums(folder, tmp_path / "listings")
    assert sorted(reads) == ["a", "b"]
    assert files[0].checksum == storage.crc32c_hex(b"987654321")


def test_names_that_differ_only_in_unicode_form_are_two_files(
    folder: Path, tmp_path: Path, reads: list[str]
) -> None:
    names = ("caf\u00e9", "cafe\u0301")
    for name, data in zip(names, (b"11111", b"22222"), strict=True):
        (folder / name).write_bytes(data)
        os.utime(folder / name, (1_000, 1_000))
    if len(list(folder.iterdir())) < 4:
        pytest.skip("this disk normalises names")
    first, _ = _add_checksums(folder, tmp_path / "listings")
    reads.clear()
    assert _add_checksums(folder, tmp_path / "listings")[0] == first
    assert reads == []
    by_uri = {file.uri: file.checksum for file in first}
    for name, data in zip(names, (b"11111", b"22222"), strict=True):
        assert by_uri[f"{folder}/{name}"] == storage.crc32c_hex(data)


def test_name_that_is_not_utf8_is_cached(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    (folder / "ros\udce9.jpg").write_bytes(b"1")
    first, _ = _add_checksums(folder, tmp_path / "listings")
    reads.clear()
    assert _add_checksums(folder, tmp_path / "listings")[0] == first
    assert reads == []


def test_file_that_changes_while_it_is_read_is_not_cached(
    folder: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = storage.read_crc32c_hex

    def read(uri: str, *, version: str | None = None) -> str:
        crc32c = original(uri, version=version)
        if uri.endswith("/b"):
            Path(uri).write_bytes(b"987654321")
        return crc32c

    with monkeypatch.context() as patch:
        patch.setattr(storage, "read_crc32c_hex", read)
        _add_checksums(folder, tmp_path / "listings")
    reads.clear()
    files, _ = _add_checksums(folder, tmp_path / "listings")
    assert reads == ["b"]
    assert files[1].checksum == storage.crc32c_hex(b"987654321")


@pytest.mark.parametrize(
    "content", ["[]", '{"a": ["9-1", "00000000"]}', '{"a": 1, "b": ["x"], "c": [1, 2]}']
)
def test_cache_of_another_version_is_ignored(
    folder: Path, tmp_path: Path, reads: list[str], content: str
) -> None:
    first, _ = _add_checksums(folder, tmp_path / "listings")
    (cache,) = (tmp_path / "listings").iterdir()
    cache.write_text(content)
    reads.clear()
    assert _add_checksums(folder, tmp_path / "listings")[0] == first
    assert sorted(reads) == ["a", "b"]


@pytest.mark.parametrize("content", [b"", b'{"a": ["9-', b"\xff\0", b"[" * 100_000])
def test_damaged_cache_is_replaced(
    folder: Path,
    tmp_path: Path,
    reads: list[str],
    content: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, _ = _add_checksums(folder, tmp_path / "listings")
    (cache,) = (tmp_path / "listings").iterdir()
    intact = cache.read_bytes()
    cache.write_bytes(content)
    reads.clear()

    assert _add_checksums(folder, tmp_path / "listings")[0] == first
    assert sorted(reads) == ["a", "b"]
    assert cache.read_bytes() == intact
    assert f"{cache} is damaged" in caplog.text


def _names(folder: Path, count: int) -> list[str]:
    names = [f"{number:02d}" for number in range(count)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    return names


def test_cache_of_many_files_is_read_and_written_in_parts(
    folder: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = _add_checksums(folder, tmp_path / "listings")
    reads.clear()
    # Three files per part, so that eighteen more are in parts.
    monkeypatch.setattr(checksums, "_FILES_PER_PART", 3)
    names = _names(folder, 18)
    files, _ = _add_checksums(folder, tmp_path / "listings")
    assert sorted(reads) == names  # the two others are in the cache of fewer files
    assert [(file.path, file.checksum) for file in files if len(file.path) == 2] == [
        (name, storage.crc32c_hex(name.encode())) for name in names
    ]
    assert files[-2:] == whole
    assert len(list((tmp_path / "listings").iterdir())) > 4
    reads.clear()
    assert _add_checksums(folder, tmp_path / "listings")[0] == files
    assert reads == []


@pytest.mark.parametrize("files_per_part", [100, 3])
def test_interrupted_plan_goes_on_where_it_ended(
    files_per_part: int,
    folder: Path,
    tmp_path: Path,
    reads: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [*_names(folder, 18), "a", "b"]
    monkeypatch.setattr(checksums, "_FILES_PER_PART", files_per_part)
    monkeypatch.setattr(checksums, "_NUM_READERS", 1)
    read = checksums._read

    def fail(file: FoundFile) -> checksums._Read:
        if len(reads) == 7:
            raise KeyboardInterrupt
        return read(file)

    with monkeypatch.context() as patch:
        patch.setattr(checksums, "_read", fail)
        with pytest.raises(KeyboardInterrupt):
            _add_checksums(folder, tmp_path / "listings")
    done = set(reads)
    assert len(done) == 7
    reads.clear()
    files, _ = _add_checksums(folder, tmp_path / "listings")
    assert sorted(reads) == [name for name in names if name not in done]
    assert [file.path for file in files] == names


def test_cache_is_saved_while_files_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "_SAVE_SECONDS", 0.0)
    writes = []
    write_text = storage.write_text

    def write(uri: str, text: str) -> None:
        writes.append(len(json.loads(text)) - 1)  # without the checksum
        write_text(uri, text)

    monkeypatch.setattr(storage, "write_text", write)
    _add_checksums(folder, tmp_path / "listings")
    assert writes == [1, 2, 2]


def test_no_listings_uri_disables_the_cache(folder: Path, reads: list[str]) -> None:
    _add_checksums(folder, None)
    _add_checksums(folder, None)
    assert sorted(reads) == ["a", "a", "b", "b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_file_without_read_permission_is_unreadable(folder: Path) -> None:
    (folder / "a").chmod(0)
    files, unreadable = _add_checksums(folder)
    assert [file.path for file in files] == ["b"]
    assert "permission" in unreadable[f"{folder}/a"]


def test_file_deleted_after_listing_is_unreadable(folder: Path) -> None:
    roots = PictureRoots(pictures_uri=str(folder))
    listed = list_root("", str(folder)).files
    (folder / "a").unlink()
    unreadable = add_checksums(listed, roots, None)
    assert [file.path for file in listed if file.checksum] == ["b"]
    assert "no such file" in unreadable[f"{folder}/a"]


def test_gcs_objects_are_not_read(gcs: str, reads: list[str]) -> None:
    storage.write_bytes(f"{gcs}/p/a/1", b"123456789")
    roots = PictureRoots(pictures_uri=f"{gcs}/p")
    files = list_root("", f"{gcs}/p").files
    assert add_checksums(files, roots, f"{gcs}/listings") == {}
    assert files[0].checksum == "e3069283"
    assert reads == []
    assert storage.list_objects(f"{gcs}/listings") == []
