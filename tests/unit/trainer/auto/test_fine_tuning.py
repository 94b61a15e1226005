import dataclasses
import hashlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from repot.augmentation import NUM_DRAWS, TrainingPictures, mixup
from repot.classifier import build_classifier, feature_network, normalise_features
from repot.dataset import open_examples
from repot.manifest import read_manifest
from repot.model_spec import ModelCalibration
from repot.preprocessing import decode_jpeg, view_picture
from repot.selection_record import CandidateRecord, ForecastRecord
from repot.settings import TrainingSettings
from repot.trainer.auto import plan as plans
from repot.trainer.auto.averages import KeptStates, average_greedily
from repot.trainer.auto.fine_tuning import FineTuningDecision, _fit_trial_head, is_better
from repot.trainer.auto.heads import class_weights, mean_recall
from repot.trainer.auto.network import (
    LAYER_DECAY,
    FineTuning,
    Scorer,
    _loss,
    _multiplier,
    _outputs,
)
from repot.trainer.auto.plan import plan_fine_tuning
from repot.trainer.auto.selection import CANDIDATES, TrainingFeatures
from repot.trainer.auto.train_auto import LARGE_DATASET, _augmentation, _mixes
from repot.trainer.batches import Pictures
from repot.trainer.state import StateStore

SIZE = 32


class FixedExamples:
    """As many examples as its length; they are not read."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __len__(self) -> int:
        return self._number


def make_pictures(number: int, **changes: Any) -> Pictures:
    examples: Any = FixedExamples(number)
    return Pictures(
        examples=examples, image_size=SIZE, batch_size=8, shuffle_buffer=8, seed=0, **changes
    )


@pytest.fixture(scope="module")
def classifier() -> Any:
    return build_classifier("mobilenet_v2", num_classes=4, image_size=SIZE, seed=0)


@pytest.fixture(scope="module")
def network(classifier: Any) -> Any:
    return feature_network(classifier, use_depths=True)


@pytest.mark.parametrize(
    ("number", "budget", "reason"),
    [
        (100, 0, "the budget is 0"),
        (29, 3600, "29 training pictures are fewer than 10 per label"),
        (10**9, 1, "more than the budget"),
    ],
)
def test_plan_states_why_fine_tuning_is_not_tried(
    network: Any, number: int, budget: int, reason: str
) -> None:
    plan = plan_fine_tuning(network, make_pictures(number), num_labels=3, budget_seconds=budget)

    assert plan.epochs == 0
    assert plan.reason.startswith("not tried: ")
    assert reason in plan.reason


def test_plan_has_as_many_epochs_as_the_budget_allows(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "_seconds_per_picture", lambda network: 0.01)
    # An epoch takes 5.6 forward passes of 100 pictures, 5.6 s; scoring the selection part in three
    # views takes .6 s, with each of four averages.
    epochs = [
        plan_fine_tuning(network, make_pictures(100), num_labels=3, budget_seconds=budget).epochs
        for budget in (19, 20, 25, 3600)
    ]

    assert epochs == [0, 3, 4, plans.MAX_EPOCHS]


def test_devices_share_the_time_and_add_that_of_their_exchange(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "_seconds_per_picture", lambda network: 0.01)

    def plan(num_replicas: int, exchange_seconds: float) -> plans.FineTuningPlan:
        return plan_fine_tuning(
            network,
            make_pictures(96),
            num_labels=3,
            budget_seconds=18,
            num_replicas=num_replicas,
            exchange_seconds=exchange_seconds,
        )

    # 5.38 s of computing per epoch, and 21.6 steps of 8 pictures; 2.3 s at the end.
    assert [plan(1, 0).epochs, plan(4, 0).epochs, plan(4, 0.1).epochs] == [0, 8, 4]
    assert plan(4, 0.1).reason.endswith("in all on 4 devices")
    assert "more than the budget" in plan(4, 1).reason


def test_selection_part_of_many_pictures_is_bounded() -> None:
    assert plans.selection_share(500) == 0.2
    assert plans.selection_share(1_000_000) * 1_000_000 == plans.MAX_SELECTED


@pytest.mark.parametrize(
    ("num_better", "num_worse", "weight", "expected"),
    [
        (0, 0, 1, False),
        (1, 0, 1, False),
        (2, 0, 1, True),
        (6, 3, 1, False),
        (7, 3, 1, True),
        (3, 7, 1, False),
        # The worse ones are of a small label.
        (7, 3, 2, False),
        (3, 7, 0.1, True),
    ],
)
def test_fine_tuning_is_better_by_more_than_a_standard_error(
    num_better: int, num_worse: int, weight: float, expected: bool
) -> None:
    gains = np.array([1.0] * num_better + [-weight] * num_worse + [0.0] * 5)

    assert is_better(gains) == expected


def test_deeper_layers_have_higher_learning_rates(classifier: Any) -> None:
    (backbone,) = [each for each in classifier.layers if isinstance(each, keras.Model)]
    multiplier = _multiplier(backbone)

    factors = [multiplier(variable) for variable in backbone.trainable_variables]

    assert factors == sorted(factors)
    assert len(set(factors)) == 4
    assert factors[0] == pytest.approx(LAYER_DECAY**10.5)
    assert multiplier(classifier.get_layer("logits").kernel) == 1


def test_layers_within_a_layer_have_learning_rates_of_their_own() -> None:
    # As in a network of KerasHub.
    inner = keras.Sequential([keras.Input([3]), *(keras.layers.Dense(3) for _ in range(8))])
    inputs = keras.Input([3])
    backbone = keras.Model(inputs, inner(inputs))
    multiplier = _multiplier(backbone)

    factors = [multiplier(variable) for variable in backbone.trainable_variables]

    assert factors == sorted(factors)
    assert len(set(factors)) == 4


def test_part_of_the_pictures_is_read_by_number() -> None:
    pictures = make_pictures(20, only=np.array([3, 5, 7]))

    assert pictures.num_examples == 3


def test_augmentation_of_fine_tuning_is_the_setting_or_suits_the_size() -> None:
    settings = TrainingSettings(recipe="auto", budget="1h")

    assert _augmentation(settings, LARGE_DATASET - 1) == "light"
    assert _augmentation(settings, LARGE_DATASET) == "randaugment"
    assert [_mixes(settings, LARGE_DATASET - change) for change in (1, 0)] == [False, True]
    chosen = TrainingSettings(recipe="auto", budget="1h", augmentation="flip")
    assert _augmentation(chosen, LARGE_DATASET) == "flip"
    assert not _mixes(chosen, LARGE_DATASET)
    assert chosen.warnings == ()
    assert TrainingSettings(recipe="auto", budget="0", augmentation="flip").warnings


@pytest.mark.parametrize(
    ("is_chosen", "epochs", "share", "start"),
    [
        (False, (4,), 1.0, "tried and not kept: of 80"),
        (True, (4,), 1.0, "kept, with the state after epoch 4: of 80"),
        (True, (5, 3), 0.5, "kept, with the mean of the states after epoch 3, 5, averaged with 50"),
    ],
)
def test_decision_states_both_counts(
    is_chosen: bool, epochs: tuple[int, ...], share: float, start: str
) -> None:
    row = CandidateRecord(name="a", precision_at_1=0.5, mean_recall=0.5, loss=1.0, is_chosen=False)
    decision = FineTuningDecision(
        is_chosen=is_chosen,
        epochs=epochs,
        share=share,
        temperature=1.0,
        num_correct_before=60,
        num_correct=66,
        num_examples=80,
        candidates=(row, row),
        forecast=ForecastRecord(precision_at_1=0.8, low=0.7, high=0.9, num_examples=0),
        calibration=ModelCalibration(
            method="a",
            num_examples=80,
            error_before=0.1,
            error_after=0.05,
            coverage=0.9,
            set_threshold=0.2,
            mean_set_size=1.5,
            unlike_rate=0.05,
        ),
        unlike_threshold=0.3,
    )

    assert decision.text.startswith(start)
    assert "of 80 pictures" in decision.text
    assert FineTuningDecision.from_text(decision.to_text()) == decision


def test_states_are_averaged_only_while_the_average_does_not_get_worse() -> None:
    # The loss is the distance to 3: the mean of 2 and 4 is better, that of 2, 4 and 9 is not, and
    # that of 2, 4 and 3 is equal.
    states = {1: 2.0, 2: 4.0, 3: 9.0, 4: 3.0}

    chosen, average, loss = average_greedily(
        [1, 2, 3, 4],
        lambda epoch: [np.array([states[epoch]]), np.array([0.0])],
        lambda values: abs(float(values[0][0]) - 3),
    )

    assert chosen == [1, 2, 4]
    assert [values.tolist() for values in average] == [[3.0], [0.0]]
    assert loss == 0


def test_scores_are_those_of_the_features_averaged_over_views(
    network: Any, sample_dataset_uri: str
) -> None:
    numbers = np.array([70, 2, 5])
    (candidate,) = [each for each in CANDIDATES if len(each.views) == 3 and each.use_depths]
    with open_examples(sample_dataset_uri, read_manifest(sample_dataset_uri)) as examples:
        pictures = dataclasses.replace(make_pictures(92), examples=examples["train"])
        work: Any = SimpleNamespace(
            network=network,
            candidate=candidate,
            pictures={"train": pictures},
            run=SimpleNamespace(strategy=tf.distribute.get_strategy()),
        )
        found = Scorer(work).score(numbers, lambda rows: 2 * rows)
        decoded = [decode_jpeg(each["encoded"]) for each in examples["train"].read(numbers)]

    features = []
    for view in candidate.views:
        batch = tf.stack([view_picture(picture, SIZE, view) for picture in decoded])
        features.append(np.concatenate(network.model(batch, training=False), axis=1))
    expected = 2 * normalise_features(np.mean(features, axis=0), network.sizes)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_best_states_are_kept_also_if_an_epoch_is_repeated(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1, use_bias=False)])
    store = StateStore(str(tmp_path), "t")

    def keep(epoch: int, score: float) -> list[int]:
        states = KeptStates(store, "trial", model, most=2)
        model.layers[0].kernel.assign([[float(epoch)]])
        states.keep(epoch, score)
        return states.best_first()

    assert [keep(1, 0.5), keep(2, 0.1), keep(3, 0.9)] == [[1], [1, 2], [3, 1]]
    # The training was killed before it could save epoch 3.
    assert keep(3, 0.9) == [3, 1]
    assert keep(4, 0.5) == [3, 1]  # of equal scores, the earliest counts
    states = KeptStates(store, "trial", model, most=2)
    assert [float(states.read(epoch)[0][0, 0]) for epoch in states.best_first()] == [3, 1]
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "trial-00001.npz",
        "trial-00003.npz",
        "trial-states.json",
    ]


def test_blended_pictures_have_blended_labels() -> None:
    layers = [keras.Input([2, 2, 3]), keras.layers.Flatten(), keras.layers.Dense(4)]
    model = keras.Sequential(layers)
    pixels = np.random.default_rng(0).integers(0, 256, [4, 2, 2, 3]).astype(np.uint8)
    draws = np.random.default_rng(1).uniform(0.2, 0.8, [4, NUM_DRAWS]).astype(np.float32)
    pixels[3] = draws[3] = 0  # padding
    inputs = TrainingPictures(tf.constant(pixels), tf.constant(draws))
    labels, mask = tf.constant([1, 2, 3, 0]), tf.constant([1.0, 1.0, 1.0, 0.0])
    work: Any = FineTuning(
        classifier=None,
        network=None,  # type: ignore[arg-type]
        candidate=None,  # type: ignore[arg-type]
        weights_path=Path(),
        pictures={},
        augmentation="none",
        flip=False,
        mixes=True,
        class_weights=np.ones(3),
        run=None,  # type: ignore[arg-type]
    )

    outputs = _outputs(work, model, inputs, True)
    losses = _loss(outputs, labels, work.class_weights)

    smoothed = 0.9 * tf.one_hot(labels - 1, 3) + 0.1 / 3
    mixed, targets = mixup(tf.constant(pixels, tf.float32) / 255, smoothed, mask, inputs.draws)
    assert np.any(np.abs(mixed - pixels / 255) > 0.01)
    expected = tf.nn.softmax_cross_entropy_with_logits(targets, model(mixed)[:, 1:])
    np.testing.assert_allclose(losses[:3], expected[:3], rtol=1e-5)
    np.testing.assert_allclose(mixed[2], pixels[2] / 255, atol=1e-6)  # its neighbour is padding
    assert len(_outputs(work, model, mixed, False)) == 1


def test_pictures_of_small_classes_count_more_when_the_network_is_trained() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    labels, shares = tf.constant([1, 2, 3]), np.array([[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1.0]])
    plain = _loss((tf.constant(logits),), labels, np.ones(3))

    weighted = _loss((tf.constant(logits),), labels, np.array([0.5, 1.0, 4.0]))
    blended = _loss(
        (tf.constant(logits), tf.constant(shares, tf.float32)), labels, np.array([0.5, 1.0, 4.0])
    )

    np.testing.assert_allclose(weighted, plain * np.array([0.5, 1.0, 4.0]), rtol=1e-5)
    as_second = _loss((tf.constant(logits[:1]),), tf.constant([2]), np.ones(3))
    assert float(blended[0]) == pytest.approx(
        0.75 * 0.5 * float(plain[0]) + 0.25 * 1.0 * float(as_second[0]), rel=1e-5
    )


def test_trial_of_fine_tuning_starts_from_a_head_with_the_chosen_class_weights() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], [180, 20])
    table = np.abs(rng.normal(size=(200, 6)))
    table[:, 0] += classes
    tables: Any = {"central": table.astype(np.float32)}
    features = TrainingFeatures(
        tables=tables,
        sizes=(6,),
        classes=classes,
        digests=np.array([hashlib.sha256(bytes([i])).digest() for i in range(200)], "S32"),
        num_classes=2,
    )
    (candidate,) = [each for each in CANDIDATES if each.views == ("central",)]

    def mean_recall_of_head(exponent: float) -> float:
        work: Any = SimpleNamespace(
            candidate=candidate, class_weights=class_weights(classes, 2, exponent)
        )
        with np.load(io.BytesIO(_fit_trial_head(work, features, 1e-3))) as stored:
            return mean_recall(stored["logits"], stored["classes"])

    assert mean_recall_of_head(1.0) > mean_recall_of_head(0.0) + 0.1
