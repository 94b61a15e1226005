"""Measure how long `repot run --sample` takes, from nothing to the report.

    make sample-run
    .venv/bin/python benchmarks/sample_run.py [--runs N] [CHECKOUT...]

Every run has new storage and a new output folder. The CPU seconds are those of all its processes,
and vary less than the wall time if the machine does other work. For a comparison, give folders with
other checkouts: each round runs this one, and then each of them with the same installed packages.
Each round runs the recipes `head` and `auto`.
"""

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_RUNS = 3
RECIPES = ("head", "auto")

_REPOT = "from repot_pipelines.cli import main; main()"
_PR_SET_CHILD_SUBREAPER = 36  # Source: prctl.h


def main() -> None:
    """Print one line per run."""
    # Processes that outlive their parents become children of this one, which waits for them: so
    # their CPU time counts.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=NUM_RUNS)
    parser.add_argument("checkouts", type=Path, nargs="*")
    arguments = parser.parse_args()
    checkouts = [Path(__file__).parent.parent, *arguments.checkouts]
    print("recipe  wall s  CPU s  of them system  checkout")
    for _ in range(arguments.runs):
        for recipe in RECIPES:
            for checkout in checkouts:
                _measure(checkout.resolve(), recipe)


def _measure(checkout: Path, recipe: str) -> None:
    folders = (str(checkout / name) for name in ("components", "pipelines"))
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="repot-benchmark-") as folder:
        subprocess.run(
            [sys.executable, "-P", "-c", _REPOT, "run", "--sample", "--recipe", recipe],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        seconds = time.monotonic() - started
        _wait_for_orphans()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    system = after.ru_stime - before.ru_stime
    cpu = after.ru_utime - before.ru_utime + system
    print(f"{recipe:6} {seconds:7.1f} {cpu:6.1f} {system:15.1f}  {checkout}", flush=True)


def _wait_for_orphans() -> None:
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    main()
