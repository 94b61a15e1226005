from pathlib import Path
from typing import Any, cast

import keras
import pytest

from repot.classifier import build_classifier
from repot.dataset import Examples
from repot.recipes import RECIPES
from repot.settings import TrainingSettings
from repot.trainer.batches import Pictures
from repot.trainer.phases import TrainingPhase, make_phases
from repot.trainer.position import TrainingPosition
from repot.trainer.state import StateStore

HEAD, FINE_TUNE = RECIPES["head"], RECIPES["fine_tune"]


@pytest.fixture(scope="module")
def classifier() -> Any:
    return build_classifier("mobilenet_v2", num_classes=3, image_size=32, seed=0)


def phases_of(classifier: Any, run: Path, **settings: Any) -> list[TrainingPhase]:
    """Return the phases at a position after the head phase, where no features are computed."""
    pictures = Pictures(
        examples=cast(Examples, range(10)),  # only their number matters
        image_size=32,
        batch_size=4,
        shuffle_buffer=1,
        seed=0,
        augmentation="inception",
    )
    return make_phases(
        classifier,
        {"train": pictures, "validation": pictures},
        TrainingSettings(backbone="mobilenet_v2", image_size=32, batch_size=4, **settings),
        position=TrainingPosition(phase="fine_tune"),
        store=StateStore(str(run), "t"),
        should_stop=lambda: False,
    )


def test_head_recipe_trains_only_the_head(classifier: Any, tmp_path: Path) -> None:
    (head,) = phases_of(classifier, tmp_path, recipe="head")

    assert (head.name, head.epochs, head.learning_rate) == (
        "head",
        HEAD.head_epochs,
        HEAD.head_learning_rate,
    )
    assert [variable.name for variable in head.model.trainable_variables] == ["kernel", "bias"]


def test_fine_tune_recipe_trains_the_head_and_then_the_whole_network(
    classifier: Any, tmp_path: Path
) -> None:
    head, fine_tune = phases_of(classifier, tmp_path, recipe="fine_tune")

    assert (head.name, head.epochs) == ("head", FINE_TUNE.head_epochs)
    assert (fine_tune.name, fine_tune.epochs) == ("fine_tune", FINE_TUNE.epochs)
    assert fine_tune.learning_rate == FINE_TUNE.learning_rate
    assert fine_tune.model is classifier


@pytest.mark.parametrize("recipe", ["head", "fine_tune"])
def test_settings_change_only_the_last_phase_of_a_recipe(
    recipe: str, classifier: Any, tmp_path: Path
) -> None:
    default = phases_of(classifier, tmp_path, recipe=recipe)

    phases = phases_of(classifier, tmp_path, recipe=recipe, epochs=7, learning_rate=0.25)

    assert [(phase.epochs, phase.learning_rate) for phase in phases[:-1]] == [
        (phase.epochs, phase.learning_rate) for phase in default[:-1]
    ]
    assert (phases[-1].epochs, phases[-1].learning_rate) == (7, 0.25)


@pytest.mark.parametrize(("num_examples", "expected"), [(3, 1), (4, 1), (5, 2)])
def test_last_partial_batch_counts_as_a_step(num_examples: int, expected: int) -> None:
    phase = TrainingPhase(
        name="head",
        model=keras.Sequential(),
        logits=lambda inputs, training: inputs,
        epochs=3,
        learning_rate=0.1,
        save_interval=1,
        reports_steps=False,
        num_examples=num_examples,
        batch_size=4,
        train_batches=lambda epoch, skip: None,
        validation_batches=lambda: None,
    )

    assert phase.steps_per_epoch == expected
    assert phase.num_steps == 3 * expected
