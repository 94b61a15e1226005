from pathlib import Path
from typing import Any

import pytest

from repot_pipelines.local.process import ProcessResult
from repot_pipelines.local.run import LOG_NAME, PipelineFailedError, _raise_if_failed


def failed(exit_code: int) -> ProcessResult:
    event: dict[str, Any] = {
        "event": "failed",
        "task": "plan",
        "message": "It is wrong.",
        "exit_code": exit_code,
        "traceback": "Traceback ...",
    }
    return ProcessResult(results={}, failure=event, return_code=1)


@pytest.mark.parametrize(("exit_code", "message"), [(1, "plan: It is wrong."), (2, "It is wrong.")])
def test_failed_task_gives_its_message_exit_code_and_traceback(
    exit_code: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(PipelineFailedError) as caught:
        _raise_if_failed(failed(exit_code), tmp_path)

    assert str(caught.value) == message
    assert caught.value.exit_code == exit_code
    assert caught.value.details == "Traceback ..."


@pytest.mark.parametrize(
    ("log", "output"),
    [(None, "its log is empty"), ("one\nKilled\n\n", "its log ends with 'Killed'")],
)
def test_process_that_ends_without_a_failed_task_gives_the_last_line_of_its_output(
    log: str | None, output: str, tmp_path: Path
) -> None:
    if log is not None:
        (tmp_path / LOG_NAME).write_text(log)

    with pytest.raises(PipelineFailedError) as caught:
        _raise_if_failed(ProcessResult(results={}, failure=None, return_code=-9), tmp_path)

    assert f"status -9, and no task reported a reason; {output}. See" in str(caught.value)
    assert caught.value.exit_code == 1


def test_successful_process_raises_nothing(tmp_path: Path) -> None:
    _raise_if_failed(ProcessResult(results={}, failure=None, return_code=0), tmp_path)
