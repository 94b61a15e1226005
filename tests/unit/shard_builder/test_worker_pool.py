import contextlib
import io
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from repot import storage
from repot.errors import DataError, RepotError
from repot.planner.listing import PictureRoots
from repot.planner.plan import PlannedDataset
from repot.progress import ProgressCounter
from repot.shard_builder.receipts import finished_shards
from repot.shard_builder.worker_pool import WorkerPool
from repot.work_list import read_work_list
from tests.integration.faulty_proxy import Request, Response, run_proxy
from tests.unit.conftest import MakePlan


def _build(planned: PlannedDataset, *, num_processes: int, with_store: bool = False) -> None:
    counter = ProgressCounter("t", 0, unit="pictures")
    with WorkerPool(planned.dataset_uri, num_decoders=num_processes) as pool:
        pool.build(planned.plan.shard_names, counter, with_store=with_store)


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


def _decoders() -> set[int]:
    """Return the ids of decoders that are descendants of this process, without their hosts."""
    listing = subprocess.run(
        ["ps", "-ewwo", "pid,ppid,args"], check=True, capture_output=True, text=True
    ).stdout
    processes = {}
    for line in listing.splitlines()[1:]:
        process_id, parent, *arguments = line.split(maxsplit=2)
        processes[int(process_id)] = int(parent), " ".join(arguments)

    def is_own(process_id: int) -> bool:
        while process_id in processes and process_id != os.getpid():
            process_id = processes[process_id][0]
        return process_id == os.getpid()

    hosts = {number for number, (_, name) in processes.items() if "picture_decoder" in name}
    return {number for number in hosts if processes[number][0] in hosts and is_own(number)}


def test_all_shards_are_built_and_all_workers_end(make_plan: MakePlan) -> None:
    planned = make_plan(train_shards=4)
    _build(planned, num_processes=3)
    names = planned.plan.shard_names
    assert list(finished_shards(planned.dataset_uri, planned.plan, names)) == names
    assert _workers(planned.dataset_uri) == []


@pytest.mark.parametrize(
    ("num_decoders", "num_workers", "with_store"),
    [(1, 1, False), (2, 1, False), (5, 3, False), (3, 2, True)],
)
def test_worker_that_was_started_early_is_used(
    make_plan: MakePlan, num_decoders: int, num_workers: int, with_store: bool
) -> None:
    planned = make_plan(train_shards=6)
    # Without a store, the first worker is not a process.
    num_first, others = int(with_store), _decoders()
    with WorkerPool(planned.dataset_uri, num_decoders=num_decoders) as pool:
        pool.start(with_store=with_store)
        first = _workers(planned.dataset_uri)
        assert len(first) == num_first
        counter = ProgressCounter("t", 0, unit="pictures")
        pool.build(planned.plan.shard_names, counter, with_store=with_store)
        workers = _workers(planned.dataset_uri)
        assert len(workers) == num_workers - 1 + num_first
        assert set(first) <= set(workers)
        assert len(_decoders() - others) == num_decoders
    assert _workers(planned.dataset_uri) == []
    assert _decoders() == others


def test_worker_that_cannot_use_a_store_is_replaced(make_plan: MakePlan) -> None:
    planned, others = make_plan(train_shards=2), _decoders()
    with WorkerPool(planned.dataset_uri, num_decoders=1) as pool:
        pool.start()
        assert _workers(planned.dataset_uri) == []
        counter = ProgressCounter("t", 0, unit="pictures")
        pool.build(planned.plan.shard_names, counter, with_store=True)
        assert len(_workers(planned.dataset_uri)) == 1
        assert len(_decoders() - others) == 1


def test_thumbnails_of_files_that_are_gone_are_missing(make_plan: MakePlan, pictures: Path) -> None:
    planned = make_plan(train_shards=1, validation_fraction=0.01)
    sources = read_work_list(planned.dataset_uri, "train-00000-of-00001")[:3]
    Path(sources[1].uri).unlink()
    Path(sources[2].uri).write_bytes(b"another file")
    with WorkerPool(planned.dataset_uri) as pool:
        first, *others = pool.thumbnails(sources, 8)
        (again,) = pool.thumbnails(sources[:1], 8)
    assert first is not None
    with Image.open(io.BytesIO(first)) as image:
        assert image.size == (8, 6)
    assert others == [None, None]
    assert again == first


def test_with_a_store_a_shard_that_waits_for_its_pictures_holds_up_no_other(
    gcs: str,
    gcs_endpoint: str,
    make_plan: MakePlan,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage.upload_folder(pictures, f"{gcs}/pictures")
    planned = make_plan(
        roots=PictureRoots(pictures_uri=f"{gcs}/pictures"), storage_uri=gcs, train_shards=4
    )
    names = planned.plan.shard_names
    held = read_work_list(planned.dataset_uri, names[0])[0].path.replace("/", "%2F")
    other_is_finished = threading.Event()
    waited = []
    with run_proxy(gcs_endpoint) as proxy:
        respond = proxy.respond

        def hold(request: Request) -> Response | None:
            if request.method == "POST" and b"receipts/" in request.body:
                other_is_finished.set()
            if held in request.path:
                waited.append(other_is_finished.wait(60))
            return respond(request)

        monkeypatch.setattr(proxy, "respond", hold)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        counter = ProgressCounter("t", 0, unit="pictures")
        with WorkerPool(planned.dataset_uri, num_decoders=1) as pool:
            pool.build(names, counter, with_store=True)
        assert list(finished_shards(planned.dataset_uri, planned.plan, names)) == names
    assert waited == [True]


@pytest.mark.parametrize("with_store", [False, True])
def test_error_of_a_worker_is_raised_with_its_message(
    make_plan: MakePlan, pictures: Path, with_store: bool
) -> None:
    planned, others = make_plan(train_shards=4), _decoders()
    (pictures / "a" / "000.jpg").unlink()
    with pytest.raises(DataError, match=r"a/000\.jpg was changed or deleted since"):
        _build(planned, num_processes=2, with_store=with_store)
    assert _workers(planned.dataset_uri) == []
    assert _decoders() == others


def test_unexpected_error_in_a_worker_of_this_process_is_raised(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = make_plan(train_shards=2)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("repot.shard_builder.shard.build_shard", fail)
    with pytest.raises(RepotError, match=r"it has failed: ZeroDivisionError: by zero\."):
        _build(planned, num_processes=1)


def test_pool_that_is_closed_while_a_picture_blocks_waits_for_no_reader(
    make_plan: MakePlan, pictures: Path
) -> None:
    planned, others = make_plan(train_shards=2), _decoders()
    paths = sorted(pictures.glob("*/*.jpg"))
    for path in paths:
        path.unlink()
        os.mkfifo(path)
    pool = WorkerPool(planned.dataset_uri, num_decoders=2)
    errors: list[Exception] = []

    def build() -> None:
        try:
            pool.build(planned.plan.shard_names, ProgressCounter("t", 0, unit="pictures"))
        except RepotError as err:
            errors.append(err)

    builder = threading.Thread(target=build)
    builder.start()
    while len(_decoders() - others) < 2:
        time.sleep(0.05)
    pool.close()
    builder.join(30)
    assert not builder.is_alive()
    assert _decoders() == others
    (error,) = errors
    assert re.search(r"must run until its shards are built; .* was closed", str(error))
    for path in paths:  # The readers end.
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


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
        _build(planned, num_processes=2, with_store=True)
    killer.join()
    assert _workers(planned.dataset_uri) == []
