"""Temporary folders, and what is left of killed processes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from repot_pipelines.local.scratch import scratch_folder

OWN_A_FOLDER = """
import subprocess, sys
from repot_pipelines.local.scratch import scratch_folder

with scratch_folder() as scratch:
    fds = [scratch.lock] if sys.argv[1] == "share" else []
    child = subprocess.Popen(["sleep", "60"], pass_fds=fds)
    (scratch.path / "child").write_text(str(child.pid))
    print(scratch.path, flush=True)
    sys.stdin.read()
    child.kill()
    child.wait()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put temporary folders of this process and its subprocesses here."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def start_owner(*, share: bool) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_A_FOLDER, "share" if share else "keep"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def command_line(process: int) -> bytes:
    """Return the command line of a process; empty once it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def test_folder_is_removed_at_the_end(temporary: Path) -> None:
    with scratch_folder() as scratch:
        assert scratch.path.parent == temporary
        (scratch.path / "folder").mkdir()

    assert list(temporary.iterdir()) == []


def test_folder_of_a_killed_process_is_removed_by_the_next_and_others_are_kept(
    temporary: Path,
) -> None:
    (temporary / "repot-storage").mkdir()  # what a user named
    running, owned = start_owner(share=False)
    killed, abandoned = start_owner(share=False)
    with running, killed:
        orphan = int((abandoned / "child").read_text())
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        os.kill(orphan, signal.SIGKILL)
        assert abandoned.exists()

        with scratch_folder():
            assert not abandoned.exists()
            assert (owned / "child").exists()
            assert (temporary / "repot-storage").exists()
        running.communicate("")

    assert [path.name for path in temporary.iterdir()] == ["repot-storage"]


def test_subprocess_that_inherits_the_lock_keeps_the_folder(temporary: Path) -> None:
    owner, folder = start_owner(share=True)
    with owner:
        child = int((folder / "child").read_text())
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        with scratch_folder():
            assert folder.exists()

        os.kill(child, signal.SIGKILL)
        while b"sleep" in command_line(child):
            time.sleep(0.01)
        with scratch_folder():
            assert not folder.exists()
