"""A training that is killed at any moment goes on, and ends with the very weights of one that was not.

"The very weights" means bit by bit: without a GPU the trainer's steps are deterministic on one machine.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from repot.settings import TrainingSettings
from repot.trainer.request import TrainingRequest

STOP_SECONDS = 5.0
WAIT_SECONDS = 120.0
EVENTS_NAME = "progress.jsonl"
SETTINGS = TrainingSettings(
    backbone="efficientnet_lite0", recipe="fine_tune", epochs=3, image_size=64
)
TRAIN = """
import sys
from repot.trainer.request import TrainingRequest
from repot.trainer.train import train
train(TrainingRequest.from_text(sys.argv[1]))
"""

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def start(sample_dataset_uri: str, lite0_weights_uri: str) -> Start:
    """Return a function that starts a training process in a folder."""

    def start_in(run: Path, **environment: str) -> subprocess.Popen[bytes]:
        request = TrainingRequest(
            dataset_uri=sample_dataset_uri,
            weights_uri=lite0_weights_uri,
            run_uri=str(run),
            training_id="t",
            checkpoint_id="c",
            settings=SETTINGS,
        )
        command = [sys.executable, "-W", "error", "-c", TRAIN, request.to_text()]
        return subprocess.Popen(command, env={**os.environ, **environment})

    return start_in


@pytest.fixture(scope="module")
def uninterrupted(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted")
    assert start(run, REPOT_EVENTS=str(run / EVENTS_NAME)).wait(WAIT_SECONDS) == 0
    return run


def kill_when(
    run: Path, is_time: Callable[[], bool], start: Start, signal_number: int = signal.SIGKILL
) -> float:
    """Kill a training as soon as it is time, and return the seconds that it took to end."""
    process, deadline = start(run), time.monotonic() + WAIT_SECONDS
    while not is_time():
        assert process.poll() is None, "the training ended before it was to be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sent = time.monotonic()
    process.send_signal(signal_number)
    assert process.wait(WAIT_SECONDS) == -signal_number
    return time.monotonic() - sent


def has_saved(run: Path, phase: str, epoch: int) -> bool:
    latest, order = run / "state" / "latest.json", ("head", "fine_tune")
    if not latest.exists():
        return False
    state = json.loads(latest.read_text())
    return (order.index(state["phase"]), state["epoch"]) >= (order.index(phase), epoch)


def test_killed_training_ends_with_the_same_weights_bit_by_bit(
    start: Start, uninterrupted: Path, tmp_path: Path
) -> None:
    kill_when(tmp_path, (tmp_path / "state" / "features-t-train-00000.npz").exists, start)
    kill_when(tmp_path, lambda: has_saved(tmp_path, "head", 10), start)
    kill_when(tmp_path, lambda: has_saved(tmp_path, "fine_tune", 1), start)
    assert start(tmp_path).wait(WAIT_SECONDS) == 0

    expected, resumed = weights(uninterrupted), weights(tmp_path)
    assert len(expected) == len(resumed) > 100
    for one, other in zip(expected, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert without_seconds(tmp_path) == without_seconds(uninterrupted)


def test_terminated_training_stops_within_seconds_and_keeps_its_last_epoch(
    start: Start, tmp_path: Path
) -> None:
    seconds = kill_when(
        tmp_path, lambda: has_saved(tmp_path, "fine_tune", 1), start, signal.SIGTERM
    )

    assert seconds < STOP_SECONDS

    state = json.loads((tmp_path / "state" / "latest.json").read_text())
    assert (tmp_path / "state" / state["file_name"]).exists()
    assert not (tmp_path / "training.json").exists()


def test_finished_training_leaves_its_results_and_no_state(uninterrupted: Path) -> None:
    facts = json.loads((uninterrupted / "training.json").read_text())

    assert not (uninterrupted / "state").exists()
    assert sorted(path.name for path in (uninterrupted / "model").iterdir()) == [
        "labels.txt",
        "model.keras",
        "saved_model",
    ]
    assert (uninterrupted / "model" / "labels.txt").read_text().splitlines() == facts["labels"]
    assert facts["epochs"] == len(without_seconds(uninterrupted)) == 23
    assert facts["settings"]["recipe"] == "fine_tune"
    assert facts["seconds"] > 0
    assert facts["train_examples_per_second"] > 0
    assert list((uninterrupted / "events").iterdir())


def test_progress_runs_from_the_first_step_to_the_last(uninterrupted: Path) -> None:
    reports = [json.loads(line) for line in (uninterrupted / EVENTS_NAME).read_text().splitlines()]
    steps = [report for report in reports if report["unit"] == "steps"]
    done = [report["done"] for report in steps]
    assert done == sorted(done)
    assert {report["total"] for report in steps} == {done[-1]}
    assert "precision@1" in steps[-1]["note"]
    assert [report["done"] for report in reports if report["unit"] == "pictures"][-1] == 132


def weights(run: Path) -> list[Any]:
    model = keras.models.load_model(run / "model" / "model.keras", compile=False)
    return [weight.numpy() for weight in model.weights]


def without_seconds(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="") as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]
