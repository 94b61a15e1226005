"""Recipe auto on the built-in sample: its score, its record, its files, and a resumed training."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from repot import efficientnet_lite
from repot.errors import ModelError
from repot.evaluator.evaluate import evaluate
from repot.json_record import read_record
from repot.model_spec import ModelSpec
from repot.predictor import load_model
from repot.settings import TrainingSettings
from repot.trainer.request import TrainingRequest
from repot.training_record import TrainingRecord
from tests.rebuilt_models import assert_rebuilt_exactly

TRAIN = """
import sys
from repot.trainer import train
from repot.trainer.request import TrainingRequest
request = TrainingRequest.from_text(sys.stdin.read())
train.train(request)
"""
# Kills itself once the decisions are stored, before the model is written.
KILLED = (
    """
import os, signal
from repot import quiet_tensorflow
quiet_tensorflow.import_tensorflow()
from repot.trainer.auto import train_auto
train_auto._add_to_history = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
"""
    + TRAIN
)


# Keeps fine-tuning, whatever it scores, after one epoch or more.
FINE_TUNED = """
from repot import quiet_tensorflow
quiet_tensorflow.import_tensorflow()
from repot.trainer.auto import fine_tuning, plan
plan.MAX_EPOCHS = plan.MIN_EPOCHS = fine_tuning.MIN_EPOCHS = 2
fine_tuning.is_better = lambda gains: True
"""
# Kills itself in the second epoch of a phase.
KILL_IN_PHASE = """
import os, signal
from repot.trainer import loop
finish_step = loop.TrainingPosition.finish_step
def finish_step_or_die(self, *arguments, **named):
    if self.phase == PHASE and self.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    finish_step(self, *arguments, **named)
loop.TrainingPosition.finish_step = finish_step_or_die
"""


def run(program: str, request: TrainingRequest) -> int:
    """Run a program in a process of its own, as a pod does, and return its exit code."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, input=request.to_text(), text=True, check=False).returncode


def make_request(
    dataset_uri: str, weights_uri: str, run_uri: Path, features: Path
) -> TrainingRequest:
    return TrainingRequest(
        dataset_uri=dataset_uri,
        weights_uri=weights_uri,
        run_uri=str(run_uri),
        features_uri=str(features),
        training_id="t",
        checkpoint_id="c",
        settings=TrainingSettings(backbone="efficientnet_lite0", recipe="auto", image_size=96),
    )


@pytest.fixture(scope="module")
def features_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of features that the trainings of this module share."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def trained(
    sample_dataset_uri: str,
    lite0_weights_uri: str,
    features_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return the folder of a finished training."""
    folder = tmp_path_factory.mktemp("auto")
    request = make_request(sample_dataset_uri, lite0_weights_uri, folder, features_folder)
    assert run(TRAIN, request) == 0
    return folder


def test_auto_selects_on_training_pictures_and_states_what_it_did(trained: Path) -> None:
    record = read_record(str(trained / "training.json"), TrainingRecord)

    assert record.selection is not None
    assert record.selection.num_examples == record.num_examples["train"]
    assert sum(each.is_chosen for each in record.selection.candidates) == 1
    assert record.selection.forecast.num_examples == record.num_examples["validation"]
    assert record.last_epoch.phase == "head"
    assert record.last_epoch.train_precision_at_1 > 0.9
    assert not (trained / "state").exists()


def test_score_of_auto_lies_in_its_forecast(
    trained: Path, sample_dataset_uri: str, tmp_path: Path
) -> None:
    record = read_record(str(trained / "training.json"), TrainingRecord)
    assert record.selection is not None

    evaluation = evaluate(str(trained / "model"), sample_dataset_uri, str(tmp_path))

    score = evaluation.precision_at_1
    assert score >= 0.7  # at 96 px
    assert record.selection.forecast.low <= score <= record.selection.forecast.high
    promise, coverage = evaluation.promise, evaluation.coverage_interval
    assert promise is not None
    assert coverage is not None
    assert coverage[0] <= promise.promised.coverage <= coverage[1]
    assert 0.9 < promise.mean_set_size < 3
    assert promise.num_unlike <= 0.2 * evaluation.num_examples
    assert promise.error_before != evaluation.calibration.error
    report = (tmp_path / "report.html").read_text()
    assert "labels in their prediction set" in report


def test_spec_of_the_model_has_the_chosen_views_and_the_temperature(trained: Path) -> None:
    record = read_record(str(trained / "training.json"), TrainingRecord)
    spec = read_record(str(trained / "model" / "model_spec.json"), ModelSpec)

    assert record.selection is not None
    assert spec.temperature == record.selection.temperature
    promised = spec.calibration
    assert promised is not None
    assert promised.method == "10-fold cross-validation on training pictures"
    assert promised.num_examples == record.num_examples["train"]
    assert (promised.coverage, promised.unlike_rate) == (0.9, 0.05)
    assert 0 < promised.set_threshold < 0.9
    assert promised.mean_set_size > 0.9
    (chosen,) = [each for each in record.selection.candidates if each.is_chosen]
    assert (len(spec.views) == 3) == chosen.name.startswith("three views")


def test_model_of_auto_is_rebuilt_exactly(trained: Path, tmp_path: Path) -> None:
    spec = read_record(str(trained / "model" / "model_spec.json"), ModelSpec)
    assert spec.network is not None
    assert spec.network.head == "normalised"
    assert spec.network.num_unlike_axes > 1

    assert_rebuilt_exactly(trained / "model", tmp_path / "copy")


def test_network_that_is_built_otherwise_than_in_the_training_is_refused(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a later Keras had another default, of which the file of weights says nothing."""
    uri = str(trained / "model")
    load_model(uri)
    spec = read_record(f"{uri}/model_spec.json", ModelSpec)
    assert spec.fingerprint is not None
    monkeypatch.setattr(efficientnet_lite, "_BN_EPSILON", 2e-3)  # 1e-3 in the training
    monkeypatch.setattr(keras, "__version__", "99.1")

    with pytest.raises(ModelError) as refused:
        load_model(uri)

    message = str(refused.value)
    versions = spec.fingerprint.versions
    assert f"{uri}/model.keras does not: for a fixed picture, " in message
    assert f"It was trained with keras {versions['keras']}, repot" in message
    assert "; here are keras 99.1, repot" in message


def test_training_that_is_killed_after_its_choice_ends_with_the_same_files(
    trained: Path,
    sample_dataset_uri: str,
    lite0_weights_uri: str,
    features_folder: Path,
    tmp_path: Path,
) -> None:
    request = make_request(sample_dataset_uri, lite0_weights_uri, tmp_path, features_folder)
    assert run(KILLED, request) == -signal.SIGKILL
    assert (tmp_path / "state" / "auto.json").exists()

    assert run(TRAIN, request) == 0

    for folder, _, names in os.walk(trained / "model"):
        for name in names:
            path = Path(folder, name).relative_to(trained)
            assert (tmp_path / path).read_bytes() == (trained / path).read_bytes(), path
    suspects = [folder / "suspects.json" for folder in (trained, tmp_path)]
    assert suspects[0].read_bytes() == suspects[1].read_bytes()
    first, second = (
        read_record(str(folder / "training.json"), TrainingRecord) for folder in (trained, tmp_path)
    )
    assert first.selection == second.selection


@pytest.mark.slow
@pytest.mark.timeout(1800)  # five processes train
def test_fine_tuning_that_is_killed_in_any_phase_ends_with_the_same_files(
    sample_dataset_uri: str, lite0_weights_uri: str, features_folder: Path, tmp_path: Path
) -> None:
    def request(name: str) -> TrainingRequest:
        plain = make_request(
            sample_dataset_uri, lite0_weights_uri, tmp_path / name, features_folder
        )
        return dataclasses.replace(
            plain, settings=dataclasses.replace(plain.settings, budget="10h", image_size=64)
        )

    assert run(FINE_TUNED + TRAIN, request("whole")) == 0
    for phase in ("auto_trial", "fine_tune"):
        program = f"{FINE_TUNED}PHASE = {phase!r}{KILL_IN_PHASE}{TRAIN}"
        assert run(program, request("killed")) == -signal.SIGKILL
    assert run(FINE_TUNED + TRAIN, request("killed")) == 0

    first, second = (
        read_record(str(tmp_path / name / "training.json"), TrainingRecord)
        for name in ("whole", "killed")
    )
    assert first.selection is not None
    assert first.selection == second.selection
    assert first.selection.fine_tuning.startswith("kept, ")
    assert [first.last_epoch.phase, second.last_epoch.phase] == ["fine_tune"] * 2
    for folder, _, names in os.walk(tmp_path / "whole" / "model"):
        for name in names:
            path = Path(folder, name).relative_to(tmp_path / "whole")
            assert (tmp_path / "killed" / path).read_bytes() == Path(folder, name).read_bytes(), (
                path
            )
    score = evaluate(
        str(tmp_path / "whole" / "model"), sample_dataset_uri, str(tmp_path / "evaluation")
    )
    assert score.precision_at_1 > 0.4  # after two epochs at 64 px; by chance .25
