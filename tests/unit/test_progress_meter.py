import json
from pathlib import Path

import pytest

from repot import progress
from repot.progress import Meter


def test_meter_reports_start_end_and_little_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPOT_EVENTS", str(tmp_path / "events"))
    counter = Meter("build shards", 1000, unit="pictures", done=100)
    for _ in range(900):
        counter.add()
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert events[0] == {
        "event": "progress",
        "process": progress.PROCESS,
        "task": "build shards",
        "done": 100,
        "total": 1000,
        "unit": "pictures",
        "note": "",
    }
    assert events[-1]["done"] == 1000
    assert len(events) < 20


def test_meter_reports_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPOT_EVENTS", str(tmp_path / "events"))
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.0)
    counter = Meter("t", 5, unit="files")
    counter.add(2)
    counter.add()
    assert [
        json.loads(line)["done"] for line in (tmp_path / "events").read_text().splitlines()
    ] == [0, 2, 3]
