"""Processes that build shards side by side, and end when this one does, however it ends.

Each is a fresh interpreter (`repot.shard_builder.worker`), whatever program this one is: nothing is forked, and no main
module is imported a second time.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from repot import errors
from repot.progress import Meter

# cgroup v2: "<quota in us> <period in us>", or "max <period>".
_CPU_LIMIT_PATH = Path("/sys/fs/cgroup/cpu.max")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Worker:
    process: subprocess.Popen[str]
    names: IO[str]
    answers: IO[str]


def num_cores() -> int:
    """Return how many cores this process may use: those it may run on, within the limit of its container."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = _CPU_LIMIT_PATH.read_text().split()
        return max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        return cores


def build_together(
    dataset_uri: str, shards: Sequence[str], *, num_processes: int, meter: Meter
) -> None:
    """Build shards in `num_processes` processes, each one shard at a time; the first error ends all.

    Raises:
        DataError: A picture was changed or deleted since it was listed.
        StorageError: Something cannot be read or written.
        RepotError: A process died.
    """
    waiting = deque(shards)
    with (
        tempfile.TemporaryDirectory(prefix="repot-shards-") as scratch,
        ThreadPoolExecutor(num_processes) as drivers,
        # Left first: the processes are gone before their drivers, who wait for their answers, are joined.
        contextlib.ExitStack() as stack,
    ):
        workers = [stack.enter_context(_worker(dataset_uri, scratch)) for _ in range(num_processes)]
        for driven in as_completed(
            [drivers.submit(_drive, worker, waiting, meter) for worker in workers]
        ):
            driven.result()


@contextlib.contextmanager
def _worker(dataset_uri: str, scratch: str) -> Iterator[_Worker]:
    """Start a process, and kill it at the end."""
    command = [sys.executable, "-P", "-m", "repot.shard_builder.worker", dataset_uri, scratch]
    # A group of its own: what the terminal sends on Ctrl-C goes to this process, which then ends the others.
    process = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    )
    names, answers = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
    try:
        yield _Worker(process=process, names=names, answers=answers)
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            names.close()
        answers.close()


def _drive(worker: _Worker, waiting: deque[str], meter: Meter) -> None:
    """Give a process one shard after the other until none is left."""
    while True:
        try:
            shard = waiting.popleft()
        except IndexError:
            return
        _build(worker, shard, meter)


def _build(worker: _Worker, shard: str, meter: Meter) -> None:
    started = time.monotonic()
    with contextlib.suppress(BrokenPipeError):
        worker.names.write(f"{shard}\n")
        worker.names.flush()
    for line in worker.answers:
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        if "num_records" in answer:
            seconds = time.monotonic() - started
            _log.info(
                "%s: %d records, %d bytes in %.1f s",
                shard,
                answer["num_records"],
                answer["size_bytes"],
                seconds,
            )
            return
        meter.add(answer["pictures"])
    status = worker.process.wait()
    raise errors.RepotError(
        f"A building process must live until its work is done; the one for {shard} ended with status {status}. "
        "Look at its last words above; if it was killed (-9), give it more memory, or use fewer processes."
    )
