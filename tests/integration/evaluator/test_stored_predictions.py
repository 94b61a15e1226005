"""A model answers for a picture once: the evaluation and the gate use what is stored."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repot import layout
from repot.dataset import open_examples
from repot.errors import ModelError
from repot.evaluator import saliency, scoring
from repot.evaluator.evaluate import evaluate_run
from repot.evaluator.gate import decide
from repot.evaluator.scoring import ScoredSplit, score_split
from repot.evaluator.versions import promote
from repot.example_digests import join_digests
from repot.manifest import read_manifest
from repot.model_registry import ChampionChange
from repot.prediction_store import PredictionStore
from repot.predictor import Model, load_model
from repot.settings import GateSettings, TrainingSettings
from repot.trainer import run_training
from repot.trainer.answers import store_answers
from repot.trainer.request import TrainingRequest
from repot.trainer.train import train
from tests.integration.evaluator.colours import COLOURS, MakeRun, save_model, save_picture
from tests.integration.evaluator.conftest import build_dataset

TIME = "2026-11-27T14:05:00Z"


class Counter:
    """Counts the pictures that models compute answers for."""

    def __init__(self) -> None:
        self.num_pictures = 0

    def load(self, model_uri: str) -> Model:
        model = load_model(model_uri)

        def call(views: tuple[Any, ...]) -> tuple[Any, Any]:
            self.num_pictures += len(views[0])
            return model.call(views)

        return Model(labels=model.labels, spec=model.spec, call=call)

    def take(self) -> int:
        """Return the number since the last call."""
        number, self.num_pictures = self.num_pictures, 0
        return number


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Count the pictures of this test."""
    counter = Counter()
    monkeypatch.setattr(scoring, "load_model", counter.load)
    monkeypatch.setattr(saliency, "MAX_MAPS", 0)  # A map takes the model's answer again.
    return counter


@pytest.fixture
def model_uri(tmp_path: Path) -> str:
    save_model(tmp_path / "model", tuple(COLOURS), ("green", "red", "blue"))
    return str(tmp_path / "model")


def score(model_uri: str, dataset: Path | str, tmp_path: Path) -> ScoredSplit:
    return score_split(
        model_uri,
        str(dataset),
        subset="validation",
        with_logits=True,
        predictions_uri=str(tmp_path / "predictions"),
    )


def check_equal(scored: ScoredSplit, expected: ScoredSplit) -> None:
    assert scored.outcomes == expected.outcomes
    assert scored.mistakes == expected.mistakes
    np.testing.assert_array_equal(scored.logits, expected.logits)


def test_second_night_scores_only_new_pictures(
    make_run: MakeRun,
    storage_uri: str,
    pictures: Path,
    tmp_path: Path,
    counter: Counter,
) -> None:
    ids = {"storage_uri": storage_uri, "model_name": "m"}
    make_run("first")
    evaluate_run(**ids, dataset_id="colours", training_id="first")
    assert counter.take() == 12
    change = ChampionChange(version="first", action="promote", time=TIME)
    promote(storage_uri, "m", change, expected_champion="none")
    grown = tmp_path / "pictures"
    shutil.copytree(pictures, grown)
    save_picture(grown / "validation" / "red" / "new.jpg", "red", size=(77, 55))
    (grown / "validation" / "blue" / "blue_0.jpg").rename(grown / "validation" / "red" / "x.jpg")
    build_dataset(grown, Path(layout.dataset_uri(storage_uri, "grown")), validation_shards=2)
    make_run("second", colours=("red", "blue", "green"), dataset_id="grown")

    evaluate_run(**ids, dataset_id="grown", training_id="second")
    assert counter.take() == 13  # another model: all
    settings = GateSettings(min_precision=0.0)
    report = decide(
        **ids,
        dataset_id="grown",
        training_id="second",
        settings=settings,
        decided_at=TIME,
        request=None,
    )

    assert counter.take() == 1  # the champion: only the new picture, though another was relabelled
    assert report.verdict.champion is not None
    assert report.verdict.champion.num_examples == 13
    champion_uri = layout.model_uri(storage_uri, "m", "first")
    stored = score_split(
        champion_uri,
        layout.dataset_uri(storage_uri, "grown"),
        subset="validation",
        predictions_uri=layout.predictions_uri(storage_uri),
    )
    assert counter.take() == 0
    fresh = score_split(champion_uri, layout.dataset_uri(storage_uri, "grown"), subset="validation")
    assert stored.outcomes == fresh.outcomes


def test_known_answers_need_no_model(
    model_uri: str, dataset: Path, tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MAX_ANSWERS", 1)  # several tables of one batch
    monkeypatch.setattr(scoring, "BATCH_SIZE", 5)
    first = score(model_uri, dataset, tmp_path)
    assert counter.take() == 12
    monkeypatch.setattr(scoring, "load_model", None)

    check_equal(score(model_uri, dataset, tmp_path), first)


@pytest.mark.parametrize("suffix", [".vectors", ".digests"])
def test_damaged_part_is_computed_again(
    suffix: str, model_uri: str, dataset: Path, tmp_path: Path, counter: Counter
) -> None:
    first = score(model_uri, dataset, tmp_path)
    (path,) = (tmp_path / "predictions").rglob(f"*{suffix}")
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    counter.take()

    check_equal(score(model_uri, dataset, tmp_path), first)

    assert counter.take() == 12
    check_equal(score(model_uri, dataset, tmp_path), first)
    assert counter.take() == 0


def test_other_weights_have_other_answers(
    model_uri: str, dataset: Path, tmp_path: Path, counter: Counter
) -> None:
    first = score(model_uri, dataset, tmp_path)
    shutil.rmtree(model_uri)
    save_model(Path(model_uri), tuple(COLOURS), ("green", "blue", "red"))

    assert score(model_uri, dataset, tmp_path).outcomes != first.outcomes
    assert counter.take() == 24


def trainer_answers(model_uri: str, dataset: Path, tmp_path: Path) -> None:
    """Store answers as a trainer does."""
    manifest = read_manifest(str(dataset))
    with open_examples(str(dataset), manifest) as examples:
        store_answers(
            load_model(model_uri),
            examples,
            dataset_uri=str(dataset),
            manifest=manifest,
            model_uri=model_uri,
            predictions_uri=str(tmp_path / "predictions"),
        )


def test_answers_of_a_trainer_are_used_after_a_sample_was_verified(
    model_uri: str, dataset: Path, tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "SAMPLE_SIZE", 3)
    expected = score_split(model_uri, str(dataset), subset="validation", with_logits=True)
    counter.take()
    trainer_answers(model_uri, dataset, tmp_path)

    check_equal(score(model_uri, dataset, tmp_path), expected)
    assert counter.take() == 3
    check_equal(score(model_uri, dataset, tmp_path), expected)
    assert counter.take() == 0


def test_wrong_answers_of_a_trainer_are_computed_again(
    model_uri: str,
    dataset: Path,
    tmp_path: Path,
    counter: Counter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = score_split(model_uri, str(dataset), subset="validation", with_logits=True)
    store = PredictionStore(str(tmp_path / "predictions"), model_uri, num_labels=3, author="train")
    digests = join_digests(bytes.fromhex(outcome.digest) for outcome in expected.outcomes)
    store.add(digests, np.full([len(digests), 4], 0.25, np.float32))
    counter.take()

    check_equal(score(model_uri, dataset, tmp_path), expected)

    assert counter.take() == 24
    assert "the trainer's probabilities of 12 pictures differ" in caplog.text


def test_answer_that_is_not_finite_is_an_error(
    model_uri: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(uri: str) -> Model:
        model = load_model(uri)
        return Model(
            labels=model.labels,
            spec=model.spec,
            call=lambda views: (model.call(views)[0] * np.nan, model.call(views)[1]),
        )

    monkeypatch.setattr(scoring, "load_model", load)
    with pytest.raises(ModelError, match="must predict finite probabilities"):
        score(model_uri, dataset, tmp_path)


def test_trainer_on_a_gpu_stores_what_the_evaluation_would_compute(
    sample_dataset_uri: str,
    lite0_weights_uri: str,
    tmp_path: Path,
    counter: Counter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_training, "has_gpu", lambda: True)
    monkeypatch.setattr(scoring, "SAMPLE_SIZE", 2)
    train(
        TrainingRequest(
            dataset_uri=sample_dataset_uri,
            weights_uri=lite0_weights_uri,
            run_uri=str(tmp_path / "run"),
            training_id="t",
            checkpoint_id="c",
            settings=TrainingSettings(
                backbone="efficientnet_lite0", recipe="head", epochs=1, image_size=32
            ),
            predictions_uri=str(tmp_path / "predictions"),
        )
    )

    model_uri = str(tmp_path / "run" / "model")
    scored = score(model_uri, sample_dataset_uri, tmp_path)

    assert counter.take() == 2
    fresh = score_split(model_uri, sample_dataset_uri, subset="validation")
    assert [each.predicted for each in scored.outcomes] == [
        each.predicted for each in fresh.outcomes
    ]
    np.testing.assert_allclose(
        [each.probability for each in scored.outcomes],
        [each.probability for each in fresh.outcomes],
        atol=1e-5,
    )
