"""Run the compiled pipeline in a child process, follow its events, and stop it on Ctrl-C."""

import contextlib
import locale
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from repot.cluster_names import RUN_ID_VARIABLE
from repot.errors import convert_disk_errors
from repot.progress import (
    EVENTS_VARIABLE,
    Event,
    ProcessExited,
    TaskFailed,
    TaskFinished,
    TaskResult,
    TaskStarted,
)
from repot_pipelines.local.child import ChildRequest
from repot_pipelines.local.docker import remove_containers
from repot_pipelines.local.events import POLL_SECONDS, follow_events
from repot_pipelines.local.scratch import Scratch

_TEMPORARY_FOLDER = "tmp"

STOP_SECONDS = 5.0
"""How long the child's process group may take to end after each signal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessResult:
    """How the child process ended.

    Attributes:
        results: All values that tasks reported with `progress.result`, by name.
        failure: The first failure of a task, or None.
        return_code: Exit status of the child process.
        task: Name of the task whose process ended first with an error; "" if none did.
        status: Exit status of that process, or of the child process without one.
    """

    results: dict[str, Any]
    failure: TaskFailed | None
    return_code: int
    task: str
    status: int


def run_in_process(
    pipeline: Path,
    arguments: dict[str, Any],
    *,
    runner: str,
    scratch: Scratch,
    log: IO[bytes],
    on_event: Callable[[Event], None],
) -> ProcessResult:
    """Run a compiled pipeline to its end, and pass on every event as it arrives.

    Args:
        pipeline: The compiled YAML.
        arguments: Settings by name.
        runner: "subprocess" runs tasks in this Python, "docker" in their container images.
        scratch: Folder for small artifacts, events and temporary files.
        log: Receives everything that KFP and the tasks print.
        on_event: Called with each event, in order.

    Raises:
        KeyboardInterrupt: Ctrl-C; by then all processes of the run have ended.
    """
    work_folder = scratch.path
    events_path = work_folder / "events.jsonl"
    request_path = work_folder / "request.json"
    request = ChildRequest(
        pipeline=str(pipeline), arguments=arguments, work_folder=str(work_folder), runner=runner
    )
    with convert_disk_errors(work_folder):
        events_path.touch()
        request_path.write_text(request.to_text(), encoding="utf-8")
        (work_folder / _TEMPORARY_FOLDER).mkdir()
    results: dict[str, Any] = {}
    failures: list[TaskFailed] = []
    running: dict[str, None] = {}
    exit_statuses: list[tuple[str, int]] = []
    containers = (
        _removing_containers(work_folder) if runner == "docker" else contextlib.nullcontext()
    )
    with (
        containers,
        _start_child(request_path, events_path, log, scratch.lock) as child,
        events_path.open("rb") as stream,
    ):
        for event in follow_events(stream, lambda: child.poll() is not None):
            match event:
                case TaskResult():
                    results.update(event.values)
                case TaskFailed():
                    failures.append(event)
                case TaskStarted():
                    running[event.task] = None
                case TaskFinished():
                    running.pop(event.task, None)
                case ProcessExited(status=status) if status:
                    exit_statuses.append((next(reversed(running), ""), status))
            on_event(event)
    task, status = exit_statuses[0] if exit_statuses else ("", child.returncode)
    return ProcessResult(
        results=results,
        failure=failures[0] if failures else None,
        return_code=child.returncode,
        task=task,
        status=status,
    )


@contextlib.contextmanager
def _start_child(
    request_path: Path, events_path: Path, log: IO[bytes], lock: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the child process; at the end of the block its whole process group has ended."""
    environment = {
        **os.environ,
        EVENTS_VARIABLE: str(events_path),
        # By its id, tasks agree on who sends a notification.
        RUN_ID_VARIABLE: f"local-{secrets.token_hex(8)}",
        "PYTHONUNBUFFERED": "1",
        # KFP reads the output of tasks in the locale's encoding, whatever the terminal's is.
        "PYTHONIOENCODING": f"{locale.getpreferredencoding(False)}:backslashreplace",
        # Without it, `python -m` in the child and in KFP's tasks imports modules from the working
        # folder first, where the user's own random.py or types.py may be.
        "PYTHONSAFEPATH": "1",
    }
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # KFP creates a temporary folder per task and removes none of them; in the work folder they are
    # removed with it.
    environment["TMPDIR"] = str(request_path.parent / _TEMPORARY_FOLDER)
    child = subprocess.Popen(  # noqa: S603 - our own module in this interpreter
        [sys.executable, "-P", "-m", "repot_pipelines.local.child", str(request_path)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        pass_fds=[lock],
    )
    try:
        yield child
    finally:
        _stop_group(child)


@contextlib.contextmanager
def _removing_containers(work_folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        remove_containers(work_folder)


def _stop_group(child: subprocess.Popen[bytes]) -> None:
    """Stop every process in the child's group: SIGTERM, and SIGKILL after STOP_SECONDS."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        _signal_group(child, signal_number)
        deadline = time.monotonic() + STOP_SECONDS
        while _signal_group(child, 0) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _signal_group(child: subprocess.Popen[bytes], signal_number: int) -> bool:
    """Send a signal to the group, or only test for it with signal 0; return whether it exists."""
    child.poll()
    try:
        os.killpg(child.pid, signal_number)
    except ProcessLookupError:
        return False
    except PermissionError:  # what macOS raises for a group of zombies
        return child.returncode is None
    return True
