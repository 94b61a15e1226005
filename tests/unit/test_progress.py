import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repot import progress
from repot.errors import DataError, UsageError
from repot.progress import ProgressCounter

NUM_PROCESSES = 4
NUM_EVENTS = 200
REPORT_MANY = f"""
import sys
from repot import progress
for done in range({NUM_EVENTS}):
    progress.report(sys.argv[1], done, {NUM_EVENTS}, note="x" * 500)
"""


@pytest.fixture
def events_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "events of this run.jsonl"
    monkeypatch.setenv(progress.EVENTS_VARIABLE, str(path))
    return path


def read_events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_report_without_the_variable_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(progress.EVENTS_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)

    progress.report("train", 1, 2)

    assert list(tmp_path.iterdir()) == []


def test_each_event_is_one_line(events_path: Path) -> None:
    progress.report(
        "build shards", 3, 10, unit="pictures", note="train-00000-of-00001\nsecond line é"
    )
    progress.result(training_id="0123456789abcdef")

    assert read_events(events_path) == [
        {
            "event": "progress",
            "process": progress.PROCESS,
            "task": "build shards",
            "done": 3,
            "total": 10,
            "unit": "pictures",
            "note": "train-00000-of-00001\nsecond line é",
        },
        {"event": "result", "process": progress.PROCESS, "training_id": "0123456789abcdef"},
    ]


def test_lines_of_several_processes_are_not_mixed(events_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", REPORT_MANY, str(number)])
        for number in range(NUM_PROCESSES)
    ]
    assert [process.wait() for process in processes] == [0] * NUM_PROCESSES

    events = read_events(events_path)

    for number in range(NUM_PROCESSES):
        assert [event["done"] for event in events if event["task"] == str(number)] == list(
            range(NUM_EVENTS)
        )


def test_successful_task_reports_start_and_end(events_path: Path) -> None:
    with progress.task("merge"):
        pass

    started, finished = read_events(events_path)
    assert started == {"event": "started", "process": progress.PROCESS, "task": "merge"}
    assert (finished["event"], finished["task"]) == ("finished", "merge")
    assert 0 <= finished["seconds"] < 10


@pytest.mark.parametrize(
    ("error", "exit_code"), [(DataError("a.jpg is empty."), 1), (UsageError(["x.", "y."]), 2)]
)
def test_task_with_an_expected_error_exits_with_its_message(
    events_path: Path, error: DataError | UsageError, exit_code: int
) -> None:
    with pytest.raises(SystemExit) as caught, progress.task("plan"):
        raise error

    assert caught.value.code == f"plan: {error}"
    failed = read_events(events_path)[-1]
    assert (failed["event"], failed["message"], failed["exit_code"]) == (
        "failed",
        str(error),
        exit_code,
    )
    assert type(error).__name__ in failed["traceback"]


def test_task_with_an_unexpected_error_raises_it(events_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), progress.task("train"):
        _ = 1 / 0

    failed = read_events(events_path)[-1]
    assert (failed["event"], failed["exit_code"]) == ("failed", 1)
    assert failed["message"] == "ZeroDivisionError: division by zero"


def test_interrupted_task_reports_no_failure(events_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), progress.task("train"):
        raise KeyboardInterrupt

    assert [event["event"] for event in read_events(events_path)] == ["started"]


def test_counter_reports_start_and_end_and_few_steps_between(events_path: Path) -> None:
    counter = ProgressCounter("build shards", 1000, unit="pictures", done=100)
    for _ in range(900):
        counter.add()
    events = read_events(events_path)
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


def test_counter_reports_again_after_the_interval(
    events_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REPORT_INTERVAL_SECONDS", 0.0)
    counter = ProgressCounter("t", 5, unit="files")
    counter.add(2)
    counter.add()
    assert [event["done"] for event in read_events(events_path)] == [0, 2, 3]
