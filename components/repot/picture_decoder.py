"""Normalise picture files in a sandboxed process that a hostile file cannot escape from.

Picture decoders are large C libraries that parse untrusted bytes. The process that runs them has
no network, files, credentials or access to other processes, and its memory and time are limited;
see `repot.sandbox`. It is a fork of a `DecoderHost`, a process that has imported the libraries, has
no credentials either and never sees a picture: a second decoder, or the one after a crash, takes
milliseconds to start and shares most of its memory. Each request holds several files, because one
file per request costs 25 % more time. The answers are the results of
`repot.pictures.normalise_picture`:

    request   uint32 number of files, uint32 whether they are in the shared memory, uint32 the most
              pixels per side that a result may have, 0 for any; uint64 size of each, four float32
              of each, the edges of the part to crop it to; then the files, concatenated, in the
              shared memory or in the request
    answers   per file: uint8 kind, uint8 format, uint32 height, uint32 width, uint64 size; then, of
              that size, the JSON of a rejection, or a miniature, followed by the JPEG if the
              picture was encoded again

If the files are in the shared memory, their miniatures are written there too, not in the answers:
through the pipe, they would cost 15 % more time. Those answers are sent together, so a counter in
that memory has the number of finished files. A file whose decoder crashes or exceeds a limit is
rejected, and the next file gets a new decoder. Answers are untrusted: they are checked and treated
as data only.
"""

import contextlib
import enum
import gc
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, NoReturn, Self, cast

from repot import jpeg_structure, sandbox
from repot.errors import RepotError
from repot.picture_result import (
    MINIATURE_BYTES,
    SOURCE_FORMATS,
    Edges,
    Picture,
    RejectedPicture,
)

MAX_FILES = 64
"""Files per request at most."""
MAX_FILES_BYTES = 8 << 20
"""Bytes of a request that fit into shared memory; a larger file is sent alone, through the pipe."""

# To a host: what to do, and with which process. From it: the process, or how it ended.
_COMMAND = struct.Struct("<BQ")
_START, _WAIT = 0, 1
_REPLY = struct.Struct("<i")
_STILL_RUNS = -(1 << 20)
_MAX_DESCRIPTORS = 3

_REQUEST = struct.Struct("<III")
_WHOLE: Edges = (0.0, 0.0, 1.0, 1.0)
_ANSWER = struct.Struct("<BBIIQ")
# The shared memory: files, one byte with the number of those that are done, and miniatures.
_COUNTER = MAX_FILES_BYTES
_MINIATURES = MAX_FILES_BYTES + 1
_SHARED_BYTES = _MINIATURES + MAX_FILES * MINIATURE_BYTES
_MAX_JPEG_BYTES = 1 << 29
_MAX_JSON_BYTES = 1 << 16
_INVALID_ANSWER = "it gave an invalid answer"
# Whoever decodes the result again takes the format from the content.
_JPEG_START = b"\xff\xd8\xff"
_MAX_SIDE = 1 << 16
_NUM_FORMATS = len(SOURCE_FORMATS)
_MAX_DETAIL = 1000
_READ_BYTES = 1 << 20
_CHECK_MILLISECONDS = 200
_EXIT_SECONDS = 10
_POLL_SECONDS = 0.002
# Source: <linux/memfd.h>; Python 3.11 has no name for it.
_MFD_NOEXEC_SEAL = 8
# What the interpreter may need to start. None of them is a secret.
_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")
# One thread, because Landlock confines only one; and threads of codecs share two heaps, because
# each heap takes 64 MiB of the address space.
_SETTINGS = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
_HOST_OPTIONS = ("-P", "-X", "utf8", "-m", "repot.picture_decoder")


class _Kind(enum.IntEnum):
    READY = 0
    UNCHANGED = 1
    ENCODED = 2
    REJECTED = 3
    OUT_OF_MEMORY = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderLimits:
    """Limits of a decoder: more than any picture that `repot.pictures` accepts needs.

    A progressive JPEG of 484 megapixels needs 3.1 GiB and 4 s; the slowest picture measured, 89
    megapixels in four colours, needs 5 s.

    Attributes:
        memory_bytes: Address space.
        cpu_seconds: Processor time for one request.
        wall_seconds: Time for one request, however busy the machine is.
    """

    memory_bytes: int = 6 << 30
    cpu_seconds: float = 120.0
    wall_seconds: float = 900.0


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
        self._connection.settimeout(DecoderLimits().wall_seconds)
        with theirs:
            descriptor = theirs.fileno()
            # In its own process group: Ctrl-C in the terminal goes to this process, which ends it.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, *_HOST_OPTIONS, str(descriptor)],
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
            _StoppedError: The host has ended.
        """
        with self._lock:
            process_id = self._ask(_START, memory_bytes, descriptors)
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
            _StoppedError: The host has ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            with self._lock:
                status = self._ask(_WAIT, process_id)
                if status != _STILL_RUNS:
                    self._decoders.discard(process_id)
                    return status
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_SECONDS)

    def _ask(self, command: int, number: int, descriptors: Sequence[int] = ()) -> int:
        """Return the reply to a command."""
        try:
            socket.send_fds(self._connection, [_COMMAND.pack(command, number)], descriptors)
            reply = self._connection.recv(_REPLY.size)
        except OSError:
            reply = b""
        if len(reply) == _REPLY.size:
            return int(_REPLY.unpack(reply)[0])
        try:
            raise _stopped(self._process.wait(_EXIT_SECONDS))
        except subprocess.TimeoutExpired:
            raise _StoppedError("it closed its connection") from None


class PictureDecoder:
    """Decodes pictures in a sandboxed process, which runs until `close`.

    One thread at a time may use it. Without a host, the process ends with the thread that started
    it.
    """

    def __init__(
        self, limits: DecoderLimits | None = None, *, host: DecoderHost | None = None
    ) -> None:
        """Start the process.

        Args:
            limits: Its limits.
            host: Of which it is a fork; by default, of one of its own.
        """
        self._limits = limits or DecoderLimits()
        self._own_host = None if host else DecoderHost()
        self._host = host or cast("DecoderHost", self._own_host)
        self._process = _DecoderProcess(self._host, self._limits)
        self._is_stopped = False

    def __enter__(self) -> Self:
        """Return this object."""
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the process."""
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.close()
        if self._own_host:
            self._own_host.close()

    def stop(self) -> None:
        """End the process while another thread uses it: `decode` raises a RepotError there."""
        self._is_stopped = True
        self._process.kill()

    def layers(self) -> tuple[str, ...]:
        """Return the active layers of the sandbox, see `repot.sandbox`.

        Raises:
            RepotError: The process cannot be started.
        """
        return self._process.layers()

    def cpu_seconds(self) -> float:
        """Return the processor time that the process has used; 0 if it is unknown."""
        return _cpu_seconds(self._process.process_id) if self._process.process_id else 0.0

    def decode(
        self,
        files: Sequence[tuple[str, bytes]],
        crops: Sequence[Edges | None] = (),
        *,
        max_side: int = 0,
    ) -> list[Picture | RejectedPicture]:
        """Return what `repot.pictures.normalise_picture` returns or raises for each file.

        Args:
            files: Name for error messages, and content.
            crops: What to crop each picture to; empty for whole pictures.
            max_side: Reduce every picture to this many pixels at most per side; 0 keeps its size.

        Raises:
            RepotError: There is too little memory to decode one, or the process cannot be started.
        """
        results: list[Picture | RejectedPicture] = []
        crops = crops or [None] * len(files)
        while len(results) < len(files):
            start = len(results)
            batch = _first_batch([data for _, data in files[start:]])
            self._process.layers()
            is_fresh = self._process.is_fresh
            try:
                for result in self._process.exchange(batch, crops[start:], max_side):
                    results.append(result)  # noqa: PERF402 - keeps those before an error
            except _StoppedError as stopped:
                if self._is_stopped:
                    raise RepotError(
                        "A decoder must run until its work is done; it was stopped before."
                    ) from None
                suspect = max(self._process.num_done(), len(results) - start)
                self._restart()
                if is_fresh and len(batch) == 1:
                    results.append(_blame(files[start][0], stopped))
                    continue
                # A file is only blamed for what it does alone: an earlier one may have damaged the
                # process.
                last = slice(start + suspect, start + suspect + 1)
                suspected = self.decode(files[last], crops[last], max_side=max_side)
                before = slice(len(results), start + suspect)
                results += self.decode(files[before], crops[before], max_side=max_side)
                results += suspected
        return results

    def _restart(self) -> None:
        self._process.close()
        self._process = _DecoderProcess(self._host, self._limits)


def _blame(name: str, stopped: "_StoppedError") -> RejectedPicture:
    """Return the rejection of a file that stopped the decoder.

    Raises:
        RepotError: It was for lack of memory: another machine may decode it.
    """
    if stopped.lacks_memory:
        raise RepotError(
            f"The decoder of {name} must have enough memory; {stopped}. Give the process more "
            "memory or use fewer processes."
        )
    return RejectedPicture("decoder_stopped", str(stopped))


def _stopped(status: int) -> "_StoppedError":
    """Return why a process ended, from its exit status."""
    if status >= 0:
        return _StoppedError(f"it exited with status {status}")
    # The decoder can send this signal to nobody, so the system did, for lack of memory.
    return _StoppedError(
        f"it was ended by {signal.Signals(-status).name}", lacks_memory=-status == signal.SIGKILL
    )


class _StoppedError(Exception):
    """The decoder ended, exceeded a limit, or answered nonsense."""

    def __init__(self, reason: str, *, lacks_memory: bool = False) -> None:
        self.lacks_memory = lacks_memory
        super().__init__(reason)


class _DecoderProcess:
    """A decoder, its two pipes, and the memory that it shares with this process.

    The host starts it, when it is first needed: until then, the host may still import libraries.
    """

    def __init__(self, host: DecoderHost, limits: DecoderLimits) -> None:
        self.is_fresh = True
        self.process_id = 0
        self._num_last = 0
        self._host, self._limits = host, limits
        self._layers: tuple[str, ...] = ()
        self._received = bytearray()
        self._shared: mmap.mmap | None = None
        self._requests = self._answers = -1

    def close(self) -> None:
        if self.process_id:
            self.kill()
            with contextlib.suppress(_StoppedError):
                self._host.wait(self.process_id, _EXIT_SECONDS)
            self.process_id = 0
            for descriptor in (self._requests, self._answers):
                os.close(descriptor)
            if self._shared is not None:
                self._shared.close()

    def kill(self) -> None:
        self._host.kill(self.process_id)

    def layers(self) -> tuple[str, ...]:
        """Return the layers of the sandbox, once the decoder is ready."""
        if not self._layers:
            try:
                self._start()
                watchdog = _Watchdog(self.process_id, DecoderLimits())
                *_, payload = self._receive(watchdog)
            except _StoppedError as stopped:
                self.close()
                raise RepotError(
                    f"The process that decodes pictures must start; {stopped}. See its last log "
                    "lines above. If it was killed, give it more memory or use fewer processes."
                ) from None
            self._layers = tuple(json.loads(payload))
        return self._layers

    def _start(self) -> None:
        memory = _create_shared_memory()
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        theirs = [requests, answers, *([memory[0]] if memory else [])]
        self._shared = memory[1] if memory else None
        for descriptor in (self._requests, self._answers):
            os.set_blocking(descriptor, False)
        try:
            self.process_id = self._host.start(self._limits.memory_bytes, theirs)
        except _StoppedError:
            for descriptor in (self._requests, self._answers):
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    def exchange(
        self, files: Sequence[bytes], crops: Sequence[Edges | None], max_side: int
    ) -> Iterator[Picture | RejectedPicture]:
        """Yield the result of each file; there are at least as many crops.

        Raises:
            _StoppedError: The decoder cannot be used any more.
        """
        self.is_fresh = False
        watchdog = _Watchdog(self.process_id, self._limits)
        is_shared = self._send(files, crops, max_side, watchdog)
        for number, data in enumerate(files):
            kind, file_format, height, width, payload = self._receive(watchdog)
            if kind == _Kind.REJECTED:
                yield _read_rejection(payload)
            elif kind == _Kind.OUT_OF_MEMORY:
                raise self._out_of_memory()
            else:
                if self._shared is not None and is_shared:
                    miniature, encoded = self._shared[_miniature_place(number)], payload
                else:
                    miniature, encoded = payload[:MINIATURE_BYTES], payload[MINIATURE_BYTES:]
                is_jpeg = (
                    data.startswith(_JPEG_START) and not encoded
                    if kind == _Kind.UNCHANGED
                    else kind == _Kind.ENCODED and jpeg_structure.is_plain_rgb(encoded)
                )
                is_measured = len(miniature) == MINIATURE_BYTES and file_format < _NUM_FORMATS
                is_sized = 0 < height < _MAX_SIDE and 0 < width < _MAX_SIDE
                if not (is_jpeg and is_measured and is_sized):
                    raise _StoppedError(_INVALID_ANSWER)
                yield Picture(
                    jpeg=encoded or data,
                    height=height,
                    width=width,
                    source_format=SOURCE_FORMATS[file_format],
                    miniature=miniature,
                )

    def num_done(self) -> int:
        """Return the number of files of the last request whose decoding ended.

        The decoder sends its answers together, and may end before.
        """
        return 0 if self._shared is None else min(self._shared[_COUNTER], self._num_last)

    def _send(
        self,
        files: Sequence[bytes],
        crops: Sequence[Edges | None],
        max_side: int,
        watchdog: "_Watchdog",
    ) -> bool:
        """Send a request; return whether the files are in the shared memory."""
        sizes = [len(data) for data in files]
        self._num_last = len(files) - 1
        is_shared = self._shared is not None and sum(sizes) <= MAX_FILES_BYTES
        edges = [edge for crop in crops[: len(files)] for edge in crop or _WHOLE]
        parts = [
            _REQUEST.pack(len(files), is_shared, max_side),
            struct.pack(f"<{len(sizes)}Q{len(edges)}f", *sizes, *edges),
        ]
        if self._shared is not None:
            self._shared[_COUNTER] = 0
        if self._shared is not None and is_shared:
            self._shared.seek(0)
            for data in files:
                self._shared.write(data)
        else:
            parts += files
        for part in parts:
            self._write(memoryview(part), watchdog)
        return is_shared

    def _write(self, data: memoryview, watchdog: "_Watchdog") -> None:
        while data:
            try:
                data = data[os.write(self._requests, data) :]
            except BlockingIOError:
                self._wait(self._requests, select.POLLOUT, watchdog)
            except BrokenPipeError:
                raise self._ended() from None

    def _receive(self, watchdog: "_Watchdog") -> tuple[int, int, int, int, bytes]:
        kind, file_format, height, width, size = _ANSWER.unpack(self._read(_ANSWER.size, watchdog))
        if size > (_MAX_JPEG_BYTES if kind == _Kind.ENCODED else _MAX_JSON_BYTES):
            raise _StoppedError(_INVALID_ANSWER)
        return kind, file_format, height, width, self._read(size, watchdog)

    def _read(self, size: int, watchdog: "_Watchdog") -> bytes:
        while len(self._received) < size:
            try:
                part = os.read(self._answers, _READ_BYTES)
            except BlockingIOError:
                self._wait(self._answers, select.POLLIN, watchdog)
                continue
            if not part:
                raise self._ended()
            self._received += part
        data = bytes(memoryview(self._received)[:size])
        del self._received[:size]
        return data

    def _wait(self, descriptor: int, event: int, watchdog: "_Watchdog") -> None:
        """Wait until a pipe is ready; end the decoder if it exceeds a limit."""
        poll = select.poll()
        poll.register(descriptor, event)
        while not poll.poll(_CHECK_MILLISECONDS):
            if reason := watchdog.exceeded():
                self.kill()
                raise _StoppedError(reason)

    def _ended(self) -> _StoppedError:
        """Return why the decoder closed its pipes."""
        status = self._host.wait(self.process_id, _EXIT_SECONDS)
        if status is None:
            self.kill()
            return _StoppedError("it closed its connection")
        return _stopped(status)

    def _out_of_memory(self) -> _StoppedError:
        # The decoder inherits the limits of this process.
        limits = [
            limit
            for limit, _ in map(resource.getrlimit, (resource.RLIMIT_AS, resource.RLIMIT_DATA))
            if limit != resource.RLIM_INFINITY
        ]
        lowest = min([self._limits.memory_bytes, *limits])
        return _StoppedError(
            f"it needs more than {lowest >> 20:,} MiB of memory",
            lacks_memory=lowest < self._limits.memory_bytes,
        )


class _Watchdog:
    """Measures what a decoder uses for one picture."""

    def __init__(self, process_id: int, limits: DecoderLimits) -> None:
        self._process_id, self._limits = process_id, limits
        self._started, self._cpu_started = time.monotonic(), _cpu_seconds(process_id)

    def exceeded(self) -> str:
        """Return which limit is exceeded; "" for none."""
        if _cpu_seconds(self._process_id) - self._cpu_started > self._limits.cpu_seconds:
            return f"it took more than {self._limits.cpu_seconds:.0f} s of processor time"
        if time.monotonic() - self._started > self._limits.wall_seconds:
            return f"it took more than {self._limits.wall_seconds:.0f} s"
        return ""


def _cpu_seconds(process_id: int) -> float:
    """Return the processor time of a process; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0.0
    # The clock of another process. Source: clock_getcpuclockid in glibc.
    with contextlib.suppress(OSError):
        return time.clock_gettime((~process_id << 3) | 2)
    return 0.0


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in _VARIABLES if name in environment} | _SETTINGS


def _create_shared_memory() -> tuple[int, mmap.mmap] | None:
    """Return a descriptor for another process, and the memory; None if the system has none."""
    if sys.platform != "linux":
        return None
    try:
        descriptor = _create_memory_file()
        os.truncate(descriptor, _SHARED_BYTES)
        return descriptor, mmap.mmap(descriptor, _SHARED_BYTES)
    except OSError:
        return None


def _create_memory_file() -> int:
    with contextlib.suppress(OSError):
        return os.memfd_create("repot-pictures", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    # Linux before 6.3 does not know the flag.
    return os.memfd_create("repot-pictures")


def _first_batch(files: Sequence[bytes]) -> Sequence[bytes]:
    """Return the first files, as many as fit the shared memory, at least one."""
    size_bytes = 0
    for count, data in enumerate(files[:MAX_FILES]):
        size_bytes += len(data)
        if size_bytes > MAX_FILES_BYTES:
            return files[: max(count, 1)]
    return files[:MAX_FILES]


def _read_rejection(payload: bytes) -> RejectedPicture:
    try:
        reason, detail = json.loads(payload)
        return RejectedPicture(reason, detail[:_MAX_DETAIL].encode(errors="replace").decode())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _StoppedError(_INVALID_ANSWER) from None


def main() -> None:
    """Be a host: fork decoders, and tell how they ended, until the connection closes."""
    sandbox.end_with_parent()
    connection = socket.socket(fileno=int(sys.argv[1]))
    from repot import pictures

    pictures.load_decoders()
    # What was imported is not looked at again, so that forks share it.
    gc.collect()
    gc.freeze()
    # Whoever started this process may be gone.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _fork_decoders(connection)


def _fork_decoders(connection: socket.socket) -> None:
    while True:
        message, descriptors, *_ = socket.recv_fds(connection, _COMMAND.size, _MAX_DESCRIPTORS)
        if not message:
            return
        command, number = _COMMAND.unpack(message)
        if command == _WAIT:
            reply = _find_status(number)
        elif (reply := os.fork()) == 0:
            connection.close()
            _run_decoder(number, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(_REPLY.pack(reply))


def _find_status(process_id: int) -> int:
    try:
        found, status = os.waitpid(process_id, os.WNOHANG)
    except ChildProcessError:  # It was told before.
        return 0
    return os.waitstatus_to_exitcode(status) if found else _STILL_RUNS


def _run_decoder(memory_bytes: int, *descriptors: int) -> NoReturn:
    """Confine this process, answer requests until there are no more, and exit."""
    status = 1
    try:
        _answer_requests(memory_bytes, *descriptors)
        status = 0
    except SystemExit as err:
        status = err.code if isinstance(err.code, int) else 0
    finally:
        os._exit(status)


def _answer_requests(memory_bytes: int, *descriptors: int) -> None:
    requests, answers = os.fdopen(descriptors[0], "rb"), os.fdopen(descriptors[1], "wb")
    memory = [mmap.mmap(each, _SHARED_BYTES) for each in descriptors[2:]]
    for descriptor in descriptors[2:]:
        os.close(descriptor)
    layers = sandbox.confine(memory_bytes=memory_bytes)
    # Whatever libraries print goes nowhere: not to the log. Standard output does already.
    os.close(2)
    _answer(answers, _Kind.READY, payload=json.dumps(layers).encode())
    answers.flush()
    while header := requests.read(_REQUEST.size):
        count, is_shared, max_side = _REQUEST.unpack(header)
        sizes = struct.unpack(f"<{count}Q", requests.read(8 * count))
        crops = struct.iter_unpack("<4f", requests.read(16 * count))
        source: IO[bytes] | mmap.mmap = requests
        if is_shared:
            (source,) = memory
            source.seek(0)
        for number, (size, crop) in enumerate(zip(sizes, crops, strict=True)):
            edges = None if crop == _WHOLE else crop
            room = memoryview(memory[0])[_miniature_place(number)] if is_shared else None
            _answer_file(source.read(size), edges, max_side, answers, room)
            if is_shared:
                memory[0][_COUNTER] = number + 1
            else:
                answers.flush()
        answers.flush()


def _miniature_place(number: int) -> slice:
    """Return where the miniature of a file of a request is in the shared memory."""
    start = _MINIATURES + number * MINIATURE_BYTES
    return slice(start, start + MINIATURE_BYTES)


def _answer_file(
    data: bytes,
    crop: Edges | None,
    max_side: int,
    answers: IO[bytes],
    room: memoryview | None,
) -> None:
    """Write the answer to a file, and its miniature into the room for it, if there is one."""
    from repot.pictures import normalise_picture

    try:
        picture = normalise_picture(data, crop, max_side=max_side)
    except RejectedPicture as rejection:
        payload = json.dumps([rejection.reason, rejection.detail]).encode()
        _answer(answers, _Kind.REJECTED, payload=payload)
    except MemoryError:
        _answer(answers, _Kind.OUT_OF_MEMORY)
    else:
        is_same = picture.jpeg is data
        kind = _Kind.UNCHANGED if is_same else _Kind.ENCODED
        file_format = SOURCE_FORMATS.index(picture.source_format)
        payload = b"" if is_same else picture.jpeg
        if room is None:
            payload = picture.miniature + payload
        else:
            # First, because the answer may be sent before this function ends.
            room[:] = picture.miniature
        _answer(
            answers,
            kind,
            file_format=file_format,
            height=picture.height,
            width=picture.width,
            payload=payload,
        )


def _answer(
    answers: IO[bytes],
    kind: _Kind,
    *,
    file_format: int = 0,
    height: int = 0,
    width: int = 0,
    payload: bytes = b"",
) -> None:
    answers.write(_ANSWER.pack(kind, file_format, height, width, len(payload)))
    answers.write(payload)


if __name__ == "__main__":
    main()
