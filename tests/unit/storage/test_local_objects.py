"""Objects that are files of this machine, through the public functions."""

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
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
    """Return the names of all that is in a folder, of repot's passing files too."""
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """Yield a folder that anybody may read and nobody but its owner may write, to somebody else."""
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
def test_object_of_any_name_is_found_again(name: str, root: str) -> None:
    info = storage.write_bytes(f"{root}/{name}", b"data")
    assert storage.read_bytes(info.uri) == b"data"
    assert storage.list_objects(root) == [info] == [storage.stat(info.uri)]
    assert (info.size_bytes, info.crc32c) == (4, None)


def test_names_in_two_normal_forms_are_two_objects(root: str) -> None:
    for form in ("NFC", "NFD"):
        storage.write_text(f"{root}/{unicodedata.normalize(form, 'é')}", form)
    assert [storage.read_text(info.uri) for info in storage.list_objects(root)] == ["NFD", "NFC"]


def test_name_that_is_not_utf8_is_kept(root: str) -> None:
    storage.write_bytes(f"{root}/\udcff", b"data")
    (info,) = storage.list_objects(root)
    storage.write_json(f"{root}/names.json", [info.uri])
    assert storage.read_bytes(storage.read_json(f"{root}/names.json")[0]) == b"data"


def test_listing_is_recursive_and_sorted_by_code_point(root: str) -> None:
    names = ["a/b", "a-b", "a/B", "a.b", "Z", "z/y/x", "é", "0"]
    for name in names:
        storage.write_bytes(f"{root}/{name}", b"")
    assert [storage.relative_name(info.uri, root) for info in storage.list_objects(root)] == sorted(
        names
    )


def test_listing_of_what_is_no_folder_is_empty(root: str) -> None:
    storage.write_bytes(f"{root}/file", b"")
    assert storage.list_objects(f"{root}/none") == storage.list_objects(f"{root}/file") == []
    assert storage.list_objects(f"{root}/file/none") == []


def test_listing_follows_links_and_ends_in_circles(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.jpg").write_bytes(b"1")
    (tmp_path / "twins").symlink_to("cats")
    (tmp_path / "cats" / "up").symlink_to(tmp_path)
    (tmp_path / "cats" / "2.jpg").symlink_to("1.jpg")
    os.mkfifo(tmp_path / "pipe")
    names = [info.uri.removeprefix(f"{tmp_path}/") for info in storage.list_objects(str(tmp_path))]
    # Up again from twins/ is above twins/, so that its cats/ is not listed a third time.
    assert names == ["cats/1.jpg", "cats/2.jpg", "twins/1.jpg", "twins/2.jpg"]


def test_link_to_nothing_is_listed_and_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    lost, itself = storage.list_objects(str(tmp_path))
    with pytest.raises(NotFoundError, match="lost"):
        storage.read_bytes(lost.uri, version=lost.version)
    with pytest.raises(StorageError, match="form a circle"):
        storage.read_bytes(itself.uri)


def test_folder_is_no_object(root: str) -> None:
    storage.write_bytes(f"{root}/a/b", b"")
    assert storage.stat(f"{root}/a") is None
    assert not storage.exists(f"{root}/a")
    assert storage.stat(f"{root}/a/b/c") is None
    with pytest.raises(StorageError, match="it is a folder"):
        storage.read_bytes(f"{root}/a")
    with pytest.raises(StorageError, match="it is a folder"):
        storage.write_bytes(f"{root}/a", b"")


def test_write_replaces_the_whole_object_with_a_new_version(root: str) -> None:
    versions = [storage.write_bytes(f"{root}/x", b"%d" % number).version for number in range(10)]
    assert len(set(versions)) == 10
    assert names_in(root) == ["x"]


def test_later_version_has_a_later_time_even_if_the_clock_went_back(root: str) -> None:
    storage.write_bytes(f"{root}/x", b"1")
    ahead_ns = Path(root, "x").stat().st_mtime_ns + 10**12
    os.utime(f"{root}/x", ns=(ahead_ns, ahead_ns))
    info = storage.write_bytes(f"{root}/x", b"2")
    assert Path(root, "x").stat().st_mtime_ns > ahead_ns
    assert storage.stat(f"{root}/x") == info


def test_file_may_be_read_by_whom_the_umask_lets(root: str) -> None:
    mask = os.umask(0o027)
    try:
        storage.write_bytes(f"{root}/x", b"")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(Path(root, "x").stat().st_mode) == 0o640


def test_create_only_write_keeps_what_is_there(root: str) -> None:
    storage.write_bytes(f"{root}/x", b"first", if_absent=True)
    with pytest.raises(AlreadyExistsError, match=f"{root}/x"):
        storage.write_bytes(f"{root}/x", b"second", if_absent=True)
    assert storage.read_bytes(f"{root}/x") == b"first"
    assert names_in(root) == ["x"]


def test_create_only_write_on_a_disk_without_hard_links(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_paths: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    storage.write_bytes(f"{root}/x", b"first", if_absent=True)
    with pytest.raises(AlreadyExistsError):
        storage.write_bytes(f"{root}/x", b"second", if_absent=True)
    assert storage.read_bytes(f"{root}/x") == b"first"
    assert names_in(root) == ["x"]


def test_swap_needs_the_version_that_is_there(root: str) -> None:
    uri = f"{root}/folder/x"
    first = storage.swap_bytes(uri, b"1", expected_version=None)
    second = storage.swap_bytes(uri, b"2", expected_version=first.version)
    for version in (None, first.version, "no version"):
        with pytest.raises(ConflictError, match=uri):
            storage.swap_bytes(uri, b"3", expected_version=version)
    assert storage.stat(uri) == second
    assert storage.read_bytes(uri) == b"2"
    assert names_in(f"{root}/folder") == ["x"]


def test_swap_of_what_is_gone_is_a_conflict(root: str) -> None:
    info = storage.write_bytes(f"{root}/x", b"1")
    storage.delete(info.uri)
    with pytest.raises(ConflictError):
        storage.swap_bytes(info.uri, b"2", expected_version=info.version)
    assert names_in(root) == []


def test_read_pinned_to_a_version_refuses_another(root: str, tmp_path: Path) -> None:
    info = storage.write_bytes(f"{root}/x", b"1")
    assert storage.read_bytes(info.uri, version=info.version) == b"1"
    storage.write_bytes(f"{root}/x", b"2")
    with pytest.raises(NotFoundError, match="changed or deleted since"):
        storage.read_bytes(info.uri, version=info.version)
    with pytest.raises(NotFoundError, match="changed or deleted since"):
        storage.download(info.uri, tmp_path / "copy", version=info.version)
    assert names_in(root) == ["x"]


def test_missing_object_is_not_found(root: str, tmp_path: Path) -> None:
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


def test_json_is_the_same_bytes_for_the_same_facts(root: str) -> None:
    storage.write_json(f"{root}/x", {"b": [1, 2.5], "a": "é"})
    assert (
        storage.read_bytes(f"{root}/x")
        == b'{\n  "a": "\\u00e9",\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    )
    assert storage.read_json(f"{root}/x") == {"a": "é", "b": [1, 2.5]}


@pytest.mark.parametrize("data", [b"", b"{", b'{"a": 1} x', b"\xff{}"])
def test_bad_json_names_the_file(data: bytes, root: str) -> None:
    storage.write_bytes(f"{root}/x", data)
    with pytest.raises(StorageError, match=f"{root}/x must be"):
        storage.read_json(f"{root}/x")


def test_json_knows_no_infinity(root: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(f"{root}/x", float("nan"))
    assert names_in(root) == []


def test_upload_and_download_copy_all_bytes(root: str, tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "here").write_bytes(data)
    info = storage.upload(tmp_path / "here", f"{root}/stored/x")
    assert info == storage.stat(f"{root}/stored/x")
    storage.download(info.uri, tmp_path / "a" / "there", version=info.version)
    assert (tmp_path / "a" / "there").read_bytes() == data
    with pytest.raises(AlreadyExistsError):
        storage.upload(tmp_path / "here", info.uri, if_absent=True)


def test_local_object_is_its_own_local_file(root: str) -> None:
    storage.write_bytes(f"{root}/x", b"1")
    with storage.as_local_file(f"{root}/x") as path:
        assert path == Path(root, "x")


def test_check_writable_makes_the_folder_and_leaves_nothing(root: str) -> None:
    storage.check_writable(f"{root}/a/b")
    assert names_in(f"{root}/a/b") == []


def test_check_writable_says_who_may_not(as_nobody: Path) -> None:
    with pytest.raises(
        StorageError, match=rf"{as_nobody} cannot be written: permission is denied for user \d+"
    ):
        storage.check_writable(str(as_nobody))
    with pytest.raises(StorageError, match="permission is denied"):
        storage.write_bytes(f"{as_nobody}/a/x", b"")
    with pytest.raises(StorageError, match="secret cannot be read: permission is denied"):
        storage.read_bytes(f"{as_nobody}/secret")


def test_file_in_the_path_is_said_to_be_one(root: str) -> None:
    storage.write_bytes(f"{root}/file", b"")
    for act in (storage.check_writable, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(
            StorageError, match=f"{root}/file/x cannot be written: a part of its path is a file"
        ):
            act(f"{root}/file/x")


def test_name_that_is_too_long_is_said_to_be_so(root: str) -> None:
    with pytest.raises(StorageError, match="its name is too long"):
        storage.write_bytes(f"{root}/{'x' * 256}", b"")
    assert names_in(root) == []


def test_write_past_the_disk_s_limit_leaves_the_old_object(root: str) -> None:
    storage.write_bytes(f"{root}/x", b"old")
    program = f"""
import resource
from repot import storage
from repot.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    storage.write_bytes({f"{root}/x"!r}, bytes(2000))
except StorageError as err:
    print(err)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(
        f"{root}/x cannot be written: the file is too large for this disk"
    )
    assert storage.read_bytes(f"{root}/x") == b"old"
    assert names_in(root) == ["x"]


def test_killed_write_leaves_no_object(root: str, tmp_path: Path) -> None:
    folder = tmp_path / "stored"
    os.mkfifo(tmp_path / "pipe")
    program = f"from repot import storage; storage.upload(storage.local_path({root!r}) / 'pipe', {f'{folder}/x'!r})"
    with (
        subprocess.Popen([sys.executable, "-c", program]) as writer,
        (tmp_path / "pipe").open("wb") as pipe,
    ):
        pipe.write(bytes(1 << 21))
        pipe.flush()
        assert [path.name.startswith(".repot-") for path in folder.iterdir()] == [True]
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert storage.list_objects(str(folder)) == []
    assert storage.stat(f"{folder}/x") is None
    storage.delete_folder(str(folder))
    assert not folder.exists()
