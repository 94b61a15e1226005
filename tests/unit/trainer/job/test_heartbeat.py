import shutil
import time
from pathlib import Path

import pytest

from repot import storage
from repot.errors import StorageError
from repot.trainer.job.heartbeat import Heartbeat, HeartbeatWatch


def test_silence_is_measured_from_the_last_change(tmp_path: Path) -> None:
    uri = str(tmp_path / "beat")
    watch = HeartbeatWatch(uri, now=1000.0)
    assert watch.silent_seconds(1050.0) == 50.0

    storage.write_json(uri, {"number": 1})
    assert watch.silent_seconds(1060.0) == 0.0
    assert watch.silent_seconds(1100.0) == 40.0

    storage.write_json(uri, {"number": 2})
    assert watch.silent_seconds(1200.0) == 0.0


def test_unreadable_storage_does_not_count_as_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = HeartbeatWatch(str(tmp_path / "beat"), now=0.0)

    def fail(_: str) -> None:
        raise StorageError("out of order")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "stat", fail)
        assert watch.silent_seconds(500.0) == 0.0
    assert watch.silent_seconds(510.0) == 10.0


def test_heartbeat_continues_after_an_outage_until_the_block_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    uri = str(folder / "beat")
    with Heartbeat(uri, seconds=0.02):
        _wait_for(folder / "beat")
        shutil.rmtree(folder)
        folder.write_text("in the way")
        time.sleep(0.1)
        folder.unlink()
        _wait_for(folder / "beat")
    time.sleep(0.1)
    before = storage.read_json(uri)
    time.sleep(0.1)

    assert storage.read_json(uri) == before
    assert before["number"] > 2


def test_two_writers_write_different_content(tmp_path: Path) -> None:
    uri, contents = str(tmp_path / "beat"), set()
    for _ in range(2):
        with Heartbeat(uri, seconds=60):
            _wait_for(tmp_path / "beat")
            contents.add(storage.read_text(uri))
            storage.delete(uri)

    assert len(contents) == 2


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 5
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
