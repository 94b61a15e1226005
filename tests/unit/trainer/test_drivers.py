"""The phases that each recipe runs, on a training whose steps are not taken."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tensorflow as tf

from repot.classifier import build_classifier
from repot.dataset import Examples
from repot.json_record import read_record
from repot.label_suspects import LabelSuspects
from repot.recipes import RECIPES
from repot.settings import TrainingSettings
from repot.trainer import drivers
from repot.trainer.batches import FeatureTable, Pictures
from repot.trainer.drivers import Trainee, run_recipe
from repot.trainer.features import FeatureReader
from repot.trainer.loop import TrainingRun
from repot.trainer.phases import TrainingPhase
from repot.trainer.position import TrainingPosition
from repot.trainer.state import StateStore

TABLE = FeatureTable(
    features=np.eye(10, 1280, dtype=np.float32),
    labels=np.arange(10) % 2 + 1,
    digests=np.array([bytes([65 + i]) * 32 for i in range(10)], "S32"),
)
FEATURES = cast(FeatureReader, SimpleNamespace(read=lambda split: [TABLE]))
HEAD, FINE_TUNE = RECIPES["head"], RECIPES["fine_tune"]


@pytest.fixture(scope="module")
def classifier() -> Any:
    return build_classifier("mobilenet_v2", num_classes=3, image_size=32, seed=0)


@pytest.fixture
def run_phases(classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a recipe without its steps, and returns its phases."""
    pictures = Pictures(
        examples=cast(Examples, range(10)),  # only their number matters
        image_size=32,
        batch_size=4,
        shuffle_buffer=1,
        seed=0,
    )

    def run(**settings: Any) -> list[tuple[TrainingPhase, int]]:
        fitted = []
        monkeypatch.setattr(
            drivers,
            "fit",
            lambda phase, training, *, later_steps=0: fitted.append((phase, later_steps)),
        )
        trainee = Trainee(
            classifier=classifier,
            weights_path=Path(),
            pictures={"train": pictures, "validation": pictures},
            features=FEATURES,
            settings=TrainingSettings(**{"backbone": "mobilenet_v2", "batch_size": 4, **settings}),
        )
        training = TrainingRun(
            strategy=tf.distribute.get_strategy(),
            position=TrainingPosition(),
            store=StateStore(str(tmp_path), "t"),
            started=0.0,
            should_stop=lambda: False,
        )
        trained = run_recipe(trainee, training)
        assert trained.model.get_layer("rescale") is classifier.get_layer("rescale")
        assert trained.selection is None
        return fitted

    return run


def test_head_recipe_trains_only_the_head(run_phases: Any) -> None:
    ((head, later_steps),) = run_phases(recipe="head")

    assert (head.name, head.epochs, head.learning_rate) == (
        "head",
        HEAD.head_epochs,
        HEAD.head_learning_rate,
    )
    assert [variable.name for variable in head.model.trainable_variables] == ["kernel", "bias"]
    assert later_steps == 0


@pytest.mark.parametrize("recipe", ["head", "fine_tune"])
def test_labels_are_judged_before_the_head_is_trained(
    recipe: str, run_phases: Any, tmp_path: Path
) -> None:
    run_phases(recipe=recipe)

    found = read_record(str(tmp_path / "state" / "suspects.json"), LabelSuspects)
    assert (found.num_examples, found.num_judged) == (10, 10)


def test_fine_tune_recipe_trains_the_head_and_then_the_whole_network(
    run_phases: Any, classifier: Any
) -> None:
    (head, later_steps), (fine_tune, no_later_steps) = run_phases(recipe="fine_tune")

    assert (head.name, head.epochs) == ("head", FINE_TUNE.head_epochs)
    assert (fine_tune.name, fine_tune.epochs) == ("fine_tune", FINE_TUNE.epochs)
    assert fine_tune.learning_rate == FINE_TUNE.learning_rate
    assert fine_tune.model is classifier
    # 10 examples in batches of 4: the last, partial batch counts as a step.
    assert (head.steps_per_epoch, fine_tune.num_steps) == (3, 3 * FINE_TUNE.epochs)
    assert (later_steps, no_later_steps) == (fine_tune.num_steps, 0)


def test_recipe_of_2016_trains_the_whole_network_in_one_phase(
    run_phases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(
        drivers, "inception_2016_phase", lambda classifier, **parts: made.append(parts)
    )

    ((phase, later_steps),) = run_phases(recipe="inception_2016", backbone="inception_v3")

    assert phase is None
    assert later_steps == 0
    (parts,) = made
    assert set(parts) == {"pictures", "settings", "weights_path", "augment", "num_parts"}


@pytest.mark.parametrize("recipe", ["head", "fine_tune"])
def test_settings_change_only_the_last_phase_of_a_recipe(recipe: str, run_phases: Any) -> None:
    default = [phase for phase, _ in run_phases(recipe=recipe)]

    phases = [phase for phase, _ in run_phases(recipe=recipe, epochs=7, learning_rate=0.25)]

    assert [(phase.epochs, phase.learning_rate) for phase in phases[:-1]] == [
        (phase.epochs, phase.learning_rate) for phase in default[:-1]
    ]
    assert (phases[-1].epochs, phases[-1].learning_rate) == (7, 0.25)
    optimizer = phases[-1].optimizer(0.5)
    optimizer.build([])
    optimizer.iterations.assign(phases[-1].steps_per_epoch)  # the end of the warm-up
    assert float(optimizer.learning_rate) == pytest.approx(0.125)


@pytest.mark.parametrize(("num_examples", "expected"), [(3, 1), (4, 1), (5, 2)])
def test_last_partial_batch_counts_as_a_step(num_examples: int, expected: int) -> None:
    pictures = Pictures(
        examples=cast(Examples, range(num_examples)),
        image_size=32,
        batch_size=4,
        shuffle_buffer=1,
        seed=0,
    )
    trainee = Trainee(
        classifier=None,
        weights_path=Path(),
        pictures={"train": pictures},
        features=FEATURES,
        settings=TrainingSettings(batch_size=4),
    )

    assert trainee.steps_per_epoch == expected
