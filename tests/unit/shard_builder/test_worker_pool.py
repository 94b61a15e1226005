import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from repot.errors import DataError, RepotError
from repot.planner.plan import PlannedDataset
from repot.progress import ProgressCounter
from repot.shard_builder.receipts import finished_shards
from repot.shard_builder.worker_pool import WorkerPool
from tests.unit.conftest import MakePlan


def _build(planned: PlannedDataset, *, num_processes: int) -> None:
    with WorkerPool(planned.dataset_uri, num_decoders=num_processes) as pool:
        pool.build(planned.plan.shard_names, ProgressCounter("t", 0, unit="pictures"))


def _workers(dataset_uri: str) -> list[int]:
    """Return the ids of the worker processes of a dataset."""
    listing = subprocess.run(
        ["ps", "-ewwo", "pid,args"], check=True, capture_output=True, text=True
    ).stdout
    lines = (
        line
        for line in listing.splitlines()
        if "shard_builder.worker" in line and dataset_uri in line
    )
    return [int(line.split()[0]) for line in lines]


def test_all_shards_are_built_and_all_workers_end(make_plan: MakePlan) -> None:
    planned = make_plan(train_shards=4)
    _build(planned, num_processes=3)
    names = planned.plan.shard_names
    assert list(finished_shards(planned.dataset_uri, planned.plan, names)) == names
    assert _workers(planned.dataset_uri) == []


def test_error_of_a_worker_is_raised_with_its_message(make_plan: MakePlan, pictures: Path) -> None:
    planned = make_plan(train_shards=4)
    (pictures / "a" / "000.jpg").unlink()
    with pytest.raises(DataError, match=r"a/000\.jpg was changed or deleted since"):
        _build(planned, num_processes=2)
    assert _workers(planned.dataset_uri) == []


def test_killed_worker_is_an_error_and_the_others_end(make_plan: MakePlan, pictures: Path) -> None:
    planned = make_plan(train_shards=2)
    # Replace the pictures by named pipes, so that the workers block.
    for path in pictures.glob("*/*.jpg"):
        path.unlink()
        os.mkfifo(path)

    def kill_one() -> None:
        while not (workers := _workers(planned.dataset_uri)):
            time.sleep(0.05)
        os.kill(workers[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(RepotError, match=r"exited with status -9"):
        _build(planned, num_processes=2)
    killer.join()
    assert _workers(planned.dataset_uri) == []
