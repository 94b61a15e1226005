"""The memory and the cores that this process may use, and the message for running out of memory."""

import ctypes
import errno
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repot.errors import advise

CGROUP_LIMIT_PATHS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Memory limit of a container, in version 2 and 1 of cgroups."""

# cgroup v2: "<quota in us> <period in us>", or "max <period>".
_CPU_LIMIT_PATH = Path("/sys/fs/cgroup/cpu.max")
_GIB = 1 << 30
_ULIMITS = (("ulimit -v", resource.RLIMIT_AS), ("ulimit -d", resource.RLIMIT_DATA))
# In messages of Python's threads and of the dynamic loader (glibc and musl).
_OUT_OF_MEMORY = (
    "can't start new thread",
    "failed to map segment",
    "annot allocate memory",
    "Error mapping shared",
)
_MAX_DETAIL = 200
"""Characters of the library's own words."""

# Parameters of mallopt(3), and their values: see `limit_heaps`.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MAX_HEAPS, _LARGE_BYTES, _MAX_FREE_BYTES = 2, 1 << 20, 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryLimit:
    """The strictest limit of this process's memory.

    Attributes:
        size_bytes: The limit.
        source: What sets it.
    """

    size_bytes: int
    source: str


def num_cores() -> int:
    """Return the number of cores this process may use, within its affinity and container limit."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = _CPU_LIMIT_PATH.read_text().split()
        return max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        return cores


def find_memory_limit() -> MemoryLimit:
    """Return the smallest of the limits that apply: of the process, its container, the machine."""
    return min(_limits(), key=lambda limit: limit.size_bytes)


def limit_heaps() -> None:
    """Make this process return memory that it has freed, instead of keeping it for its threads.

    glibc has up to eight heaps per core, among which it divides the threads, and keeps up to 64 MiB
    of freed memory at the end of each. It learns these 64 MiB from the largest block that was ever
    freed; a limit that is set remains. Elsewhere than with glibc, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _MAX_HEAPS)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _MAX_FREE_BYTES)


def return_free_memory() -> None:
    """Return all memory that this process has freed, wherever it is in a heap of glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def is_out_of_memory(err: BaseException) -> bool:
    """Return whether an error means that memory ran out.

    TensorFlow has a type of its own. A thread needs memory for its stack, and an extension module
    for its code.
    """
    if isinstance(err, OSError) and err.errno == errno.ENOMEM:
        return True
    if isinstance(err, RuntimeError | ImportError):
        return any(words in str(err) for words in _OUT_OF_MEMORY)
    return isinstance(err, MemoryError) or type(err).__name__ == "ResourceExhaustedError"


def describe_out_of_memory(err: BaseException) -> str:
    """Return the message for an error that `is_out_of_memory` accepts."""
    limit = find_memory_limit()
    detail = (str(err).strip().splitlines() or [""])[0][:_MAX_DETAIL].rstrip(".")
    advice = advise(
        on_machine="Close other programs, choose a smaller --batch-size, --image-size or "
        "--backbone, raise that limit, or use a machine with more memory.",
        in_pod="Raise the memory of the task (builder_memory, trainer_memory or evaluator_memory), "
        "or choose a smaller batch_size, image_size or backbone.",
    )
    return (
        f"The memory ran out{f' ({detail})' if detail else ''}; this process may use "
        f"{limit.size_bytes / _GIB:.1f} GiB ({limit.source}). {advice}"
    )


def _limits() -> Iterator[MemoryLimit]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield MemoryLimit(size_bytes=total, source="all of this machine's memory")
    for name, kind in _ULIMITS:
        size_bytes = resource.getrlimit(kind)[0]
        if size_bytes != resource.RLIM_INFINITY:
            yield MemoryLimit(size_bytes=size_bytes, source=f"the limit of `{name}`")
    for path in CGROUP_LIMIT_PATHS:
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal():  # not "max"
            yield MemoryLimit(size_bytes=int(text), source="the limit of its container")
