"""Decodes pictures in a process of its own, and checks what it answers."""

import contextlib
import json
import mmap
import os
import resource
import select
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

from repot import jpeg_structure
from repot.errors import RepotError
from repot.picture_decoder.host import DecoderHost, StoppedError, stopped_error
from repot.picture_decoder.protocol import (
    ANSWER,
    COUNTER,
    MAX_FILES,
    MAX_FILES_BYTES,
    REQUEST,
    SHARED_BYTES,
    WHOLE,
    Kind,
    miniature_place,
)
from repot.picture_result import (
    MINIATURE_BYTES,
    SOURCE_FORMATS,
    Edges,
    Picture,
    RejectedPicture,
)

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
# Source: <linux/memfd.h>; Python 3.11 has no name for it.
_MFD_NOEXEC_SEAL = 8


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
            except StoppedError as stopped:
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


def _blame(name: str, stopped: StoppedError) -> RejectedPicture:
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
            with contextlib.suppress(StoppedError):
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
            except StoppedError as stopped:
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
        except StoppedError:
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
            StoppedError: The decoder cannot be used any more.
        """
        self.is_fresh = False
        watchdog = _Watchdog(self.process_id, self._limits)
        is_shared = self._send(files, crops, max_side, watchdog)
        for number, data in enumerate(files):
            kind, file_format, height, width, payload = self._receive(watchdog)
            if kind == Kind.REJECTED:
                yield _read_rejection(payload)
            elif kind == Kind.OUT_OF_MEMORY:
                raise self._out_of_memory()
            else:
                if self._shared is not None and is_shared:
                    miniature, encoded = self._shared[miniature_place(number)], payload
                else:
                    miniature, encoded = payload[:MINIATURE_BYTES], payload[MINIATURE_BYTES:]
                is_jpeg = (
                    data.startswith(_JPEG_START) and not encoded
                    if kind == Kind.UNCHANGED
                    else kind == Kind.ENCODED and jpeg_structure.is_plain_rgb(encoded)
                )
                is_measured = len(miniature) == MINIATURE_BYTES and file_format < _NUM_FORMATS
                is_sized = 0 < height < _MAX_SIDE and 0 < width < _MAX_SIDE
                if not (is_jpeg and is_measured and is_sized):
                    raise StoppedError(_INVALID_ANSWER)
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
        return 0 if self._shared is None else min(self._shared[COUNTER], self._num_last)

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
        edges = [edge for crop in crops[: len(files)] for edge in crop or WHOLE]
        parts = [
            REQUEST.pack(len(files), is_shared, max_side),
            struct.pack(f"<{len(sizes)}Q{len(edges)}f", *sizes, *edges),
        ]
        if self._shared is not None:
            self._shared[COUNTER] = 0
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
        kind, file_format, height, width, size = ANSWER.unpack(self._read(ANSWER.size, watchdog))
        if size > (_MAX_JPEG_BYTES if kind == Kind.ENCODED else _MAX_JSON_BYTES):
            raise StoppedError(_INVALID_ANSWER)
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
                raise StoppedError(reason)

    def _ended(self) -> StoppedError:
        """Return why the decoder closed its pipes."""
        status = self._host.wait(self.process_id, _EXIT_SECONDS)
        if status is None:
            self.kill()
            return StoppedError("it closed its connection")
        return stopped_error(status)

    def _out_of_memory(self) -> StoppedError:
        # The decoder inherits the limits of this process.
        limits = [
            limit
            for limit, _ in map(resource.getrlimit, (resource.RLIMIT_AS, resource.RLIMIT_DATA))
            if limit != resource.RLIM_INFINITY
        ]
        lowest = min([self._limits.memory_bytes, *limits])
        return StoppedError(
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


def _create_shared_memory() -> tuple[int, mmap.mmap] | None:
    """Return a descriptor for another process, and the memory; None if the system has none."""
    if sys.platform != "linux":
        return None
    try:
        descriptor = _create_memory_file()
        os.truncate(descriptor, SHARED_BYTES)
        return descriptor, mmap.mmap(descriptor, SHARED_BYTES)
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
        raise StoppedError(_INVALID_ANSWER) from None
