"""The training loop on a small linear model: interruptions at any step change no result."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from repot.errors import StoppedError, TrainingError
from repot.trainer import loop
from repot.trainer.batches import FeatureTable, feature_batches
from repot.trainer.loop import fit
from repot.trainer.phases import TrainingPhase
from repot.trainer.position import TrainingPosition
from repot.trainer.state import StateStore
from tests.unit.trainer.stop_after import StopAfter

BATCH_SIZE, NUM_EXAMPLES, EPOCHS = 4, 10, 2
STEPS_PER_EPOCH = 3


def make_phases(*, save_interval: int = 1, scale: float = 1.0) -> list[TrainingPhase]:
    """Return two phases that train one linear model with seeded weights."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(4)])
    rng = np.random.default_rng(0)
    features = scale * rng.normal(size=(NUM_EXAMPLES, 3)).astype(np.float32)
    table = FeatureTable(features=features, labels=rng.integers(1, 4, NUM_EXAMPLES))
    return [
        TrainingPhase(
            name=name,
            model=model,
            logits=lambda inputs, training: model(inputs, training=training),
            epochs=EPOCHS,
            learning_rate=0.1,
            save_interval=save_interval,
            reports_steps=True,
            num_examples=NUM_EXAMPLES,
            batch_size=BATCH_SIZE,
            train_batches=lambda epoch, skip: feature_batches(
                table, BATCH_SIZE, seed=epoch, skip=skip
            ),
            validation_batches=lambda: feature_batches(table, BATCH_SIZE),
        )
        for name in ("head", "fine_tune")
    ]


def run(
    folder: Path, should_stop: Callable[[], bool], phases: list[TrainingPhase] | None = None
) -> tuple[Any, TrainingPosition]:
    """Start a training in a folder; return its kernel and its position."""
    phases = phases or make_phases()
    store = StateStore(str(folder), "t")
    position = store.load()
    fit(
        phases,
        strategy=tf.distribute.get_strategy(),
        position=position,
        store=store,
        started=0.0,
        should_stop=should_stop,
    )
    return phases[-1].model.weights[0].numpy(), position


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, TrainingPosition]:
    return run(tmp_path_factory.mktemp("uninterrupted"), StopAfter())


def scores(position: TrainingPosition) -> list[dict[str, Any]]:
    return [dataclasses.replace(epoch, seconds=0.0).to_json() for epoch in position.history]


# Within an epoch, at its end, at the end of a phase, and before the very last step.
@pytest.mark.parametrize("num_steps", [1, 3, 6, 8, 11])
def test_training_stopped_at_any_step_resumes_bit_identically(
    num_steps: int, uninterrupted: tuple[Any, TrainingPosition], tmp_path: Path
) -> None:
    with pytest.raises(StoppedError, match="saved its state"):
        run(tmp_path, StopAfter(num_steps - 1))
    rest = StopAfter()

    kernel, position = run(tmp_path, rest)

    assert rest.num_calls == 2 * EPOCHS * STEPS_PER_EPOCH - num_steps
    np.testing.assert_array_equal(kernel, uninterrupted[0])
    assert scores(position) == scores(uninterrupted[1])


def test_finished_training_takes_no_further_step(tmp_path: Path) -> None:
    kernel, position = run(tmp_path, StopAfter())
    should_stop = StopAfter()

    same_kernel, same_position = run(tmp_path, should_stop)

    assert should_stop.num_calls == 0
    np.testing.assert_array_equal(same_kernel, kernel)
    assert same_position == position


def test_stop_error_names_phase_epoch_and_step(tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="phase fine_tune, epoch 2, after step 1 of 3"):
        run(tmp_path, StopAfter(3 * STEPS_PER_EPOCH))


def test_position_is_saved_at_the_interval_and_after_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = note_saves(monkeypatch)

    run(tmp_path, StopAfter(), make_phases(save_interval=3))

    assert saved == [("head", EPOCHS, 0), ("fine_tune", EPOCHS, 0)]


def test_long_epoch_is_saved_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = note_saves(monkeypatch)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)

    run(tmp_path, StopAfter(), make_phases())

    assert saved[:4] == [("head", 0, 1), ("head", 0, 2), ("head", 0, 3), ("head", 1, 0)]


def test_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"phase head, epoch 1, step 1, .*learning_rate=0\.1"):
        run(tmp_path, StopAfter(), make_phases(scale=np.nan))

    assert not (tmp_path / "state").exists()


def note_saves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Return a list that gets (phase, epoch, number of steps) at every save."""
    saved: list[tuple[str, int, int]] = []
    save = StateStore.save

    def save_and_note(
        store: StateStore, position: TrainingPosition, model: Any, optimizer: Any
    ) -> None:
        save(store, position, model, optimizer)
        saved.append((position.phase, position.epoch, position.num_steps))

    monkeypatch.setattr(StateStore, "save", save_and_note)
    return saved
