from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from repot.classifier import build_classifier, feature_network
from repot.settings import TrainingSettings
from repot.trainer.auto import fine_tuning
from repot.trainer.auto.fine_tuning import (
    LAYER_DECAY,
    FineTuningDecision,
    is_better,
    plan_fine_tuning,
)
from repot.trainer.auto.train_auto import MIN_RANDAUGMENT_PICTURES, _augmentation
from repot.trainer.batches import Pictures, Share

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
    ("number", "budget", "share", "reason"),
    [
        (100, 0, None, "budget=0"),
        (29, 3600, None, "29 training pictures are fewer than 10 per label"),
        (100, 3600, Share(worker=0, num_workers=2, num_replicas=1), "several workers"),
        (10**9, 1, None, "more than the budget"),
    ],
)
def test_plan_states_why_fine_tuning_is_not_tried(
    network: Any, number: int, budget: int, share: Share | None, reason: str
) -> None:
    pictures = make_pictures(number, share=share)

    plan = plan_fine_tuning(network, pictures, num_labels=3, budget_seconds=budget)

    assert plan.epochs == 0
    assert plan.reason.startswith("not tried: ")
    assert reason in plan.reason


def test_plan_has_as_many_epochs_as_the_budget_allows(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "_seconds_per_picture", lambda network: 0.01)
    # An epoch takes 5.6 forward passes of 100 pictures, 5.6 s.
    epochs = [
        plan_fine_tuning(network, make_pictures(100), num_labels=3, budget_seconds=budget).epochs
        for budget in (16, 17, 23, 3600)
    ]

    assert epochs == [0, 3, 4, fine_tuning.MAX_EPOCHS]


@pytest.mark.parametrize(
    ("gain", "num_changed", "expected"),
    [(0, 0, False), (1, 1, False), (2, 2, True), (3, 9, False), (4, 9, True), (-4, 9, False)],
)
def test_fine_tuning_is_better_by_more_than_a_standard_error(
    gain: int, num_changed: int, expected: bool
) -> None:
    assert is_better(gain, num_changed) == expected


def test_deeper_layers_have_higher_learning_rates(classifier: Any) -> None:
    (backbone,) = [each for each in classifier.layers if isinstance(each, keras.Model)]
    multiplier = fine_tuning._multiplier(backbone)

    factors = [multiplier(variable) for variable in backbone.trainable_variables]

    assert factors == sorted(factors)
    assert len(set(factors)) == 4
    assert factors[0] == pytest.approx(LAYER_DECAY**10.5)
    assert multiplier(classifier.get_layer("logits").kernel) == 1


def test_part_of_the_pictures_is_read_by_number() -> None:
    pictures = make_pictures(20, only=np.array([3, 5, 7]))

    assert pictures.num_examples == 3


def test_augmentation_of_fine_tuning_is_the_setting_or_suits_the_size() -> None:
    settings = TrainingSettings(recipe="auto", budget="1h")

    assert _augmentation(settings, MIN_RANDAUGMENT_PICTURES - 1) == "light"
    assert _augmentation(settings, MIN_RANDAUGMENT_PICTURES) == "randaugment"
    chosen = TrainingSettings(recipe="auto", budget="1h", augmentation="flip")
    assert _augmentation(chosen, 10) == "flip"
    assert chosen.warnings == ()
    assert TrainingSettings(recipe="auto", augmentation="flip").warnings


@pytest.mark.parametrize("is_chosen", [False, True])
def test_decision_states_both_counts(is_chosen: bool, tmp_path: Path) -> None:
    decision = FineTuningDecision(
        is_chosen=is_chosen,
        epochs=4,
        share=0.5,
        temperature=1.0,
        num_correct_before=60,
        num_correct=66,
        num_examples=80,
    )

    assert decision.text.startswith("kept, 4 epochs, 50%" if is_chosen else "tried and not kept")
    assert "of 80 pictures" in decision.text
    assert FineTuningDecision.from_text(decision.to_text()) == decision
