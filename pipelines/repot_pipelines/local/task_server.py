"""Starts the tasks of `repot run` as forks of a process that has imported their libraries.

Every task is a process of its own, as on a cluster, but to import KFP and TensorFlow takes longer
than most tasks of a small run. So the first server imports KFP once, and forks for each task. A
fork of it imports TensorFlow too, while KFP reads the pipeline and other tasks run, and serves the
tasks that need it. It only imports TensorFlow: threads and devices start in the task. While no task
waits, the servers import modules that later tasks use.

`python3` of a task is `repot_pipelines.local.task_client`. It sends its arguments, environment and
standard streams to a server, waits for the fork, and ends with its status. Without a server it
starts Python as usual.

Usage: python -m repot_pipelines.local.task_server LISTENER TENSORFLOW_LISTENER FOLDER

The listeners are file descriptors of sockets in the folder.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from repot import quiet_tensorflow
from repot_pipelines.local import task_client
from repot_pipelines.local.task_client import SOCKET_VARIABLE

_PLAIN, _TENSORFLOW = "plain.sock", "tensorflow.sock"
# A request is its length in 4 bytes, with the standard streams attached, and JSON.
_LENGTH_BYTES = 4
_MODULES = ("repot.planner.plan", "repot.planner.outputs", "repot.shard_builder.complete")
_TENSORFLOW_MODULES = (
    "repot.checkpoint_fetcher.convert",
    "repot.trainer.run_training",
    "tensorboard.plugins.scalar.summary_v2",
    "repot.evaluator.evaluate",
    "repot.evaluator.saliency",
    "repot.evaluator.scoring",
    "repot.evaluator.slices",
    "repot.evaluator.suspects",
    "repot.evaluator.gate",
    "repot.evaluator.after_verdict",
)
"""What tasks import where they need it, in the order of the tasks."""
_USES_TENSORFLOW = ("fetch_checkpoint", "train", "evaluate")

KFP_RUNTIME_VARIABLE = "_KFP_RUNTIME"
"""Environment variable; with the value true, KFP imports only what a task needs."""


class TaskServers:
    """The servers of one run, seen from the process that runs the pipeline.

    Args:
        folder: An existing folder for their sockets.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the servers, if this machine can fork safely."""
        # Forks of a process that has opened a GPU cannot use it. Importing TensorFlow opens none,
        # but no test of ours proves that for every driver.
        has_gpu = Path("/proc/driver/nvidia").exists() or Path("/dev/kfd").exists()
        if sys.platform != "linux" or has_gpu or not hasattr(os, "pidfd_open"):
            return
        # The sockets exist before the servers run, so no task finds them missing.
        with _listen(self._folder / _PLAIN) as plain, _listen(self._folder / _TENSORFLOW) as slow:
            numbers = [plain.fileno(), slow.fileno()]
            module = "repot_pipelines.local.task_server"
            self._process = subprocess.Popen(  # noqa: S603 - our own module in this interpreter
                [sys.executable, "-P", "-m", module, *map(str, numbers), str(self._folder)],
                stdin=subprocess.DEVNULL,
                env={**os.environ, KFP_RUNTIME_VARIABLE: "true"},
                pass_fds=numbers,
            )

    def stop(self) -> None:
        """Stop the servers; tasks that run go on."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def environment_for(self, function: str) -> dict[str, str]:
        """Return the variables with which a task finds its server.

        Args:
            function: Name of the task's component function.
        """
        if self._process is None:
            return {}
        name = _TENSORFLOW if function in _USES_TENSORFLOW else _PLAIN
        return {SOCKET_VARIABLE: str(self._folder / name)}


def main() -> None:
    """Serve the tasks of a run; in the fork for a task, run the task and end like it."""
    plain, slow = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    # Registered before any library's function, so it runs after all of them.
    succeeded: list[bool] = []
    atexit.register(_exit_quickly, succeeded)
    gc.disable()  # importing makes no garbage, and looking for it takes a quarter of the time
    from kfp.dsl import executor_main

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until it stops both servers
    tensorflow_process = os.fork()
    if tensorflow_process != 0:
        signal.signal(signal.SIGTERM, functools.partial(_stop, tensorflow_process))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    if tensorflow_process != 0:
        slow.close()
        _serve(plain, _MODULES)
    else:
        plain.close()
        importlib.import_module("numpy")  # its matrix library starts threads and handles forks
        num_threads = _count_threads()
        quiet_tensorflow.preload_tensorflow()
        _serve(slow, _TENSORFLOW_MODULES, num_threads)
    executor_main.executor_main()
    succeeded.append(True)


def _exit_quickly(succeeded: Sequence[bool]) -> None:
    """End the process of a task that succeeded, without freeing its memory piece by piece."""
    if succeeded:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _stop(tensorflow_process: int, *_: object) -> NoReturn:
    """Stop both servers. The other one is reaped here: init may take seconds to do so."""
    with contextlib.suppress(OSError):  # it has ended
        os.kill(tensorflow_process, signal.SIGTERM)
        os.waitpid(tensorflow_process, 0)
    os._exit(0)


def _serve(listener: socket.socket, modules: Sequence[str], num_threads: int = 0) -> None:
    """Fork for every connection; return only in the process of a task.

    Args:
        listener: Accepts connections.
        modules: What is imported while no connection waits.
        num_threads: If there are more, tasks must start as usual, because a fork has none of the
            threads that a library waits for; 0 for any number.
    """
    signal.signal(signal.SIGCHLD, _reap)
    later = iter(modules)
    while True:
        if num_threads and _count_threads() > num_threads:
            os._exit(0)
        gc.freeze()  # so that collections in forks do not copy all of the memory
        if not select.select([listener], [], [], 0)[0] and (module := next(later, None)):
            importlib.import_module(module)
            continue
        connection, _ = listener.accept()
        if os.fork() == 0:
            break
        connection.close()
    # A process per connection: it starts the task, waits for it, and reports its status.
    listener.close()
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    gc.enable()
    header, streams, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, 3)
    request = connection.makefile("rb").read(int.from_bytes(header, "big"))
    connection.sendall(task_client.TAKEN)
    task = os.fork()
    if task != 0:
        _wait_for(task, connection)
    connection.close()
    _become_task(json.loads(request), streams)


def _reap(*_: object) -> None:
    """Wait for the processes that have ended, so that their CPU time counts as the run's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _wait_for(task: int, connection: socket.socket) -> NoReturn:
    """Report the exit status of a task; kill it if its client is gone, which stands for it."""
    poll = select.poll()
    poll.register(os.pidfd_open(task), select.POLLIN)
    poll.register(connection, select.POLLIN)
    if connection.fileno() in dict(poll.poll()):
        os.kill(task, signal.SIGKILL)
    _, status = os.waitpid(task, 0)
    with contextlib.suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become_task(request: dict[str, Any], streams: list[int]) -> None:
    """Take over the arguments, environment, folder and standard streams of a task."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv[1:] = request["arguments"]


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(task_client.socket_address(str(path)))
    listener.listen()
    return listener


def _count_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


if __name__ == "__main__":
    main()
