"""Worker processes that are stopped or killed within an epoch, one alone and two together.

They train the first five blocks of EfficientNet-Lite0: what is tested does not depend on the depth
of a network, and its compilation in each of a dozen processes took most of the time.
"""

import dataclasses
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

from repot import efficientnet_lite
from repot.backbone_weights import save_weights, stable_names
from repot.errors import StoppedError
from repot.json_record import read_record, write_record
from repot.layout import WEIGHTS_NAME
from repot.settings import TrainingSettings
from repot.trainer import loop
from repot.trainer.job.heartbeat import Heartbeat
from repot.trainer.position import TrainingPosition
from repot.trainer.request import TrainingRequest
from repot.trainer.state import SavedState, StateStore
from repot.trainer.train import train
from repot.training_record import EpochRecord, TrainingRecord, read_history
from repot.zoo import build_backbone
from tests.conftest import free_port

WAIT_SECONDS = 400.0
SETTINGS = TrainingSettings(
    backbone="efficientnet_lite0", recipe="fine_tune", epochs=3, image_size=32, batch_size=8
)
NUM_STAGES, HEAD_FILTERS = 3, 64
WORKER = f"""
import signal, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})  # before libraries start threads
from repot import efficientnet_lite
from repot.trainer.job import termination, worker
efficientnet_lite._STAGES = efficientnet_lite._STAGES[:{NUM_STAGES}]
efficientnet_lite._HEAD_FILTERS = {HEAD_FILTERS}
is_set = termination.StopRequest.is_set
def wait_before_each_step(request):
    time.sleep(float(sys.argv[2]))
    return is_set(request)
termination.StopRequest.is_set = wait_before_each_step
exec(sys.argv[3])
worker.main()
"""
# Four parts of features per worker; fine-tuning is kept, whatever it scores, after two epochs.
SMALL_PARTS = """
from repot import quiet_tensorflow
quiet_tensorflow.import_tensorflow()
from repot.trainer import features
from repot.trainer.auto import fine_tuning, plan
features.BATCH_SIZE, features.PART_ROWS = 8, (12, 12)
plan.MAX_EPOCHS = plan.MIN_EPOCHS = fine_tuning.MIN_EPOCHS = 2
fine_tuning.is_better = lambda gain, num_changed: True
"""
# Worker 1 kills itself after it has stored a part, worker 0 in the second epoch of a phase.
KILL_IN_FEATURES = """
import os
from repot.feature_store import VectorStore
add = VectorStore.add
def add_and_die(self, *arguments):
    add(self, *arguments)
    if os.environ["JOB_COMPLETION_INDEX"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
VectorStore.add = add_and_die
"""
KILL_IN_PHASE = """
import os
from repot.trainer import loop
finish_step = loop.TrainingPosition.finish_step
def finish_step_or_die(self, *arguments, **named):
    if (os.environ["JOB_COMPLETION_INDEX"], self.phase, self.epoch) == ("0", PHASE, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    finish_step(self, *arguments, **named)
loop.TrainingPosition.finish_step = finish_step_or_die
"""
SLOW = 0.1
"""Seconds before each step of workers that are stopped, so that they are within an epoch then."""

Make = Callable[[Path], TrainingRequest]


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the network of the workers."""
    monkeypatch.setattr(efficientnet_lite, "_STAGES", efficientnet_lite._STAGES[:NUM_STAGES])
    monkeypatch.setattr(efficientnet_lite, "_HEAD_FILTERS", HEAD_FILTERS)


@pytest.fixture
def make_request(sample_dataset_uri: str, small_network: None, tmp_path: Path) -> Make:
    keras.utils.set_random_seed(0)
    network = build_backbone("efficientnet_lite0", image_size=SETTINGS.image_size)
    weights_folder = tmp_path / "weights"
    weights_folder.mkdir()
    arrays = {
        name: weight.numpy()
        for name, weight in zip(stable_names(network), network.weights, strict=True)
    }
    save_weights(weights_folder / WEIGHTS_NAME, arrays)

    def make(run: Path) -> TrainingRequest:
        request = TrainingRequest(
            dataset_uri=sample_dataset_uri,
            weights_uri=str(weights_folder),
            run_uri=str(run),
            training_id="t",
            checkpoint_id="c",
            settings=SETTINGS,
        )
        write_record(request.uri, request)
        return request

    return make


def start(
    request: TrainingRequest, num_workers: int = 1, *, pace: float = 0.0, program: str = ""
) -> list[subprocess.Popen[bytes]]:
    addresses = [f"localhost:{free_port()}" for _ in range(num_workers)] if num_workers > 1 else []
    command = [sys.executable, "-P", "-c", WORKER, request.uri, str(pace), program]
    return [
        subprocess.Popen(
            command,
            env={
                **os.environ,
                "JOB_COMPLETION_INDEX": str(index),
                "REPOT_WORKERS": ",".join(addresses),
                "REPOT_EVENTS": f"{request.run_uri}/events-{index}.jsonl",
                "CUDA_VISIBLE_DEVICES": "",
            },
        )
        for index in range(num_workers)
    ]


def finish(workers: list[subprocess.Popen[bytes]]) -> list[int]:
    deadline = time.monotonic() + WAIT_SECONDS
    try:
        return [worker.wait(deadline - time.monotonic()) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()


def wait_for_step(
    request: TrainingRequest, epoch: str, step: int, workers: list[subprocess.Popen[bytes]]
) -> None:
    """Wait until worker 0 has finished a step of an epoch, e.g. `fine_tune epoch 2/3`."""
    events, deadline = Path(request.run_uri) / "events-0.jsonl", time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        assert all(worker.poll() is None for worker in workers)
        lines = events.read_text().splitlines(keepends=True) if events.exists() else []
        notes = [json.loads(line).get("note", "") for line in lines if line.endswith("\n")]
        if len([note for note in notes if note.startswith(epoch)]) >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"no step {step} of {epoch}")


def weights(request: TrainingRequest) -> list[Any]:
    model = keras.models.load_model(f"{request.run_uri}/model/model.keras", compile=False)
    return [weight.numpy() for weight in model.weights]


def history(request: TrainingRequest) -> list[EpochRecord]:
    """Return the epochs without their durations."""
    epochs = read_history(request.run_uri)
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in epochs]


def saved_position(request: TrainingRequest) -> TrainingPosition:
    return read_record(f"{request.run_uri}/state/latest.json", SavedState).position


def stored_features(request: TrainingRequest) -> dict[tuple[str, bytes], bytes]:
    """Return every stored vector by the folder of its view and the digest of its picture."""
    found = {}
    for path in Path(request.features_uri).rglob("*.digests"):
        digests, vectors = path.read_bytes(), path.with_suffix(".vectors").read_bytes()
        size = len(vectors) * 32 // len(digests)
        for i in range(len(digests) // 32):
            digest = digests[32 * i : 32 * i + 32]
            assert (path.parent.name, digest) not in found
            found[path.parent.name, digest] = vectors[size * i : size * i + size]
    assert len(found) == 3 * 92
    return found


def assert_same_results(whole: TrainingRequest, resumed: TrainingRequest) -> None:
    pairs = list(zip(weights(whole), weights(resumed), strict=True))
    assert len(pairs) > 50
    for expected, found in pairs:
        np.testing.assert_array_equal(found, expected)
    assert history(resumed) == history(whole)


def test_worker_terminated_within_an_epoch_resumes_at_the_same_step(
    make_request: Make, tmp_path: Path
) -> None:
    whole, stopped = make_request(tmp_path / "whole"), make_request(tmp_path / "stopped")
    with Heartbeat(whole.heartbeat_uri), Heartbeat(stopped.heartbeat_uri):
        assert finish(start(whole)) == [0]
        workers = start(stopped, pace=SLOW)
        wait_for_step(stopped, "fine_tune epoch 2/3", 3, workers)
        sent = time.monotonic()
        workers[0].send_signal(signal.SIGTERM)
        assert finish(workers) == [75]
        assert time.monotonic() - sent < 10
        position = saved_position(stopped)
        assert (position.phase, position.epoch) == ("fine_tune", 1)
        assert 3 <= position.num_steps <= 12
        assert finish(start(stopped)) == [0]

    assert_same_results(whole, stopped)


def test_two_workers_with_one_killed_and_one_terminated_end_like_two_uninterrupted_ones(
    make_request: Make, tmp_path: Path
) -> None:
    whole, stopped = make_request(tmp_path / "whole"), make_request(tmp_path / "stopped")
    with Heartbeat(whole.heartbeat_uri), Heartbeat(stopped.heartbeat_uri):
        assert finish(start(whole, 2)) == [0, 0]

        workers = start(stopped, 2, pace=SLOW)
        wait_for_step(stopped, "fine_tune epoch 2/3", 3, workers)
        workers[0].kill()
        assert finish(workers) == [-signal.SIGKILL, 75]
        position = saved_position(stopped)
        assert (position.epoch, position.num_steps) == (1, 0)

        workers = start(stopped, 2, pace=SLOW)
        wait_for_step(stopped, "fine_tune epoch 3/3", 3, workers)
        workers[1].send_signal(signal.SIGTERM)
        assert finish(workers) == [75, 75]
        position = saved_position(stopped)
        assert position.epoch == 2
        assert position.num_steps >= 3

        assert finish(start(stopped, 2)) == [0, 0]

    assert_same_results(whole, stopped)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # nine processes train
def test_auto_on_workers_that_are_killed_ends_like_on_uninterrupted_ones(
    make_request: Make, tmp_path: Path
) -> None:
    def auto(name: str, budget: str = "10h") -> TrainingRequest:
        request = make_request(tmp_path / name)
        settings = dataclasses.replace(SETTINGS, recipe="auto", epochs=0, budget=budget)
        request = dataclasses.replace(
            request, settings=settings, features_uri=str(tmp_path / f"{name}-features")
        )
        write_record(request.uri, request)
        return request

    head, whole, killed = auto("head", "0"), auto("whole"), auto("killed")
    with Heartbeat(head.heartbeat_uri), Heartbeat(whole.heartbeat_uri):
        assert finish(start(head, program=SMALL_PARTS)) == [0]
        assert finish(start(whole, 2, program=SMALL_PARTS)) == [0, 0]
    with Heartbeat(killed.heartbeat_uri):
        workers = start(killed, 2, program=SMALL_PARTS + KILL_IN_FEATURES)
        assert finish(workers) == [75, -signal.SIGKILL]
        program = f"{SMALL_PARTS}PHASE = 'auto_trial'{KILL_IN_PHASE}"
        assert finish(start(killed, 2, program=program)) == [-signal.SIGKILL, 75]
        assert finish(start(killed, 2, program=SMALL_PARTS)) == [0, 0]

    assert history(killed) == history(whole)
    phases = [each.phase for each in history(whole)]
    assert phases[:3] == ["head", "auto_trial", "auto_trial"]
    assert set(phases[3:]) == {"fine_tune"}
    records = [
        read_record(f"{request.run_uri}/training.json", TrainingRecord)
        for request in (head, whole, killed)
    ]
    on_one, on_two, resumed = (record.selection for record in records)
    assert on_one is not None
    assert on_two is not None
    assert on_two == resumed
    assert on_two.fine_tuning.startswith("kept, ")
    # The features, and so the heads on them, do not depend on the number of workers.
    found = on_two.candidates[: len(on_one.candidates)]
    assert [dataclasses.replace(each, is_chosen=False) for each in on_one.candidates] == list(found)
    assert stored_features(head) == stored_features(whole) == stored_features(killed)
    pairs = list(zip(weights(whole), weights(killed), strict=True))
    assert len(pairs) > 50
    for expected, same in pairs:
        np.testing.assert_array_equal(same, expected)


def test_long_epoch_is_saved_while_it_runs(
    make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    saved: list[tuple[str, int, int]] = []
    save = StateStore.save

    def save_and_note(store: StateStore, position: TrainingPosition, *variables: Any) -> None:
        save(store, position, *variables)
        saved.append((position.phase, position.epoch, position.num_steps))

    monkeypatch.setattr(StateStore, "save", save_and_note)
    request = make_request(tmp_path / "run")

    def is_second_epoch() -> bool:
        return ("fine_tune", 1, 1) in saved

    with pytest.raises(StoppedError, match="saved its state"):
        train(request, should_stop=is_second_epoch)

    # The head's steps are all taken in one call; those of the whole network one by one. A tenth of
    # the pictures is held out for the calibration.
    steps = [step for phase, epoch, step in saved if phase == "fine_tune" and epoch == 0]
    assert steps == list(range(1, 12))
    assert saved_position(request).num_steps == saved[-1][2]
    # Only the variables of the last save are kept.
    assert len(list((Path(request.run_uri) / "state").glob("fine_tune-*.npz"))) == 1
