"""Check the memory, the disk space and the picture decoder's sandbox of this machine."""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from repot import sandbox
from repot.memory import CGROUP_LIMIT_PATHS
from repot.picture_decoder import PictureDecoder
from repot_pipelines.doctor.results import CheckResult, ok, problem, warning

GIB = 1 << 30

# `repot run --sample` peaks at 0.94 GB over all its processes; more pictures and larger
# backbones need more.
MIN_MEMORY_BYTES = 3 * GIB // 2
RECOMMENDED_MEMORY_BYTES = 4 * GIB

# The sample needs 0.12 GB including its checkpoint and models; shards are about as large as
# their pictures.
MIN_DISK_BYTES = 1 * GIB
RECOMMENDED_DISK_BYTES = 10 * GIB

_MEMINFO_PATH = Path("/proc/meminfo")
# Memory limit and usage of a container (cgroup v2), which /proc/meminfo does not reflect.
_CGROUP_LIMIT_PATH = CGROUP_LIMIT_PATHS[0]
_CGROUP_USED_PATH = Path("/sys/fs/cgroup/memory.current")
_CGROUP_STATISTICS_PATH = Path("/sys/fs/cgroup/memory.stat")


def check_memory(free_bytes: int) -> CheckResult:
    """Check that enough memory is free for `repot run` on this machine."""
    finding = f"{free_bytes / GIB:.1f} GiB free"
    if free_bytes >= RECOMMENDED_MEMORY_BYTES:
        return ok("memory", finding)
    fix = (
        "Close other programs or reduce --batch-size. Runs on a cluster do not use this "
        "machine's memory."
    )
    if free_bytes >= MIN_MEMORY_BYTES:
        return warning("memory", f"{finding}, which is enough only for the preset laptop.", fix)
    return problem("memory", f"{finding}; `repot run` needs {MIN_MEMORY_BYTES / GIB:.1f} GiB.", fix)


def check_disk(name: str, folder: Path) -> CheckResult:
    """Check that the disk of a folder has enough free space.

    Args:
        name: What is stored there; the name of the result.
        folder: The folder; it does not have to exist.
    """
    existing = nearest_existing_folder(folder)
    free_bytes = shutil.disk_usage(existing).free
    finding = f"{free_bytes / GIB:.1f} GiB free at {existing}"
    if free_bytes >= RECOMMENDED_DISK_BYTES:
        return ok(name, finding)
    fix = f"Free some space at {existing}, or use another disk (--storage-uri, TMPDIR)."
    if free_bytes >= MIN_DISK_BYTES:
        return warning(name, f"{finding}, which is enough for a few hundred pictures.", fix)
    return problem(name, f"{finding}; repot needs at least {MIN_DISK_BYTES / GIB:.0f} GiB.", fix)


def check_sandbox() -> CheckResult:
    """Check the sandbox of a picture decoder, which is started for that.

    Raises:
        RepotError: The decoder cannot be started.
    """
    with PictureDecoder() as decoder:
        return read_sandbox(decoder.layers(), platform=sys.platform)


def read_sandbox(layers: Sequence[str], *, platform: str) -> CheckResult:
    """Interpret the layers of the sandbox, see `repot.sandbox`.

    Args:
        layers: The active layers.
        platform: The operating system, as in `sys.platform`.
    """
    finding = f"pictures are decoded in a process with {', '.join(layers)}"
    if platform != "linux":
        return ok("sandbox", f"{finding}; the other layers exist on Linux only")
    # A container has no namespaces of its own, and needs none with seccomp.
    missing = [
        layer
        for layer in (sandbox.LANDLOCK, sandbox.SECCOMP)
        if not any(active.startswith(layer) for active in layers)
    ]
    if not missing:
        return ok("sandbox", finding)
    return warning(
        "sandbox",
        f"{finding}, and without {' and '.join(missing)}.",
        "Use Linux 5.13 or later on x86_64 or aarch64, and a container runtime that allows "
        "Landlock and seccomp; see docs/security.md.",
    )


def nearest_existing_folder(path: Path) -> Path:
    """Return the path itself if it exists, otherwise its nearest existing parent."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def scratch_folder() -> Path:
    """Return the folder for temporary files."""
    return Path(tempfile.gettempdir())


def free_memory_bytes() -> int:
    """Return the memory available to new processes, within the limit of the container if any.

    Without /proc/meminfo (macOS) it is the total memory of the machine.
    """
    available = _machine_memory_bytes()
    try:
        limit = _CGROUP_LIMIT_PATH.read_text(encoding="ascii").strip()
        used = int(_CGROUP_USED_PATH.read_text(encoding="ascii"))
        statistics = _CGROUP_STATISTICS_PATH.read_text(encoding="ascii").splitlines()
    except OSError:
        return available
    # Copies of files that have not been read lately are dropped for whoever needs memory. The
    # kubelet counts in the same way ("working set").
    dropped = next(
        (int(line.split()[1]) for line in statistics if line.startswith("inactive_file ")), 0
    )
    return available if limit == "max" else min(available, int(limit) - max(used - dropped, 0))


def _machine_memory_bytes() -> int:
    try:
        lines = _MEMINFO_PATH.read_text(encoding="ascii").splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    values = dict(line.split(":", 1) for line in lines)
    return int(values["MemAvailable"].split()[0]) * 1024
