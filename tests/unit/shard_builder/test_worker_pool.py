import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from repot.errors import DataError, RepotError
from repot.progress import Meter
from repot.shard_builder import worker_pool
from repot.shard_builder.receipts import finished_shards
from repot.shard_builder.worker_pool import build_together, num_cores
from tests.unit.conftest import Plan


def _meter() -> Meter:
    return Meter("t", 0, unit="pictures")


def _workers(dataset_uri: str) -> list[int]:
    """Return the processes that build shards of a data set."""
    listing = subprocess.run(
        ["ps", "-ewwo", "pid,args"], check=True, capture_output=True, text=True
    ).stdout
    lines = (
        line
        for line in listing.splitlines()
        if "shard_builder.worker" in line and dataset_uri in line
    )
    return [int(line.split()[0]) for line in lines]


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 4), ("250000 100000", 3), ("50000 100000", 1), ("", 4)]
)
def test_cores_are_limited_by_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int
) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(limit)
    monkeypatch.setattr(worker_pool, "_CPU_LIMIT_PATH", path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    assert num_cores() == cores


def test_shards_are_built_and_the_processes_are_gone(plan: Plan) -> None:
    made = plan(train_shards=4)
    build_together(made.dataset_uri, made.shard_names, num_processes=3, meter=_meter())
    assert list(finished_shards(made, made.shard_names)) == made.shard_names
    assert _workers(made.dataset_uri) == []


def test_error_of_a_process_is_raised_here_with_its_words(plan: Plan, pictures: Path) -> None:
    made = plan(train_shards=4)
    (pictures / "a" / "000.jpg").unlink()
    with pytest.raises(DataError, match=r"a/000\.jpg was changed or deleted since"):
        build_together(made.dataset_uri, made.shard_names, num_processes=2, meter=_meter())
    assert _workers(made.dataset_uri) == []


def test_killed_process_is_said_and_the_others_end(plan: Plan, pictures: Path) -> None:
    # A pipe in the place of a picture: whoever reads it waits.
    made = plan(train_shards=2)
    for path in pictures.glob("*/*.jpg"):
        path.unlink()
        os.mkfifo(path)

    def kill_one() -> None:
        while not (workers := _workers(made.dataset_uri)):
            time.sleep(0.05)
        os.kill(workers[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(RepotError, match=r"ended with status -9"):
        build_together(made.dataset_uri, made.shard_names, num_processes=2, meter=_meter())
    killer.join()
    assert _workers(made.dataset_uri) == []
