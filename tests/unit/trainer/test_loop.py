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
from repot.trainer.loop import TrainingRun, _SpeedMeter, fit
from repot.trainer.optimizer import make_optimizer
from repot.trainer.phases import Selection, TrainingPhase
from repot.trainer.position import Sums, TrainingPosition
from repot.trainer.state import StateStore
from repot.trainer.step import CallResult, smoothed_cross_entropy
from repot.trainer.strategy import FLOAT32, Computation
from tests.unit.trainer.stop_after import StopAfter

BATCH_SIZE, NUM_EXAMPLES, EPOCHS = 4, 10, 2
STEPS_PER_EPOCH = 3


def make_phases(*, scale: float = 1.0, **changes: Any) -> list[TrainingPhase]:
    """Return two phases that train one linear model with seeded weights."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(4)])
    rng = np.random.default_rng(0)
    features = scale * rng.normal(size=(NUM_EXAMPLES, 3)).astype(np.float32)
    table = FeatureTable(features=features, labels=rng.integers(1, 4, NUM_EXAMPLES))
    phase = TrainingPhase(
        name="head",
        model=model,
        outputs=lambda inputs, training: (model(inputs, training=training),),
        loss=lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        optimizer=lambda factor: make_optimizer(
            0.1 * factor, num_steps=EPOCHS * STEPS_PER_EPOCH, steps_per_epoch=STEPS_PER_EPOCH
        ),
        epochs=EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
        learning_rate=0.1,
        save_interval=1,
        reports_steps=True,
        train_batches=lambda epoch, skip: feature_batches(table, BATCH_SIZE, seed=epoch, skip=skip),
        validation_batches=lambda: feature_batches(table, BATCH_SIZE),
    )
    return [dataclasses.replace(phase, name=name, **changes) for name in ("head", "fine_tune")]


def run(
    folder: Path,
    should_stop: Callable[[], bool],
    phases: list[TrainingPhase] | None = None,
    computation: Computation = FLOAT32,
) -> tuple[Any, TrainingPosition]:
    """Start a training in a folder; return its kernel and its position."""
    phases = phases or make_phases()
    store = StateStore(str(folder), "t")
    training = TrainingRun(
        strategy=tf.distribute.get_strategy(),
        position=store.load(),
        store=store,
        started=0.0,
        should_stop=should_stop,
        computation=computation,
    )
    for phase in phases:
        fit(phase, training)
    return phases[-1].model.weights[0].numpy(), training.position


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


# Calls end at the end of an epoch, whose second call is of one step.
@pytest.mark.parametrize(("steps_per_call", "num_calls"), [(1, 12), (2, 8), (3, 4), (100, 4)])
def test_steps_per_call_change_no_result_also_after_an_interruption(
    steps_per_call: int,
    num_calls: int,
    uninterrupted: tuple[Any, TrainingPosition],
    tmp_path: Path,
) -> None:
    computation = Computation(steps_per_call=steps_per_call)
    whole = StopAfter()
    kernel, position = run(tmp_path / "whole", whole, computation=computation)
    with pytest.raises(StoppedError):
        run(tmp_path / "resumed", StopAfter(num_calls // 2), computation=computation)
    # The rest with calls of another length.
    resumed, _ = run(tmp_path / "resumed", StopAfter())

    assert whole.num_calls == num_calls
    np.testing.assert_array_equal(kernel, uninterrupted[0])
    np.testing.assert_array_equal(resumed, uninterrupted[0])
    assert scores(position) == scores(uninterrupted[1])


def test_phase_of_quick_steps_has_calls_of_its_own_length(tmp_path: Path) -> None:
    calls = StopAfter()

    run(tmp_path, calls, make_phases(steps_per_call=100, reports_steps=False))

    assert calls.num_calls == 2 * EPOCHS


@pytest.mark.parametrize(
    ("waited", "expected"),
    [
        (0.0, "step 80 pictures/s, input keeps up"),
        (0.01, "step 80 pictures/s, input keeps up"),
        (0.2, "input 80 pictures/s, step could take 133"),
    ],
)
def test_log_says_whether_input_or_step_limits_the_speed(waited: float, expected: str) -> None:
    speed = _SpeedMeter(make_phases()[0])
    slow_first = CallResult(sums=[Sums(1.0, 1.0, 40.0)], is_stopping=False, waited_seconds=9.0)
    result = CallResult(sums=[Sums(1.0, 1.0, 40.0)], is_stopping=False, waited_seconds=waited)

    assert speed.text == ""
    speed.add(slow_first, 10.0)
    assert speed.text == ""
    speed.add(result, 0.5)
    speed.add(result, 0.5)

    assert speed.text == expected


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

    def save_and_note(store: StateStore, position: TrainingPosition, *variables: Any) -> None:
        save(store, position, *variables)
        saved.append((position.phase, position.epoch, position.num_steps))

    monkeypatch.setattr(StateStore, "save", save_and_note)
    return saved


@pytest.mark.parametrize("name", ["", "Head", "a-b", "_a", "a/b"])
def test_name_of_a_phase_must_be_fit_for_a_file_name(name: str) -> None:
    (phase, _) = make_phases()

    with pytest.raises(ValueError, match="name of a phase must be"):
        dataclasses.replace(phase, name=name)


class ScriptedSelection:
    """Scores the epochs of one phase as listed, and notes the kernel that was scored."""

    def __init__(self, scores: list[float], *, patience: int = 0) -> None:
        self._scores, self._patience = scores, patience
        self.kernels: list[Any] = []

    def of(self, phase: TrainingPhase) -> TrainingPhase:
        """Return the phase with this selection."""
        selection = Selection(
            batches=phase.validation_batches,
            score=lambda logits, labels: self._score(phase),
            patience=self._patience,
        )
        return dataclasses.replace(phase, selection=selection)

    def _score(self, phase: TrainingPhase) -> float:
        self.kernels.append(phase.model.weights[0].numpy())
        return self._scores[len(self.kernels) - 1]


@pytest.mark.parametrize(
    ("scores", "best_epoch"), [([0.1, 0.3, 0.2], 1), ([0.5, 0.3, 0.2], 0), ([0.1, 0.2, 0.3], 2)]
)
def test_phase_ends_with_its_best_state(
    scores: list[float], best_epoch: int, tmp_path: Path
) -> None:
    selection = ScriptedSelection(scores)

    kernel, position = run(tmp_path, StopAfter(), [selection.of(make_phases()[0])])

    assert len(selection.kernels) == 1 + EPOCHS
    np.testing.assert_array_equal(kernel, selection.kernels[best_epoch])
    (result,) = position.results
    assert (result.best_epoch, result.best_score) == (best_epoch, max(scores))
    assert result.num_steps == EPOCHS * STEPS_PER_EPOCH


def test_callback_after_each_epoch_gets_its_score_and_sees_its_weights(tmp_path: Path) -> None:
    selection = ScriptedSelection([0.1, 0.3, 0.2])
    phase = selection.of(make_phases()[0])
    calls: list[tuple[int, float | None]] = []

    def after_epoch(epoch: int, score: float | None) -> None:
        calls.append((epoch, score))
        np.testing.assert_array_equal(phase.model.weights[0], selection.kernels[epoch])

    run(tmp_path / "a", StopAfter(), [dataclasses.replace(phase, after_epoch=after_epoch)])
    other = dataclasses.replace(
        make_phases()[0], after_epoch=lambda epoch, score: calls.append((epoch, score))
    )
    run(tmp_path / "b", StopAfter(), [other])

    assert calls == [(1, 0.3), (2, 0.2), (1, None), (2, None)]


def test_phase_ends_after_epochs_without_a_better_score(tmp_path: Path) -> None:
    selection = ScriptedSelection([0.1, 0.3, 0.2, 0.3, 0.9], patience=2)

    kernel, position = run(tmp_path, StopAfter(), [selection.of(make_phases(epochs=9)[0])])

    (result,) = position.results
    assert (result.epochs, result.num_steps) == (3, 3 * STEPS_PER_EPOCH)
    np.testing.assert_array_equal(kernel, selection.kernels[1])


def precision(logits: Any, labels: Any) -> float:
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def make_selecting_phases() -> list[TrainingPhase]:
    """Return phases that average, and end with the epoch of the highest precision@1."""
    phases = make_phases(average_decay=0.9)
    selection = Selection(batches=phases[0].validation_batches, score=precision)
    return [dataclasses.replace(phase, selection=selection) for phase in phases]


@pytest.fixture(scope="module")
def uninterrupted_selection(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, TrainingPosition]:
    return run(tmp_path_factory.mktemp("selection"), StopAfter(), make_selecting_phases())


@pytest.mark.parametrize("num_steps", [1, 5, 6, 8])
def test_selection_and_average_survive_an_interruption(
    num_steps: int, uninterrupted_selection: tuple[Any, TrainingPosition], tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        run(tmp_path, StopAfter(num_steps - 1), make_selecting_phases())

    kernel, position = run(tmp_path, StopAfter(), make_selecting_phases())

    np.testing.assert_array_equal(kernel, uninterrupted_selection[0])
    assert position.results == uninterrupted_selection[1].results
    assert scores(position) == scores(uninterrupted_selection[1])


def one_step(**changes: Any) -> TrainingPhase:
    """Return a phase of one step of plain gradient descent."""
    return make_phases(epochs=1, steps_per_epoch=1, optimizer=keras.optimizers.SGD, **changes)[0]


def test_phase_with_an_average_ends_with_it(tmp_path: Path) -> None:
    start = one_step().model.weights[0].numpy()

    kernel, _ = run(tmp_path / "raw", StopAfter(), [one_step()])
    average, _ = run(tmp_path / "average", StopAfter(), [one_step(average_decay=0.9999)])

    assert not np.allclose(kernel, start)
    # The decay of the first step is 2 / 11, whatever the highest one is.
    np.testing.assert_allclose(average, kernel + 2 / 11 * (start - kernel), rtol=1e-5)


def test_multipliers_scale_learning_rates_and_zero_freezes(tmp_path: Path) -> None:
    factors = {"kernel": 0.25, "bias": 0.0}
    full = one_step()
    scaled = one_step(multiplier=lambda variable: factors[variable.name])
    start = full.model.weights[0].numpy()

    full_kernel, _ = run(tmp_path / "full", StopAfter(), [full])
    kernel, _ = run(tmp_path / "scaled", StopAfter(), [scaled])

    np.testing.assert_allclose(kernel - start, 0.25 * (full_kernel - start), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(scaled.model.weights[1].numpy(), np.zeros(4))
    assert np.any(full.model.weights[1].numpy() != 0)
