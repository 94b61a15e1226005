"""A shard builder that is stopped, in whatever way: nothing is left behind, and the next one goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repot import storage
from repot.dataset_plan import DatasetPlan, read_work_list
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.merge import merge_dataset

GOLDEN = Path(__file__).parents[1] / "golden" / "build_image_data" / "data"
BUILD = "import sys; from repot.shard_builder.build import build_shards; build_shards(sys.argv[1], num_processes=2)"
NUM_SHARDS = 9


def _plan(pictures: Path, folder: Path) -> DatasetPlan:
    return plan_dataset(
        PictureRoots(pictures_uri=str(pictures)),
        dataset_folder=lambda _: str(folder),
        listings_uri=None,
        settings=DatasetSettings(train_shards=NUM_SHARDS - 1, validation_shards=1),
    )


def _processes(dataset_uri: str) -> list[str]:
    """Return every running process that was given the data set."""
    listing = subprocess.run(
        ["ps", "-ewwo", "stat,args"], check=True, capture_output=True, text=True
    ).stdout
    return [
        line for line in listing.splitlines() if dataset_uri in line and not line.startswith("Z")
    ]


def _wait_until_gone(dataset_uri: str) -> None:
    deadline = time.monotonic() + 10
    while _processes(dataset_uri):
        assert time.monotonic() < deadline, _processes(dataset_uri)
        time.sleep(0.02)


def _versions(folder: Path) -> dict[str, str]:
    return {info.uri: info.version for info in storage.list_objects(str(folder))}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder of pictures to be split."""
    return Path(shutil.copytree(GOLDEN / "train", tmp_path / "pictures"))


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_builder_leaves_no_process_and_the_next_one_goes_on(
    pictures: Path, tmp_path: Path, signal_number: signal.Signals
) -> None:
    whole = _plan(pictures, tmp_path / "whole")
    build_shards(whole.dataset_uri, num_processes=1)
    plan = _plan(pictures, tmp_path / "stopped")
    # A pipe in the place of one picture of the last training shard: whoever reads it waits.
    held = Path(read_work_list(plan.dataset_uri, plan.shard_names[-2])[-1].uri)
    held.rename(tmp_path / "held")
    os.mkfifo(held)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", BUILD, plan.dataset_uri],
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(scratch)},
    ) as builder:
        while len(list((tmp_path / "stopped" / "receipts").glob("*.json"))) < NUM_SHARDS - 1:
            assert builder.poll() is None
            time.sleep(0.02)
        assert len(_processes(plan.dataset_uri)) == 3
        assert any(scratch.iterdir())
        builder.send_signal(signal_number)
        assert builder.wait(timeout=10) == -signal_number
    _wait_until_gone(plan.dataset_uri)
    assert not any(scratch.iterdir())
    assert not (tmp_path / "stopped" / plan.shard_names[-2]).exists()
    before = _versions(tmp_path / "stopped")
    held.unlink()
    (tmp_path / "held").rename(held)
    build_shards(plan.dataset_uri, num_processes=2)
    assert before.items() < _versions(tmp_path / "stopped").items()
    for name in plan.shard_names:
        assert (tmp_path / "stopped" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes()
    manifests = [merge_dataset(made.dataset_uri, max_rejected_fraction=0) for made in (whole, plan)]
    assert manifests[0] == manifests[1]


def test_shards_are_built_without_tensorflow(pictures: Path, tmp_path: Path) -> None:
    plan = _plan(pictures, tmp_path / "data")
    code = """
import sys
from pathlib import Path
import repot.planner.plan, repot.shard_builder.worker
from repot.shard_builder.merge import merge_dataset
from repot.shard_builder.shard import build_shard
build_shard(sys.argv[1], "validation-00000-of-00001", scratch_path=Path(sys.argv[2]), on_picture=lambda: None)
merge_dataset(sys.argv[1], max_rejected_fraction=0)
heavy = {"tensorflow", "keras", "kfp", "google.cloud.storage"} & set(sys.modules)
sys.exit(f"these must not be imported: {heavy}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code, plan.dataset_uri, str(tmp_path)], check=True)
