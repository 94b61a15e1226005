import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from repot import memory
from repot.memory import describe_out_of_memory, find_memory_limit, is_out_of_memory, num_cores
from tests.integration.kfp_api.command_line import run_repot

GIB = 1 << 30
ALLOCATE = f"""
import resource
import numpy as np
from repot import progress
resource.setrlimit(resource.RLIMIT_AS, ({GIB}, {GIB}))
with progress.task("train"):
    np.zeros(({GIB},), np.float64)
"""
# The first block that is freed makes glibc keep up to twice as much for later.
FREE = """
import threading
from pathlib import Path
from repot.memory import limit_heaps, return_free_memory

def resident_kib():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0])

def allocate():
    bytes(16 << 20)
    blocks = [bytearray(16 << 20)]
    blocks.clear()

if {is_limited}:
    limit_heaps()
before = resident_kib()
for _ in range(2):
    threads = [threading.Thread(target=allocate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
kept = resident_kib() - before
# Every other block of 16 KiB is still used.
blocks = [bytes(16 << 10) for _ in range(2000)]
blocks = blocks[::2]
used = resident_kib()
return_free_memory()
print(kept, used - resident_kib())
"""
WORKER = """
from repot.shard_builder import shard, worker
def build_shard(*_, **__):
    raise MemoryError("no room")
shard.build_shard = build_shard
worker.main()
"""


@pytest.mark.parametrize(
    ("texts", "source"),
    [
        (("1048576\n",), "the limit of its container"),
        (("max\n", "1048576\n"), "the limit of its container"),
        (("max\n",), "all of this machine's memory"),
        ((), "all of this machine's memory"),
        ((f"{1 << 62}\n",), "all of this machine's memory"),
    ],
)
def test_strictest_limit_is_found(
    texts: tuple[str, ...], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / str(number) for number in range(2)]
    for path, text in zip(paths, texts, strict=False):
        path.write_text(text)
    monkeypatch.setattr(memory, "CGROUP_LIMIT_PATHS", paths)
    monkeypatch.setattr("resource.getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)

    limit = find_memory_limit()

    assert limit.source == source
    assert (limit.size_bytes == 1048576) == ("container" in source)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_is_returned_from_limited_heaps() -> None:
    (kept, _), (kept_limited, returned) = (
        map(int, subprocess.check_output([sys.executable, "-c", program]).split())
        for program in (FREE.format(is_limited=False), FREE.format(is_limited=True))
    )
    assert kept_limited < 8 << 10 < kept
    # Of each free block, the whole pages.
    assert returned > 8 << 10


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 4), ("250000 100000", 3), ("50000 100000", 1), ("", 4)]
)
def test_cores_are_limited_by_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int
) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(limit)
    monkeypatch.setattr(memory, "_CPU_LIMIT_PATH", path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    assert num_cores() == cores


def test_task_that_runs_out_of_memory_says_how_much_it_may_use_and_what_to_do() -> None:
    command = [sys.executable, "-c", ALLOCATE]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    reason = " ".join(done.stderr.partition("=== train failed ===")[2].split())
    assert reason.startswith("The memory ran out (Unable to allocate 8.00 GiB for an array with")
    assert "this process may use 1.0 GiB (the limit of `ulimit -v`)" in reason
    assert "choose a smaller --batch-size, --image-size or --backbone" in reason


@pytest.mark.parametrize(
    "err",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        ImportError("libtensorflow_cc.so.2: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nmore lines"),
    ],
)
def test_errors_of_python_and_tensorflow_are_described(err: Exception) -> None:
    assert is_out_of_memory(err)
    message = describe_out_of_memory(err)

    assert "\n" not in message
    assert "GiB (" in message
    assert "more lines" not in message
    assert not str(err) or str(err).splitlines()[0] in message


def test_advice_in_a_pod_names_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KFP_POD_NAME", "train")

    message = describe_out_of_memory(MemoryError())

    assert "Raise the memory of the task (builder_memory, trainer_memory or" in message
    assert "--batch-size" not in message


def test_other_errors_are_not_about_memory() -> None:
    for err in (ValueError("memory"), RuntimeError("other"), OSError(errno.ENOSPC, "full")):
        assert not is_out_of_memory(err)


def test_command_that_runs_out_of_memory_has_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("repot.predictions.predict_files", fail)

    done = run_repot("predict", "model", "x.jpg")

    assert done.exit_code == 1
    assert done.errors.startswith("Error: The memory ran out; this process may use")


def test_worker_of_the_shard_builder_reports_that_memory_ran_out(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, "dataset", str(tmp_path / "scratch"), "1"]

    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write('{"shard": "train-00000-of-00001"}\n')
        process.stdin.flush()
        replies = (json.loads(line) for line in process.stdout)
        reply = next(each for each in replies if "error" in each)
        process.stdin.close()

    assert reply["error"] == "RepotError"
    assert reply["message"].startswith("The memory ran out (no room); this process may use")
