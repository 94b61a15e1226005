import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from repot.errors import TrainingError
from repot.trainer.job.termination import (
    EXIT_PERMANENT,
    EXIT_RESTART,
    StopRequest,
    delete_job_on_sigterm,
)


class FakeApi:
    """Records deleted Jobs, or refuses to delete them."""

    def __init__(self, *, fails: bool = False) -> None:
        self.deleted: list[str] = []
        self._fails = fails

    def delete_job(self, name: str, *, timeout_seconds: float) -> None:
        assert timeout_seconds < 1
        if self._fails:
            raise TrainingError("forbidden")
        self.deleted.append(name)


def delete_on_sigterm(api: FakeApi) -> Any:
    untyped: Any = api
    return delete_job_on_sigterm(untyped, "train", keep=TrainingError)


def test_missing_heartbeat_requests_a_permanent_stop(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.watch_heartbeat(str(tmp_path / "beat"), silence_seconds=0.2)

    assert not stop.is_set()
    stop.wait(5.0)

    assert stop.is_set()
    assert stop.exit_code == EXIT_PERMANENT
    _cancel_timers()


def test_first_stop_request_decides_the_exit_code() -> None:
    stop = StopRequest()

    stop.set("first", EXIT_RESTART)
    stop.set("second", EXIT_PERMANENT)

    assert stop.exit_code == EXIT_RESTART
    _cancel_timers()


def test_sigterm_requests_a_restart_even_while_the_main_thread_is_busy() -> None:
    program = """
import time
from repot.trainer.job.termination import StopRequest
stop = StopRequest()
stop.listen_for_sigterm()
print("ready", flush=True)
while not stop.is_set():
    time.sleep(0.01)
raise SystemExit(stop.exit_code)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == EXIT_RESTART


def test_sigterm_in_the_task_deletes_the_job_and_exits_with_143() -> None:
    api, previous = FakeApi(), signal.getsignal(signal.SIGTERM)

    with pytest.raises(SystemExit) as caught, delete_on_sigterm(api):
        signal.raise_signal(signal.SIGTERM)

    assert caught.value.code == 143
    assert api.deleted == ["train"]
    assert signal.getsignal(signal.SIGTERM) == previous


@pytest.mark.parametrize(
    ("error", "deleted"),
    [(TrainingError("kept"), []), (KeyboardInterrupt(), ["train"]), (ValueError(), ["train"])],
)
def test_job_is_deleted_after_any_error_but_one(error: BaseException, deleted: list[str]) -> None:
    api = FakeApi()

    with pytest.raises(type(error)), delete_on_sigterm(api):
        raise error

    assert api.deleted == deleted


def test_job_is_kept_without_an_error() -> None:
    api = FakeApi()

    with delete_on_sigterm(api):
        pass

    assert api.deleted == []


def test_job_that_cannot_be_deleted_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="reason"), delete_on_sigterm(FakeApi(fails=True)):
        raise ValueError("reason")

    assert "cannot delete the Job train" in caplog.text


def _cancel_timers() -> None:
    """Cancel the timer that would end this process."""
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()
