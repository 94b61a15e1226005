"""The backend for local files, through the public functions."""

import os
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot import storage
from repot.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError

NOBODY = 65534
NAMES = [
    "a b",
    "a#b?c",
    "a%20b",
    "ünï/" + "x" * 255,
    unicodedata.normalize("NFD", "é"),
    "é",
    "-",
    "..a",
    "x:y",
    "'\"\\",
]


def names_in(folder: str | Path) -> list[str]:
    """Return the names of everything in a folder, repot's hidden files included."""
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """Yield a folder that this process may read but not write, with an unreadable file."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        Path(folder, "secret").write_bytes(b"")
        Path(folder, "secret").chmod(0o600 if os.geteuid() == 0 else 0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(NOBODY)
        else:
            Path(folder).chmod(0o555)
        yield Path(folder)
        os.seteuid(user)
        Path(folder).chmod(0o755)


@pytest.mark.parametrize("name", NAMES)
def test_object_of_any_name_can_be_listed_and_read(name: str, root: str) -> None:
    info = storage.write_bytes(f"{root}/{name}", b"data")
    assert storage.read_bytes(info.uri) == b"data"
    assert storage.list_objects(root) == [info] == [storage.stat(info.uri)]
    assert (info.size_bytes, info.crc32c) == (4, None)


def test_names_in_two_normal_forms_are_two_objects(root: str) -> None:
    for form in ("NFC", "NFD"):
        storage.write_text(f"{root}/{unicodedata.normalize(form, 'é')}", form)
    assert [storage.read_text(info.uri) for info in storage.list_objects(root)] == ["NFD", "NFC"]


def test_name_that_is_not_utf8_is_supported(root: str) -> None:
    storage.write_bytes(f"{root}/\udcff", b"data")
    (info,) = storage.list_objects(root)
    storage.write_json(f"{root}/names.json", [info.uri])
    assert storage.read_bytes(storage.read_json(f"{root}/names.json")[0]) == b"data"


def test_listing_is_recursive_and_sorted_by_code_point(root: str) -> None:
    names = ["a/b", "a-b", "a/B", "a.b", "Z", "z/y/x", "é", "0"]
    for name in names:
        storage.write_bytes(f"{root}/{name}", b"")
    listed = [storage.relative_name(info.uri, root) for info in storage.list_objects(root)]
    assert listed == sorted(names)


def test_listing_of_a_missing_folder_or_a_file_is_empty(root: str) -> None:
    storage.write_bytes(f"{root}/file", b"")
    assert storage.list_objects(f"{root}/none") == storage.list_objects(f"{root}/file") == []
    assert storage.list_objects(f"{root}/file/none") == []


def test_listing_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.jpg").write_bytes(b"1")
    (tmp_path / "twins").symlink_to("cats")
    (tmp_path / "cats" / "up").symlink_to(tmp_path)
    (tmp_path / "cats" / "2.jpg").symlink_to("1.jpg")
    os.mkfifo(tmp_path / "pipe")
    names = [info.uri.removeprefix(f"{tmp_path}/") for info in storage.list_objects(str(tmp_path))]
    # twins/up leads to a folder that contains twins/, so it is not entered a second time.
    assert names == ["cats/1.jpg", "cats/2.jpg", "twins/1.jpg", "twins/2.jpg"]


def test_broken_links_are_listed_but_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    lost, itself = storage.list_objects(str(tmp_path))
    with pytest.raises(NotFoundError, match="lost"):
        storage.read_bytes(lost.uri, version=lost.version)
    with pytest.raises(StorageError, match="form a circle"):
        storage.read_bytes(itself.uri)


def test_folder_is_not_an_object(root: str) -> None:
    storage.write_bytes(f"{root}/a/b", b"")
    assert storage.stat(f"{root}/a") is None
    assert not storage.exists(f"{root}/a")
    assert storage.stat(f"{root}/a/b/c") is None
    with pytest.raises(StorageError, match="it is a folder"):
        storage.read_bytes(f"{root}/a")
    with pytest.raises(StorageError, match="it is a folder"):
        storage.write_bytes(f"{root}/a", b"")


def test_swap_requires_the_current_version(root: str) -> None:
    uri = f"{root}/folder/x"
    first = storage.swap_bytes(uri, b"1", expected_version=None)
    second = storage.swap_bytes(uri, b"2", expected_version=first.version)
    for version in (None, first.version, "no version"):
        with pytest.raises(ConflictError, match=uri):
            storage.swap_bytes(uri, b"3", expected_version=version)
    assert storage.stat(uri) == second
    assert storage.read_bytes(uri) == b"2"
    assert names_in(f"{root}/folder") == ["x"]


def test_swap_of_a_deleted_object_is_a_conflict(root: str) -> None:
    info = storage.write_bytes(f"{root}/x", b"1")
    storage.delete(info.uri)
    with pytest.raises(ConflictError):
        storage.swap_bytes(info.uri, b"2", expected_version=info.version)
    assert names_in(root) == []


def test_read_of_an_outdated_version_fails(root: str, tmp_path: Path) -> None:
    info = storage.write_bytes(f"{root}/x", b"1")
    assert storage.read_bytes(info.uri, version=info.version) == b"1"
    storage.write_bytes(f"{root}/x", b"2")
    with pytest.raises(NotFoundError, match="changed or deleted since"):
        storage.read_bytes(info.uri, version=info.version)
    with pytest.raises(NotFoundError, match="changed or deleted since"):
        storage.download(info.uri, tmp_path / "copy", version=info.version)
    assert names_in(root) == ["x"]


def test_missing_object_raises_not_found_error(root: str, tmp_path: Path) -> None:
    for read in (storage.read_bytes, storage.read_text, storage.read_json):
        with pytest.raises(NotFoundError, match=f"{root}/x cannot be read"):
            read(f"{root}/x")
    with pytest.raises(NotFoundError):
        storage.download(f"{root}/x", tmp_path / "copy")
    with pytest.raises(NotFoundError):
        storage.upload(tmp_path / "x", f"{root}/y")
    storage.delete(f"{root}/x")
    storage.delete(f"{root}/x/y")
    assert names_in(root) == []


def test_upload_and_download_copy_all_bytes(root: str, tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "source").write_bytes(data)
    info = storage.upload(tmp_path / "source", f"{root}/stored/x")
    assert info == storage.stat(f"{root}/stored/x")
    storage.download(info.uri, tmp_path / "a" / "target", version=info.version)
    assert (tmp_path / "a" / "target").read_bytes() == data
    with pytest.raises(AlreadyExistsError):
        storage.upload(tmp_path / "source", info.uri, if_absent=True)


def test_check_writable_creates_the_folder_and_leaves_it_empty(root: str) -> None:
    storage.check_writable(f"{root}/a/b")
    assert names_in(f"{root}/a/b") == []


def test_denied_permission_names_the_user(read_only_folder: Path) -> None:
    denied = rf"{read_only_folder} cannot be written: permission is denied for user \d+"
    with pytest.raises(StorageError, match=denied):
        storage.check_writable(str(read_only_folder))
    with pytest.raises(StorageError, match="permission is denied"):
        storage.write_bytes(f"{read_only_folder}/a/x", b"")
    with pytest.raises(StorageError, match="secret cannot be read: permission is denied"):
        storage.read_bytes(f"{read_only_folder}/secret")


def test_file_in_place_of_a_folder_is_reported(root: str) -> None:
    storage.write_bytes(f"{root}/file", b"")
    for write in (storage.check_writable, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(
            StorageError, match=f"{root}/file/x cannot be written: a part of its path is a file"
        ):
            write(f"{root}/file/x")


def test_name_that_is_too_long_is_reported(root: str) -> None:
    with pytest.raises(StorageError, match="its name is too long"):
        storage.write_bytes(f"{root}/{'x' * 256}", b"")
    assert names_in(root) == []


def test_stored_files_are_scanned_without_following_links(tmp_path: Path) -> None:
    for name in ("store/a/x", "store/a/.repot-0.tmp", "elsewhere/y"):
        storage.write_text(f"{tmp_path}/{name}", "12")
    os.utime(tmp_path / "store" / "a" / "x", (1.0, 2.5))
    storage.link(f"{tmp_path}/store/a/x", f"{tmp_path}/store/b/z")
    (tmp_path / "store" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "store" / "file").symlink_to(tmp_path / "elsewhere" / "y")
    (tmp_path / "link").symlink_to(tmp_path / "store")

    found = {
        storage.relative_name(each.uri, f"{tmp_path}/link"): each
        for each in storage.scan_stored(f"{tmp_path}/link")
    }

    assert found.keys() == {"a/x", "a/.repot-0.tmp", "b/z"}
    assert found["a/.repot-0.tmp"].is_hidden
    assert (found["a/x"].size_bytes, found["a/x"].written_at) == (2, 2.5)
    assert found["a/x"].file_id == found["b/z"].file_id != found["a/.repot-0.tmp"].file_id
    assert [found[name].num_names for name in ("a/x", "b/z", "a/.repot-0.tmp")] == [2, 2, 1]
    assert list(storage.scan_stored(f"{tmp_path}/none")) == []


def test_only_empty_folders_are_deleted(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d/e"):
        (tmp_path / name).mkdir(parents=True)
    storage.write_text(f"{tmp_path}/a/d/x", "")
    storage.delete_empty_folders(f"{tmp_path}/a")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "d", "x"]
    storage.delete(f"{tmp_path}/a/d/x")
    storage.delete_empty_folders(f"{tmp_path}/a")
    assert list(tmp_path.iterdir()) == []
    storage.delete_empty_folders(f"{tmp_path}/a")


def test_clock_is_that_of_the_disk_and_leaves_nothing(tmp_path: Path) -> None:
    before = time.time()
    assert before - 1 < storage.read_clock(str(tmp_path)) < time.time() + 1
    assert list(tmp_path.iterdir()) == []
