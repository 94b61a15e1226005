"""Run the compiled pipeline on this machine, in a child process, and follow it through its events."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from repot.progress import EVENTS_VARIABLE
from repot_pipelines.local.docker import remove_containers
from repot_pipelines.local.events import POLL_SECONDS, Event, follow

STOP_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalRun:
    """How a local run ended.

    Attributes:
        results: Every fact that the tasks reported with `progress.result`.
        failure: The first `failed` event, or None.
        return_code: Exit status of the child process.
    """

    results: dict[str, Any]
    failure: Event | None
    return_code: int


def run_locally(
    pipeline: Path,
    arguments: dict[str, Any],
    *,
    runner: str,
    work_folder: Path,
    log: IO[bytes],
    on_event: Callable[[Event], None],
) -> LocalRun:
    """Run a compiled pipeline to its end and hand every event on as it comes.

    Args:
        pipeline: The compiled YAML.
        arguments: Pipeline parameters by name.
        runner: "subprocess" runs the tasks in this Python, "docker" in containers of the images that they name.
        work_folder: An existing folder for the small artifacts and the events.
        log: Receives all that kfp and the tasks print.
        on_event: Called with each event, in order.

    Raises:
        KeyboardInterrupt: Ctrl-C; no process of the run is left when it is raised.
    """
    events = work_folder / "events.jsonl"
    events.touch()
    request = work_folder / "request.json"
    facts = {
        "pipeline": str(pipeline),
        "arguments": arguments,
        "work_folder": str(work_folder),
        "runner": runner,
    }
    request.write_text(json.dumps(facts), encoding="utf-8")
    results: dict[str, Any] = {}
    failures: list[Event] = []
    containers = (
        _no_containers_after(work_folder) if runner == "docker" else contextlib.nullcontext()
    )
    with containers, _child(request, events, log) as child, events.open("rb") as stream:
        for event in follow(stream, lambda: child.poll() is not None):
            if event["event"] == "result":
                results.update({key: value for key, value in event.items() if key != "event"})
            elif event["event"] == "failed":
                failures.append(event)
            on_event(event)
    return LocalRun(
        results=results, failure=failures[0] if failures else None, return_code=child.returncode
    )


@contextlib.contextmanager
def _child(request: Path, events: Path, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, EVENTS_VARIABLE: str(events), "PYTHONUNBUFFERED": "1"}
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # kfp makes a workspace and a folder for every task, and removes none of them.
    temporary = request.parent / "tmp"
    temporary.mkdir()
    environment["TMPDIR"] = str(temporary)
    child = subprocess.Popen(  # noqa: S603 - our own module in our own interpreter
        [sys.executable, "-m", "repot_pipelines.local.child", str(request)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        _stop_group(child)


@contextlib.contextmanager
def _no_containers_after(work_folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        remove_containers(work_folder)


def _stop_group(child: subprocess.Popen[bytes]) -> None:
    """End every process of the child's group: politely first, for certain after STOP_SECONDS."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        _signal_group(child, signal_number)
        deadline = time.monotonic() + STOP_SECONDS
        while _signal_group(child, 0) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _signal_group(child: subprocess.Popen[bytes], signal_number: int) -> bool:
    """Send a signal to the group (0 only asks); False when nobody is left in it."""
    child.poll()
    try:
        os.killpg(child.pid, signal_number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies
        return child.returncode is None
    return True
