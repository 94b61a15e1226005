"""This machine: its Python, and how much memory and disk is free."""

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from repot_pipelines.doctor.check import Check, ok, problem, warning

GIB = 1 << 30
LEAST_MEMORY_BYTES, GOOD_MEMORY_BYTES = 3 * GIB // 2, 4 * GIB
"""`repot run --sample` peaks at 0.94 GB, all its processes together; more pictures and larger networks take more."""
LEAST_DISK_BYTES, GOOD_DISK_BYTES = 1 * GIB, 10 * GIB
"""The sample takes 0.12 GB with its checkpoint and models; shards take about as much as their pictures."""

_MEMORY_FACTS = Path("/proc/meminfo")
# A container's own limit (cgroup v2), which /proc/meminfo does not know.
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def check_python(supported: str) -> Check:
    """Return whether this Python is one that repot supports.

    Args:
        supported: The distribution's Requires-Python, e.g. ">=3.11,<3.14".
    """
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    if version in SpecifierSet(supported):
        return ok("Python", f"{version}, {sys.executable}")
    return problem(
        "Python",
        f"{version} at {sys.executable}; repot needs {supported}.",
        "Make a virtual environment with another Python, and install repot there.",
    )


def check_memory(free_bytes: int) -> Check:
    """Return whether enough memory is free for `repot run` on this machine."""
    finding = f"{free_bytes / GIB:.1f} GiB free"
    if free_bytes >= GOOD_MEMORY_BYTES:
        return ok("memory", finding)
    fix = "Close other programs; a smaller --batch-size helps; a cluster needs none of this machine's memory."
    if free_bytes >= LEAST_MEMORY_BYTES:
        return warning("memory", f"{finding}: enough for the preset laptop, not for more.", fix)
    return problem(
        "memory", f"{finding}; `repot run` needs {LEAST_MEMORY_BYTES / GIB:.1f} GiB.", fix
    )


def check_disk(name: str, folder: Path) -> Check:
    """Return whether enough of the disk is free.

    Args:
        name: What lies there.
        folder: Where; it may not be there yet.
    """
    place = nearest_folder(folder)
    free_bytes = shutil.disk_usage(place).free
    finding = f"{free_bytes / GIB:.1f} GiB free at {place}"
    if free_bytes >= GOOD_DISK_BYTES:
        return ok(name, finding)
    fix = f"Free some space at {place}, or choose another place (--storage-uri, TMPDIR)."
    if free_bytes >= LEAST_DISK_BYTES:
        return warning(name, f"{finding}: enough for a few hundred pictures.", fix)
    return problem(name, f"{finding}; repot needs {LEAST_DISK_BYTES / GIB:.0f} GiB at least.", fix)


def nearest_folder(path: Path) -> Path:
    """Return the path itself if it is there, else the nearest of its parents that is."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def scratch_folder() -> Path:
    """Return where temporary files go."""
    return Path(tempfile.gettempdir())


def free_memory_bytes() -> int:
    """Return how much memory a new program can have; where that is not told, what the machine has."""
    free = _available_bytes()
    try:
        limit, used = (
            _LIMIT.read_text(encoding="ascii").strip(),
            _USED.read_text(encoding="ascii").strip(),
        )
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))


def _available_bytes() -> int:
    try:
        lines = _MEMORY_FACTS.read_text(encoding="ascii").splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts = dict(line.split(":", 1) for line in lines)
    return int(facts["MemAvailable"].split()[0]) * 1024
