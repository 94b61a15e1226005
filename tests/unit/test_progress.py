import json
import os
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
        {
            "event": "result",
            "process": progress.PROCESS,
            "values": {"training_id": "0123456789abcdef"},
        },
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


ERRORS = [
    (DataError("a.jpg is empty."), 1, "a.jpg is empty."),
    (UsageError(["x is wrong.", "y is wrong."]), 2, "x is wrong.\ny is wrong."),
    (ZeroDivisionError("division by zero"), 1, "ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize(("error", "exit_code", "message"), ERRORS)
def test_failed_task_exits_with_the_code_of_its_error_and_reports_it(
    events_path: Path, error: Exception, exit_code: int, message: str
) -> None:
    with pytest.raises(SystemExit) as caught, progress.task("plan"):
        raise error

    assert caught.value.code == exit_code
    failed = read_events(events_path)[-1]
    assert (failed["event"], failed["message"], failed["exit_code"]) == (
        "failed",
        message,
        exit_code,
    )
    assert type(error).__name__ in failed["traceback"]


FAILING_TASK = """
import logging, sys
from repot import progress
from repot.errors import UsageError
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
print("x" * 50)  # stays in the buffer of standard output until something flushes it
with progress.task("plan"):
    raise {error}
"""


@pytest.mark.parametrize(
    ("error", "exit_code", "lines", "has_traceback"),
    [
        ('UsageError(["x is wrong.", "y is wrong."])', 2, ["x is wrong.", "y is wrong."], False),
        ("ValueError('no')", 1, ["ValueError: no"], True),
    ],
)
def test_reason_is_the_last_thing_that_a_failed_process_prints(
    tmp_path: Path, error: str, exit_code: int, lines: list[str], has_traceback: bool
) -> None:
    message_path = tmp_path / "termination-log"
    # As KFP's launcher does: both streams are one pipe.
    done = subprocess.run(
        [sys.executable, "-c", FAILING_TASK.format(error=error)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, progress.TERMINATION_LOG_VARIABLE: str(message_path)},
        check=False,
    )

    assert done.returncode == exit_code
    end = ["", "=== plan failed ===", *lines, ""]
    assert done.stdout.splitlines()[-len(end) :] == end
    assert ("Traceback" in done.stdout) == has_traceback
    assert message_path.read_text() == "plan: " + "\n".join(lines)


def test_failure_is_wrapped_to_short_lines_and_found_unwrapped() -> None:
    uri = "s3://bucket/" + "long-name/" * 12
    problems = [
        f"pictures_uri must name a folder; got {uri}. " + "Correct the name. " * 8,
        "epochs must lie in 1..1000; got epochs=0.",
        "  4 x truncated: the file ends too early. " + "Upload them again. " * 6,
        "  1 x empty.",
    ]
    message = "\n".join(map(str.rstrip, problems))

    block = progress.format_failure("plan", message)

    lines = block.splitlines()
    assert lines[:2] == ["", "=== plan failed ==="]
    assert lines[-1] == ""
    assert all(
        len(line) <= progress.MAX_FAILURE_COLUMNS or line.strip() == f"{uri}." for line in lines
    )
    log = (
        f"I0301 launcher\n{progress.format_failure('plan', 'An earlier attempt.')}{block}E0301 x\n"
    )
    assert progress.find_failure(log) == message


@pytest.mark.parametrize("log", ["", "=== plan failed ===\n", "one\ntwo\n"])
def test_log_without_a_reason_has_no_failure(log: str) -> None:
    assert progress.find_failure(log) == ""


def test_termination_message_is_cut_to_what_kubernetes_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.delenv(progress.TERMINATION_LOG_VARIABLE, raising=False)
    monkeypatch.setattr(progress, "TERMINATION_LOG", path)

    progress.write_termination_message("x" + "é" * 3000)

    assert path.read_text(encoding="utf-8") == "x" + "é" * 2047


def test_termination_message_is_skipped_outside_of_a_pod_and_where_it_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(progress.TERMINATION_LOG_VARIABLE, raising=False)
    monkeypatch.setattr(progress, "TERMINATION_LOG", tmp_path / "termination-log")

    progress.write_termination_message("reason")

    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(progress.TERMINATION_LOG_VARIABLE, str(tmp_path / "none" / "log"))
    progress.write_termination_message("reason")


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
    counter.add(3)
    counter.add(0)  # Otherwise the end would be shown twice.
    assert [event["done"] for event in read_events(events_path)] == [0, 2, 5]
