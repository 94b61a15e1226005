"""Tasks that run in forks of a server behave like processes of their own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from repot_pipelines.local import task_client
from repot_pipelines.local.task_server import TaskServers

COMPONENT = """
import json, os, signal, sys, time

def report(path: str):
    values = dict(
        parent=os.getppid(),
        folder=os.getcwd(),
        mark=os.environ.get("MARK"),
        secret=os.environ.get("SECRET"),
        has_tensorflow="tensorflow" in sys.modules,
        num_threads=len(os.listdir("/proc/self/task")),
    )
    print("to stdout", file=sys.stdout)
    print("to stderr", file=sys.stderr)
    with open(path, "w") as file:
        json.dump(values, file)

def fail(path: str):
    raise ValueError("a message")

def register(path: str):
    import atexit, threading
    atexit.register(lambda: print(open(path).read(), "exit function", end=""))
    threading.Thread(target=lambda: (time.sleep(0.2), open(path, "a").write("thread"))).start()

def leave(path: str):
    sys.exit(3)

def die(path: str):
    os.kill(os.getpid(), signal.SIGSEGV)

def wait(path: str):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)

train = report
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskServers]:
    folder = tmp_path_factory.mktemp("long" * 40)  # longer than the address of a socket
    started = TaskServers(folder)
    os.environ["SECRET"] = "only the server's"
    started.start()
    del os.environ["SECRET"]
    yield started
    started.stop()


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Return a function that starts a task as the runner does."""
    (tmp_path / "component.py").write_text(COMPONENT)

    def start_task(function: str, variables: dict[str, str], **more: str) -> subprocess.Popen[str]:
        executor_input = {
            "inputs": {"parameterValues": {"path": str(tmp_path / "result")}},
            "outputs": {"outputFile": str(tmp_path / "output.json")},
        }
        arguments = {
            "--component_module_path": str(tmp_path / "component.py"),
            "--function_to_execute": function,
            "--executor_input": json.dumps(executor_input),
        }
        command = [sys.executable, "-I", "-S", task_client.__file__, *task_client.TASK_ARGUMENTS]
        return subprocess.Popen(
            [*command, *(part for pair in arguments.items() for part in pair)],
            cwd=tmp_path,
            env={**os.environ, **variables, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start_task


def result(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "result").read_text())
    return values


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_task_has_its_own_folder_environment_and_output(
    servers: TaskServers, start: Start, tmp_path: Path
) -> None:
    task = start("report", servers.environment_for("report"), MARK="the task's\udce4")
    output, _ = task.communicate(timeout=60)

    assert task.returncode == 0, output
    values = result(tmp_path)
    assert (values["folder"], values["mark"]) == (str(tmp_path), "the task's\udce4")
    assert values["secret"] is None
    assert values["parent"] not in (os.getpid(), task.pid)  # it ran in a fork
    assert not values["has_tensorflow"]
    assert "to stdout\n" in output
    assert "to stderr\n" in output


def test_failed_task_ends_with_its_status_and_traceback(servers: TaskServers, start: Start) -> None:
    task = start("fail", servers.environment_for("fail"))
    output, _ = task.communicate(timeout=60)

    assert task.returncode == 1
    assert output.rstrip().endswith("ValueError: a message")


def test_task_ends_with_its_threads_and_exit_functions(
    servers: TaskServers, start: Start, tmp_path: Path
) -> None:
    task = start("register", servers.environment_for("register"))
    output, _ = task.communicate(timeout=60)

    assert task.returncode == 0
    assert output.endswith("thread exit function")


@pytest.mark.parametrize(("function", "status"), [("leave", 3), ("die", -signal.SIGSEGV)])
def test_task_that_ends_itself_has_its_own_status(
    function: str, status: int, servers: TaskServers, start: Start
) -> None:
    task = start(function, servers.environment_for(function))
    task.communicate(timeout=60)

    assert task.returncode == status


def test_killed_task_is_killed_in_the_eyes_of_the_runner(
    servers: TaskServers, start: Start, tmp_path: Path
) -> None:
    task = start("wait", servers.environment_for("wait"))
    wait_until(lambda: (tmp_path / "result").exists() and (tmp_path / "result").read_text())

    os.kill(int((tmp_path / "result").read_text()), signal.SIGKILL)

    task.communicate(timeout=60)
    assert task.returncode == -signal.SIGKILL


def test_killed_client_takes_its_task_along(
    servers: TaskServers, start: Start, tmp_path: Path
) -> None:
    task = start("wait", servers.environment_for("wait"))
    wait_until(lambda: (tmp_path / "result").exists() and (tmp_path / "result").read_text())
    number = int((tmp_path / "result").read_text())

    task.kill()

    wait_until(lambda: not Path(f"/proc/{number}").exists())
    task.communicate(timeout=60)


def test_task_that_needs_tensorflow_finds_it_imported_but_not_started(
    servers: TaskServers, start: Start, tmp_path: Path
) -> None:
    task = start("train", servers.environment_for("train"))
    output, _ = task.communicate(timeout=120)

    assert task.returncode == 0, output
    values = result(tmp_path)
    assert values["has_tensorflow"]
    assert values["num_threads"] == 1


def test_task_without_a_server_starts_as_usual(start: Start, tmp_path: Path) -> None:
    gone = TaskServers(tmp_path)
    gone.start()
    variables = gone.environment_for("report")
    gone.stop()

    task = start("report", variables)
    output, _ = task.communicate(timeout=60)

    assert task.returncode == 0, output
    assert result(tmp_path)["parent"] == os.getpid()


def test_no_server_is_left_after_the_stop_not_even_unreaped(tmp_path: Path) -> None:
    stopped = TaskServers(tmp_path)
    stopped.start()
    wait_until(lambda: len(processes_of(tmp_path)) == 2)  # one of them with TensorFlow
    running = processes_of(tmp_path)

    stopped.stop()

    assert not [number for number in running if Path("/proc", number).exists()]


def processes_of(folder: Path) -> list[str]:
    """Return the ids of the processes that have the folder on their command line."""
    numbers = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if str(folder).encode() in path.read_bytes():
                numbers.append(path.parent.name)
    return numbers
