"""A training that is killed at any time resumes and ends like an uninterrupted one, bit by bit.

That holds without a GPU, where the trainer's steps are deterministic on one machine.
"""

import dataclasses
import hashlib
import json
import os
import random
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

from repot.backbone_weights import save_weights, stable_names
from repot.json_record import read_record
from repot.layout import WEIGHTS_NAME
from repot.settings import TrainingSettings
from repot.trainer.request import TrainingRequest
from repot.trainer.state import SavedState
from repot.training_record import EpochRecord, TrainingRecord, read_history
from repot.zoo import build_backbone
from tests.rebuilt_models import assert_rebuilt_exactly

NUM_RANDOM_KILLS = 20
STOP_SECONDS = 5.0
WAIT_SECONDS = 400.0
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

    def start_in(
        run: Path, settings: TrainingSettings = SETTINGS, **environment: str
    ) -> subprocess.Popen[bytes]:
        request = make_request(sample_dataset_uri, lite0_weights_uri, run, settings)
        return start_training(request, **environment)

    return start_in


def make_request(
    dataset_uri: str, weights_uri: str, run: Path, settings: TrainingSettings
) -> TrainingRequest:
    return TrainingRequest(
        dataset_uri=dataset_uri,
        weights_uri=weights_uri,
        run_uri=str(run),
        training_id="t",
        checkpoint_id="c",
        settings=settings,
    )


def start_training(request: TrainingRequest, **environment: str) -> subprocess.Popen[bytes]:
    """Start a process that trains; each warning is an error."""
    command = [sys.executable, "-W", "error", "-c", TRAIN, request.to_text()]
    return subprocess.Popen(command, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def uninterrupted(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted")
    assert start(run, REPOT_EVENTS=str(run / EVENTS_NAME)).wait(WAIT_SECONDS) == 0
    return run


def kill_when(
    run: Path, is_due: Callable[[], bool], start: Start, signal_number: int = signal.SIGKILL
) -> float:
    """Start a training, kill it as soon as it is due, and return the seconds it took to end."""
    process, deadline = start(run), time.monotonic() + WAIT_SECONDS
    while not is_due():
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sent = time.monotonic()
    process.send_signal(signal_number)
    assert process.wait(WAIT_SECONDS) == -signal_number
    return time.monotonic() - sent


def has_saved(run: Path, phase: str, epoch: int) -> bool:
    """Return whether a position at or after the end of an epoch was saved."""
    latest = run / "state" / "latest.json"
    if not latest.exists():
        return False
    position = read_record(str(latest), SavedState).position
    phases = [result.name for result in position.results]
    return phase in phases or (position.phase == phase and position.epoch >= epoch)


def test_killed_training_ends_with_bit_identical_weights(
    start: Start, uninterrupted: Path, tmp_path: Path
) -> None:
    kill_when(tmp_path, lambda: any((tmp_path / "features").rglob("*.digests")), start)
    kill_when(tmp_path, lambda: has_saved(tmp_path, "head", 10), start)
    kill_when(tmp_path, lambda: has_saved(tmp_path, "fine_tune", 1), start)
    assert start(tmp_path).wait(WAIT_SECONDS) == 0

    assert_same_results(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("recipe", ["head", "fine_tune"])
def test_training_killed_at_random_moments_ends_with_bit_identical_files(
    recipe: str, start: Start, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, recipe=recipe, epochs=2 if recipe != "head" else 0)
    started = time.monotonic()
    assert start(tmp_path / "whole", settings).wait(WAIT_SECONDS) == 0
    duration = time.monotonic() - started
    rng, num_kills, num_runs = random.Random(recipe), 0, 0
    while num_kills < NUM_RANDOM_KILLS:
        run = tmp_path / str(num_runs)
        code = None
        while code != 0:
            process = start(run, settings)
            # Some starts are not killed, so that the training comes to its end.
            timeout = rng.uniform(0, duration) if rng.random() < 0.8 else WAIT_SECONDS
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait(WAIT_SECONDS)
                num_kills += 1
            assert code in (0, -signal.SIGKILL)
        num_runs += 1
        assert_same_results(run, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_killed_training_of_2016_ends_with_bit_identical_weights(
    sample_dataset_uri: str, tmp_path: Path
) -> None:
    backbone = build_backbone("inception_v3", image_size=75)
    arrays = dict(zip(stable_names(backbone), backbone.get_weights(), strict=True))
    save_weights(tmp_path / WEIGHTS_NAME, arrays)  # random, but the same for both trainings
    settings = TrainingSettings(recipe="inception_2016", epochs=3, image_size=75)

    def start(run: Path) -> subprocess.Popen[bytes]:
        return start_training(make_request(sample_dataset_uri, str(tmp_path), run, settings))

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait(2 * WAIT_SECONDS) == 0
    kill_when(killed, lambda: has_saved(killed, "inception_2016", 1), start)
    kill_when(killed, lambda: has_saved(killed, "inception_2016", 2), start)
    assert start(killed).wait(2 * WAIT_SECONDS) == 0

    assert model_files(killed) == model_files(whole)
    assert history(killed) == history(whole)
    assert_rebuilt_exactly(whole / "model", tmp_path / "copy")


def test_terminated_training_stops_within_seconds_and_keeps_its_last_epoch(
    start: Start, tmp_path: Path
) -> None:
    seconds = kill_when(
        tmp_path, lambda: has_saved(tmp_path, "fine_tune", 1), start, signal.SIGTERM
    )

    assert seconds < STOP_SECONDS

    state = read_record(f"{tmp_path}/state/latest.json", SavedState)
    assert (tmp_path / "state" / state.file_name).exists()
    assert not (tmp_path / "training.json").exists()


def test_finished_training_leaves_its_results_and_no_state(uninterrupted: Path) -> None:
    record = read_record(f"{uninterrupted}/training.json", TrainingRecord)

    assert not (uninterrupted / "state").exists()
    assert sorted(path.name for path in (uninterrupted / "model").iterdir()) == [
        "labels.txt",
        "model.keras",
        "model_spec.json",
        "saved_model",
    ]
    assert (uninterrupted / "model" / "labels.txt").read_text().splitlines() == list(record.labels)
    assert record.epochs == len(history(uninterrupted)) == 23
    assert record.last_epoch == read_history(str(uninterrupted))[-1]
    assert record.settings == SETTINGS
    assert record.seconds > 0
    assert record.train_examples_per_second > 0
    assert list((uninterrupted / "events").iterdir())


def test_fine_tuned_model_is_rebuilt_exactly(uninterrupted: Path, tmp_path: Path) -> None:
    assert_rebuilt_exactly(uninterrupted / "model", tmp_path / "copy")


def test_progress_runs_from_the_first_step_to_the_last(uninterrupted: Path) -> None:
    reports = [json.loads(line) for line in (uninterrupted / EVENTS_NAME).read_text().splitlines()]
    steps = [report for report in reports if report["unit"] == "steps"]
    done = [report["done"] for report in steps]
    assert done == sorted(done)
    assert {report["total"] for report in steps} == {done[-1]}
    assert "precision@1" in steps[-1]["note"]
    pictures = [report for report in reports if report["unit"] == "pictures"]
    ends = [report["total"] for report in pictures if report["done"] == report["total"]]
    assert ends == [92, 40]  # training and validation


def assert_same_results(run: Path, expected: Path) -> None:
    pairs = list(zip(weights(expected), weights(run), strict=True))
    assert len(pairs) > 100
    for weight, same in pairs:
        np.testing.assert_array_equal(same, weight)
    assert history(run) == history(expected)
    assert model_files(run) == model_files(expected)


def weights(run: Path) -> list[Any]:
    model = keras.models.load_model(run / "model" / "model.keras", compile=False)
    return [weight.numpy() for weight in model.weights]


def model_files(run: Path) -> dict[str, str]:
    """Return the checksum of every file that is published, by name."""
    folder = run / "model"
    files = [path for path in folder.rglob("*") if path.is_file()]
    files += run.glob("augmented_pictures.json")  # recipe head augments nothing
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def history(run: Path) -> list[EpochRecord]:
    """Return the epochs without their durations."""
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in read_history(str(run))]
