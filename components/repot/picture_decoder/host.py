"""The host of decoders, seen from the process that uses them."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from repot.picture_decoder.protocol import COMMAND, REPLY, START, STILL_RUNS, WAIT

_REPLY_SECONDS = 900.0
_EXIT_SECONDS = 10
_POLL_SECONDS = 0.002
# What the interpreter may need to start. None of them is a secret.
_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")
# One thread, because Landlock confines only one; and threads of codecs share two heaps, because
# each heap takes 64 MiB of the address space.
_SETTINGS = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
_OPTIONS = ("-P", "-X", "utf8", "-m", "repot.picture_decoder.process")


class StoppedError(Exception):
    """The decoder ended, exceeded a limit, or answered nonsense."""

    def __init__(self, reason: str, *, lacks_memory: bool = False) -> None:
        self.lacks_memory = lacks_memory
        super().__init__(reason)


class DecoderHost:
    """A process of which decoders are forks; thread-safe.

    It ends with `close`, or with the thread that started it, and its decoders with it. Decoders of
    one host have the same addresses in memory: who has seen one knows those of the others.
    """

    def __init__(self) -> None:
        """Start the process; it imports the libraries meanwhile."""
        self._lock = threading.Lock()
        self._decoders: set[int] = set()
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(_REPLY_SECONDS)
        with theirs:
            descriptor = theirs.fileno()
            # In its own process group: Ctrl-C in the terminal goes to this process, which ends it.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, *_OPTIONS, str(descriptor)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(os.environ),
                process_group=0,
                pass_fds=[descriptor],
            )

    def close(self) -> None:
        """End the process and all its decoders."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def start(self, memory_bytes: int, descriptors: Sequence[int]) -> int:
        """Fork a decoder; return the number of its process.

        Args:
            memory_bytes: Limit of its address space.
            descriptors: From where it reads requests, to where it writes answers, and the shared
                memory, if there is any.

        Raises:
            StoppedError: The host has ended.
        """
        with self._lock:
            process_id = self._ask(START, memory_bytes, descriptors)
            self._decoders.add(process_id)
            return process_id

    def kill(self, process_id: int) -> None:
        """End a decoder, unless it has ended."""
        with self._lock:
            # The number of one that has ended remains its own until `wait`.
            if process_id in self._decoders and self._process.poll() is None:
                os.kill(process_id, signal.SIGKILL)

    def wait(self, process_id: int, seconds: float) -> int | None:
        """Return the exit status of a decoder, as `subprocess` does; None if it still runs.

        Raises:
            StoppedError: The host has ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            with self._lock:
                status = self._ask(WAIT, process_id)
                if status != STILL_RUNS:
                    self._decoders.discard(process_id)
                    return status
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_SECONDS)

    def _ask(self, command: int, number: int, descriptors: Sequence[int] = ()) -> int:
        """Return the reply to a command."""
        try:
            socket.send_fds(self._connection, [COMMAND.pack(command, number)], descriptors)
            reply = self._connection.recv(REPLY.size)
        except OSError:
            reply = b""
        if len(reply) == REPLY.size:
            return int(REPLY.unpack(reply)[0])
        try:
            raise stopped_error(self._process.wait(_EXIT_SECONDS))
        except subprocess.TimeoutExpired:
            raise StoppedError("it closed its connection") from None


def stopped_error(status: int) -> StoppedError:
    """Return why a process ended, from its exit status."""
    if status >= 0:
        return StoppedError(f"it exited with status {status}")
    # The decoder can send this signal to nobody, so the system did, for lack of memory.
    return StoppedError(
        f"it was ended by {signal.Signals(-status).name}", lacks_memory=-status == signal.SIGKILL
    )


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in _VARIABLES if name in environment} | _SETTINGS
