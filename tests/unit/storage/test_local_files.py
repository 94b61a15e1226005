"""Atomic writes of local files and their locks, through the public functions."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from repot import storage
from repot.errors import AlreadyExistsError


def names_in(folder: str | Path) -> list[str]:
    """Return the names of everything in a folder, repot's hidden files included."""
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path)


def test_write_replaces_the_whole_object_with_a_new_version(root: str) -> None:
    versions = [storage.write_bytes(f"{root}/x", b"%d" % number).version for number in range(10)]
    assert len(set(versions)) == 10
    assert names_in(root) == ["x"]


def test_new_version_has_a_later_time_even_if_the_clock_went_back(root: str) -> None:
    storage.write_bytes(f"{root}/x", b"1")
    ahead_ns = Path(root, "x").stat().st_mtime_ns + 10**12
    os.utime(f"{root}/x", ns=(ahead_ns, ahead_ns))
    info = storage.write_bytes(f"{root}/x", b"2")
    assert Path(root, "x").stat().st_mtime_ns > ahead_ns
    assert storage.stat(f"{root}/x") == info


def test_file_mode_follows_the_umask(root: str) -> None:
    mask = os.umask(0o027)
    try:
        storage.write_bytes(f"{root}/x", b"")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(Path(root, "x").stat().st_mode) == 0o640


def test_create_only_write_keeps_an_existing_object(root: str) -> None:
    storage.write_bytes(f"{root}/x", b"first", if_absent=True)
    with pytest.raises(AlreadyExistsError, match=f"{root}/x"):
        storage.write_bytes(f"{root}/x", b"second", if_absent=True)
    assert storage.read_bytes(f"{root}/x") == b"first"
    assert names_in(root) == ["x"]


def test_create_only_write_works_on_a_disk_without_hard_links(
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


@pytest.mark.parametrize("has_links", [True, False])
def test_nameless_file_gets_its_name_when_it_is_complete(
    root: str, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_paths: object, **_options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def write(file: BinaryIO) -> None:
        file.write(b"new" * 100_000)
        file.flush()
        seen.append(names_in(root))

    storage.write_bytes(f"{root}/x", b"old")
    seen: list[list[str]] = []
    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    status = storage.write_atomically(Path(root, "x"), write, is_nameless=True)
    assert storage.read_bytes(f"{root}/x") == b"new" * 100_000
    assert (status.st_size, status.st_mtime_ns) == (300_000, Path(root, "x").stat().st_mtime_ns)
    assert names_in(root) == ["x"]
    try:
        os.close(os.open(root, os.O_TMPFILE | os.O_RDWR))
    except OSError:
        pytest.skip("this disk has no nameless files")
    assert seen == [["x"]]


def test_failed_nameless_write_keeps_the_old_file(root: str) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"new")
        raise ValueError

    storage.write_bytes(f"{root}/x", b"old")
    with pytest.raises(ValueError, match=r"^$"):
        storage.write_atomically(Path(root, "x"), fail, is_nameless=True)
    assert storage.read_bytes(f"{root}/x") == b"old"
    assert names_in(root) == ["x"]


def test_write_beyond_the_file_size_limit_keeps_the_old_object(root: str) -> None:
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


def test_killed_write_leaves_no_object(tmp_path: Path) -> None:
    pipe_path, folder = tmp_path / "pipe", tmp_path / "stored"
    os.mkfifo(pipe_path)
    program = f"""
from pathlib import Path
from repot import storage
storage.upload(Path({str(pipe_path)!r}), {f"{folder}/x"!r})
"""
    with (
        subprocess.Popen([sys.executable, "-c", program]) as writer,
        pipe_path.open("wb") as pipe,
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
