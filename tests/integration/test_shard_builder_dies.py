"""A shard builder that is killed or interrupted leaves nothing behind, and the next one resumes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repot import storage
from repot.data_checks import DataLimits
from repot.planner.listing import PictureRoots
from repot.planner.plan import PlannedDataset, plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from repot.work_list import read_work_list

GOLDEN = Path(__file__).parents[1] / "golden" / "build_image_data" / "data"
BUILD = """
import sys
from repot.shard_builder.build import build_shards
build_shards(sys.argv[1], num_processes=int(sys.argv[2]))
"""
NUM_SHARDS = 9


def _plan(pictures: Path, folder: Path) -> PlannedDataset:
    return plan_dataset(
        PictureRoots(pictures_uri=str(pictures)),
        dataset_folder=lambda _: str(folder),
        listings_uri=None,
        settings=DatasetSettings(train_shards=NUM_SHARDS - 1, validation_shards=1),
    )


def _processes(dataset_uri: str) -> list[str]:
    """Return all running processes that have the dataset in their command line."""
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


def _has_nameless_files(folder: Path) -> bool:
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR))
    except (AttributeError, OSError):
        return False
    return True


def _versions(folder: Path) -> dict[str, str]:
    return {info.uri: info.version for info in storage.list_objects(str(folder))}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder of label folders with pictures."""
    return Path(shutil.copytree(GOLDEN / "train", tmp_path / "pictures"))


@pytest.mark.parametrize("num_decoders", [2, 3])
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_builder_leaves_no_process_and_the_next_one_resumes(
    pictures: Path, tmp_path: Path, signal_number: signal.Signals, num_decoders: int
) -> None:
    complete = _plan(pictures, tmp_path / "complete")
    build_shards(complete.dataset_uri, num_processes=1)
    killed = _plan(pictures, tmp_path / "killed")
    # Replace one picture of the last training shard by a named pipe, so that its worker blocks.
    held = Path(read_work_list(killed.dataset_uri, killed.plan.shard_names[-2])[-1].uri)
    held.rename(tmp_path / "held")
    os.mkfifo(held)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", BUILD, killed.dataset_uri, str(num_decoders)],
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(scratch)},
    ) as builder:
        while len(list((tmp_path / "killed" / "receipts").glob("*.json"))) < NUM_SHARDS - 1:
            assert builder.poll() is None
            time.sleep(0.02)
        # The builder itself is the worker of the first two decoders.
        assert len(_processes(killed.dataset_uri)) == num_decoders - 1
        builder.send_signal(signal_number)
        assert builder.wait(timeout=10) == -signal_number
    _wait_until_gone(killed.dataset_uri)
    assert not any(scratch.iterdir())
    if _has_nameless_files(tmp_path):
        assert not list((tmp_path / "killed").glob(".*"))
    assert not (tmp_path / "killed" / killed.plan.shard_names[-2]).exists()
    before = _versions(tmp_path / "killed")
    held.unlink()
    (tmp_path / "held").rename(held)
    build_shards(killed.dataset_uri, num_processes=2)
    assert before.items() < _versions(tmp_path / "killed").items()
    for name in killed.plan.shard_names:
        assert (tmp_path / "killed" / name).read_bytes() == (
            tmp_path / "complete" / name
        ).read_bytes()
    manifests = [
        complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=0))
        for planned in (complete, killed)
    ]
    assert manifests[0] == manifests[1]


def test_shards_are_built_without_tensorflow_and_decoded_elsewhere(
    pictures: Path, tmp_path: Path
) -> None:
    planned = _plan(pictures, tmp_path / "data")
    code = """
import sys
from pathlib import Path
import repot.planner.plan, repot.shard_builder.worker
from repot.data_checks import DataLimits
from repot.picture_decoder import PictureDecoder
from repot.shard_builder.complete import complete_dataset
from repot.shard_builder.shard import build_shard
with PictureDecoder() as decoder:
    build_shard(
        sys.argv[1],
        "validation-00000-of-00001",
        scratch_path=Path(sys.argv[2]),
        decode=decoder.decode,
        on_pictures=lambda _: None,
    )
complete_dataset(sys.argv[1], limits=DataLimits(max_rejected_fraction=0))
forbidden = {"tensorflow", "keras", "kfp", "google.cloud.storage", "PIL"} & set(sys.modules)
sys.exit(f"these must not be imported: {forbidden}" if forbidden else 0)
"""
    subprocess.run([sys.executable, "-c", code, planned.dataset_uri, str(tmp_path)], check=True)
