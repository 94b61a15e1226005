import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from repot.backbone_weights import save_weights, stable_names
from repot.errors import CheckpointError, DataError, StorageError, TrainingError, UsageError
from repot.json_record import write_record
from repot.manifest import read_manifest
from repot.settings import TrainingSettings
from repot.trainer import drivers, run_training
from repot.trainer.request import TrainingRequest
from repot.trainer.step import CallResult, StepOutOfMemoryError, StepRunner
from repot.trainer.train import train
from repot.zoo import build_backbone
from tests.training_records import make_training_record

SETTINGS = TrainingSettings(backbone="mobilenet_v2", recipe="head", epochs=2, image_size=32)
FINISHED = """
import sys
from repot.trainer.request import TrainingRequest
from repot.trainer.train import train
print(train(TrainingRequest.from_text(sys.argv[1])).labels, "tensorflow" in sys.modules)
"""


def make_request(dataset_uri: str, weights_uri: str, run: Path) -> TrainingRequest:
    return TrainingRequest(
        dataset_uri=dataset_uri,
        weights_uri=weights_uri,
        run_uri=str(run),
        training_id="t",
        checkpoint_id="c",
        settings=SETTINGS,
    )


def start(dataset_uri: str, weights_uri: str, run: Path) -> None:
    train(make_request(dataset_uri, weights_uri, run))


def test_finished_training_is_returned_without_importing_tensorflow(tmp_path: Path) -> None:
    write_record(f"{tmp_path}/training.json", make_training_record(labels=("a", "b")))
    request = make_request("/nowhere", "/nowhere", tmp_path)

    done = subprocess.run(
        [sys.executable, "-c", FINISHED, request.to_text()],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "('a', 'b') False\n"


def test_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    write_record(f"{tmp_path}/training.json", make_training_record(training_id="other"))

    with pytest.raises(UsageError, match=r"must hold one training.*Choose another folder"):
        start("/nowhere", "/nowhere", tmp_path)


def test_missing_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must have a manifest\.json"):
        start(str(tmp_path / "data"), "/nowhere", tmp_path / "run")


def test_dataset_without_training_pictures_is_refused(
    sample_dataset_uri: str, tmp_path: Path
) -> None:
    manifest = read_manifest(sample_dataset_uri)
    manifest = dataclasses.replace(manifest, shards=manifest.split_shards("validation"))
    write_record(f"{tmp_path}/manifest.json", manifest)

    with pytest.raises(DataError, match="must have a picture to train on"):
        start(str(tmp_path), "/nowhere", tmp_path / "run")


def test_weights_of_another_backbone_are_refused(
    sample_dataset_uri: str, lite0_weights_uri: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="must fit"):
        start(sample_dataset_uri, lite0_weights_uri, tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_loss_that_is_not_finite_names_the_step_and_the_learning_rate(
    sample_dataset_uri: str, tmp_path: Path
) -> None:
    backbone = build_backbone("mobilenet_v2", image_size=32)
    arrays = {
        name: weight.numpy()
        for name, weight in zip(stable_names(backbone), backbone.weights, strict=True)
    }
    arrays["Conv1/kernel"] *= np.nan
    save_weights(tmp_path / "weights.h5", arrays)

    with pytest.raises(
        TrainingError,
        match=r"must be finite.*phase head, epoch 1, step 1.*learning_rate=0\.003\. Try a",
    ):
        start(sample_dataset_uri, str(tmp_path), tmp_path / "run")

    assert not (tmp_path / "run" / "training.json").exists()


def test_training_goes_on_with_smaller_parts_after_the_memory_ran_out(
    sample_dataset_uri: str,
    lite0_weights_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = fail_for_large_parts(monkeypatch, num_parts_that_fit=4)
    request = make_request(sample_dataset_uri, lite0_weights_uri, tmp_path)
    request = dataclasses.replace(
        request,
        settings=TrainingSettings(
            backbone="efficientnet_lite0", recipe="head", image_size=32, epochs=2
        ),
    )

    record = train(request)

    assert record.epochs == 2
    # The heads for the calibration come first; each of their calls is an epoch.
    assert parts[:3] == [1, 2, 4]
    assert set(parts[3:]) == {4}
    messages = [entry.message for entry in caplog.records if "does not fit" in entry.message]
    assert ["gradient_accumulation=2" in message for message in messages] == [True, False]
    assert "with 16 examples at a time" in messages[1]


def test_model_of_another_run_that_finished_first_is_kept(
    sample_dataset_uri: str,
    lite0_weights_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = make_request(sample_dataset_uri, lite0_weights_uri, tmp_path)
    request = dataclasses.replace(
        request, settings=dataclasses.replace(SETTINGS, backbone="efficientnet_lite0")
    )
    other = make_training_record(training_id="t", seconds=7.0)
    run_recipe = drivers.run_recipe

    def run_beside_another(*arguments: Any) -> Any:
        trained = run_recipe(*arguments)
        write_record(f"{tmp_path}/training.json", other)
        return trained

    monkeypatch.setattr(run_training, "run_recipe", run_beside_another)

    assert train(request) == other
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "state").exists()


def test_failure_after_another_run_has_finished_the_training_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_training_record(training_id="t")

    def fail(request: TrainingRequest, **_: Any) -> Any:
        write_record(f"{tmp_path}/training.json", other)
        raise StorageError("a.npz is gone")

    monkeypatch.setattr(run_training, "run_training", fail)

    assert train(make_request("/nowhere", "/nowhere", tmp_path)) == other


def test_memory_that_does_not_suffice_for_one_example_ends_the_training(
    sample_dataset_uri: str,
    lite0_weights_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = fail_for_large_parts(monkeypatch, num_parts_that_fit=64)
    request = make_request(sample_dataset_uri, lite0_weights_uri, tmp_path)
    request = dataclasses.replace(
        request,
        settings=TrainingSettings(
            backbone="efficientnet_lite0", recipe="head", image_size=32, epochs=2, batch_size=4
        ),
    )

    with pytest.raises(tf.errors.ResourceExhaustedError):
        train(request)

    assert parts == [1, 2, 4]


def fail_for_large_parts(monkeypatch: pytest.MonkeyPatch, *, num_parts_that_fit: int) -> list[int]:
    """Let steps with fewer parts run out of memory; return a list of the parts of each call."""
    parts: list[int] = []
    take_steps = StepRunner.train_steps

    def fail_or_take_steps(runner: StepRunner, *arguments: Any, **options: Any) -> CallResult:
        parts.append(runner._computation.num_parts)
        if parts[-1] < num_parts_that_fit:
            raise StepOutOfMemoryError("too large") from tf.errors.ResourceExhaustedError(
                None, None, "OOM when allocating tensor"
            )
        return take_steps(runner, *arguments, **options)

    monkeypatch.setattr(StepRunner, "train_steps", fail_or_take_steps)
    return parts
