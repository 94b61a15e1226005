"""`python3` of the tasks of `repot run`: lets a fork of a server run the task.

This file runs as a script, without site packages, because it must start in milliseconds: it may
import only small modules of the standard library. See `repot_pipelines.local.task_server`.
"""

import json
import os
import signal
import socket
import sys

SOCKET_VARIABLE = "REPOT_TASK_SERVER"
"""Environment variable with the path of the server's socket."""

TASK_ARGUMENTS = ["-m", "kfp.dsl.executor_main"]
"""What the arguments of every task begin with."""

TAKEN = b"t"
"""With this the server takes a task; from then on it must not be started a second time."""


def main() -> None:
    """Run this script's arguments as those of Python, in a fork of the server if there is one."""
    arguments = sys.argv[1:]
    path = os.environ.get(SOCKET_VARIABLE, "")
    if path and arguments[: len(TASK_ARGUMENTS)] == TASK_ARGUMENTS:
        try:
            status: int | None = _run_in_fork(path, arguments[len(TASK_ARGUMENTS) :])
        except OSError:
            status = None  # no server has taken the task
        if status is not None:
            _exit_like(status)
    os.execv(sys.executable, [sys.executable, "-P", *arguments])  # noqa: S606 - a task's process


def connect(path: str) -> socket.socket:
    """Connect to a Unix socket.

    Raises:
        OSError: No server listens there.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(socket_address(path))
    except OSError:
        connection.close()
        raise
    return connection


def socket_address(path: str) -> str:
    """Return a short address for a socket at a path of any length; 107 bytes are the most.

    Raises:
        OSError: The folder does not exist.
    """
    folder, _, name = path.rpartition("/")
    number = os.open(folder, os.O_PATH)  # open until the process ends
    return f"/proc/self/fd/{number}/{name}"


def _run_in_fork(path: str, arguments: list[str]) -> int:
    """Return the exit status of the fork, negative for a signal."""
    folder = os.getcwd()  # noqa: PTH109 - importing pathlib takes longer than all the rest
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": folder}
    data = json.dumps(request).encode()
    with connect(path) as connection:
        socket.send_fds(connection, [len(data).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(data)
        if connection.recv(len(TAKEN)) != TAKEN:
            raise ConnectionError
        answer = b"".join(iter(lambda: connection.recv(16), b""))
    return int(answer) if answer else -signal.SIGKILL


def _exit_like(status: int) -> None:
    """End this process with an exit status or by a signal."""
    if status < 0:
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
