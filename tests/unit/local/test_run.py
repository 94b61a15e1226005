import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from repot.progress import TaskFailed
from repot_pipelines.local.process import ProcessResult
from repot_pipelines.local.run import (
    LOG_NAME,
    NUM_EARLIER_LOGS,
    PipelineFailedError,
    _keep_edits,
    _open_log,
    _raise_if_failed,
    _shown_log,
)


def failed(exit_code: int, message: str = "It is wrong.") -> ProcessResult:
    failure = TaskFailed(
        process="a", task="plan", message=message, exit_code=exit_code, traceback="Traceback ..."
    )
    return ProcessResult(results={}, failure=failure, return_code=1, task="plan", status=1)


def ended(status: int, task: str = "train") -> ProcessResult:
    """Return the result of a process that ended without reporting a failure."""
    return ProcessResult(results={}, failure=None, return_code=1, task=task, status=status)


def ending(result: ProcessResult, log_path: Path | None = None) -> str:
    with pytest.raises(PipelineFailedError) as caught:
        _raise_if_failed(result, log_path)
    assert caught.value.exit_code == 1
    return str(caught.value)


@pytest.mark.parametrize(("exit_code", "message"), [(1, "plan: It is wrong."), (2, "It is wrong.")])
def test_failed_task_gives_its_message_exit_code_and_traceback(
    exit_code: int, message: str
) -> None:
    with pytest.raises(PipelineFailedError) as caught:
        _raise_if_failed(failed(exit_code), None)

    assert str(caught.value) == message
    assert caught.value.exit_code == exit_code
    assert caught.value.details == "Traceback ..."


def test_full_disk_of_a_failed_task_gives_advice() -> None:
    message = ending(failed(1, "OSError: [Errno 28] No space left on device: '/tmp/x'"))

    assert message.startswith("plan: OSError: [Errno 28] No space left on device: '/tmp/x'. Free")
    assert "TMPDIR" in message


@pytest.mark.parametrize(
    ("status", "ending_and_advice"),
    [
        (137, "was ended by the signal SIGKILL, before it could report a reason. Most likely the"),
        (-9, "was ended by the signal SIGKILL, before it could report a reason. Most likely the"),
        (143, "was ended by the signal SIGTERM, before it could report a reason. Another process"),
        (139, "was ended by the signal SIGSEGV, before it could report a reason. A library failed"),
        (1, "ended with status 1 and reported no reason. See the output above."),
    ],
)
def test_process_without_a_reason_names_the_signal_or_status_and_what_to_do(
    status: int, ending_and_advice: str
) -> None:
    assert ending(ended(status)).startswith(f"The task train {ending_and_advice}")
    runner = ending(ended(status, task=""))
    assert runner.startswith(f"The local pipeline runner {ending_and_advice}")


@pytest.mark.parametrize(
    ("log", "output"),
    [(None, "Its log is empty."), ("one\nKilled\n\n", "Its log ends with 'Killed'.")],
)
def test_process_without_a_reason_gives_the_last_line_of_its_output(
    log: str | None, output: str, tmp_path: Path
) -> None:
    path = tmp_path / LOG_NAME
    if log is not None:
        path.write_text(log)

    assert f"{output} See the end of {path}, or run again with --verbose." in ending(
        ended(137), path
    )


def test_full_disk_in_the_log_is_the_reason(tmp_path: Path) -> None:
    path = tmp_path / LOG_NAME
    path.write_text("x" * 100_000 + "\nsh: 3: printf: I/O error\nNo space left on device\n\nend\n")

    assert "reported no reason. A disk is full. Free some space where" in ending(ended(1), path)


def test_successful_process_raises_nothing() -> None:
    result = ProcessResult(results={}, failure=None, return_code=0, task="", status=0)
    _raise_if_failed(result, None)


def test_logs_of_earlier_runs_are_kept_and_private(tmp_path: Path) -> None:
    (tmp_path / LOG_NAME).write_text("an older version wrote it")
    (tmp_path / LOG_NAME).chmod(0o644)
    for number in range(NUM_EARLIER_LOGS + 2):
        with _open_log(tmp_path, verbose=False) as log:
            log.write(str(number).encode())

    logs = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert logs == {
        "pipeline.log": "5",
        "pipeline.log.1": "4",
        "pipeline.log.2": "3",
        "pipeline.log.3": "2",
        "pipeline.log.4": "1",
    }
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_log_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with _open_log(tmp_path, verbose=False):
            assert (tmp_path / LOG_NAME).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_log_is_shown_while_it_grows_and_to_its_end(tmp_path: Path) -> None:
    path, output = tmp_path / LOG_NAME, io.StringIO()
    lines = [
        "16:24:25.216 - INFO - Executing task 'train'\n",
        "16:24:25.216 - INFO - Streamed logs:\n    [KFP Executor 2026 INFO]: train: started\n",
        "    [KFP Executor 2026 INFO]: epoch \x1b[31m1\n    plain",
        " output\n",
    ]
    path.touch()

    with _shown_log(path, Console(file=output)), path.open("a") as log:
        for text in lines:
            log.write(text)
            log.flush()

    assert output.getvalue().splitlines() == [
        "train: started",
        "train: epoch \\u001b[31m1",
        "train: plain output",
    ]


HEADER = "path,given_label,likely_label,confidence,new_label,split,content,uri\n"
EDITED = HEADER + "a/1.jpg,a,b,0.9,b,train,,\na/2.jpg,a,b,0.8,-,train,,\na/3.jpg,a,b,0.7,,train,,\n"


@pytest.mark.parametrize(
    ("new", "is_kept"),
    [
        (HEADER, True),
        (HEADER + "a/1.jpg,a,,,b,,,\n", True),
        (HEADER + "a/1.jpg,a,,,b,,,\na/2.jpg,a,,,remove,,,\na/4.jpg,a,b,0.6,,train,,\n", False),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_labels_that_a_person_wrote_are_never_overwritten(
    new: str, is_kept: bool, delimiter: str, tmp_path: Path
) -> None:
    table, earlier = tmp_path / "suspects.csv", tmp_path / "suspects-edited-1.csv"
    edited = EDITED.replace(",", delimiter)
    table.write_text(edited, encoding="utf-8-sig")
    earlier.write_text("earlier")
    (tmp_path / "new.csv").write_text(new)

    kept = _keep_edits(table, str(tmp_path / "new.csv"))

    assert kept == (tmp_path / "suspects-edited-2.csv" if is_kept else None)
    assert (kept or table).read_text(encoding="utf-8-sig") == edited
    assert earlier.read_text() == "earlier"


def test_file_without_new_labels_is_replaced_and_an_unknown_one_is_kept(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(HEADER)
    table = tmp_path / "suspects.csv"
    assert _keep_edits(table, str(tmp_path / "new.csv")) is None
    table.write_text(HEADER + "a/3.jpg,a,b,0.7,,train,,\n")
    assert _keep_edits(table, str(tmp_path / "new.csv")) is None
    table.write_bytes("päth".encode("utf-16"))
    assert _keep_edits(table, str(tmp_path / "new.csv")) == tmp_path / "suspects-edited-1.csv"


@pytest.mark.parametrize("num_rows", [3, 8000])  # 8000 rows are longer than a cell may be
@pytest.mark.parametrize("is_header", [False, True])
def test_table_with_an_open_quote_is_kept(tmp_path: Path, num_rows: int, is_header: bool) -> None:
    table = tmp_path / "suspects.csv"
    rest = "a/3.jpg,a,b,0.7,,train,,\n" * num_rows
    first = f'"{HEADER}' if is_header else f'{HEADER}"a/1.jpg,a,b,0.7,c,train,,\n'
    table.write_text(first + rest)

    assert _keep_edits(table, str(tmp_path / "new.csv")) == tmp_path / "suspects-edited-1.csv"
