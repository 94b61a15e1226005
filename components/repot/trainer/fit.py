"""Runs the phases of a training epoch by epoch, from wherever the state says."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from repot import progress
from repot.errors import StoppedError, TrainingError
from repot.trainer.history import History
from repot.trainer.state import TrainingState
from repot.trainer.step import StepRunner, Sums

WEIGHT_DECAY = 1e-4
WARMUP_EPOCHS = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A stretch of training with one model and one learning rate schedule.

    Attributes:
        name: One of `repot.trainer.state.PHASES`.
        model: Its trainable variables are what is trained, all of its variables what is saved.
        logits: (inputs, training) -> float32 [batch, N + 1] logits, from the model's layers.
        epochs: Length of the phase.
        learning_rate: Peak, after a linear warm-up of one epoch; it falls to 0 along a cosine.
        save_interval: Epochs between two saves of the state; the last epoch is always saved.
        num_examples: Training examples an epoch.
        batch_size: Examples a step.
        train_batches: Gives the batches of an epoch in [0, epochs), without so many at its start.
        validation_batches: Gives the batches that are scored after each epoch.
    """

    name: str
    model: Any
    logits: Callable[[Any, bool], Any]
    epochs: int
    learning_rate: float
    save_interval: int
    num_examples: int
    batch_size: int
    train_batches: Callable[[int, int], Any]
    validation_batches: Callable[[], Any]

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of batches an epoch."""
        return math.ceil(self.num_examples / self.batch_size)


def fit(
    phases: Sequence[Phase],
    *,
    strategy: Any,
    state: TrainingState,
    history: History,
    started: float,
    should_stop: Callable[[], bool],
) -> None:
    """Run what is left of the phases; afterwards the state holds the last epoch of the last one, or the last step.

    Args:
        phases: All phases, those that are past included.
        strategy: tf.distribute.Strategy under which the models were built.
        state: What was saved last; is saved on from there.
        history: Rows up to there; gets a row an epoch.
        started: What time.monotonic() was, or would have been without an interruption, when the training began.
        should_stop: Asked before every step.

    Raises:
        StoppedError: It was asked to stop, and the state holds the last step.
        TrainingError: The loss is not finite.
    """
    num_steps = sum(phase.epochs * phase.steps_per_epoch for phase in phases)
    steps_before = 0
    for phase in phases:
        meter = _Meter(done=steps_before, total=num_steps)
        steps_before += phase.epochs * phase.steps_per_epoch
        if state.is_past(phase.name):
            continue
        with strategy.scope():
            optimizer = _optimizer(phase)
            optimizer.build(phase.model.trainable_variables)
        state.restore(phase.name, phase.model, optimizer)
        runner = StepRunner(phase.logits, phase.model.trainable_variables, optimizer, strategy)
        saver = _Saver(phase=phase, optimizer=optimizer, state=state, history=history, started=started)
        for epoch in range(state.epochs_done(phase.name), phase.epochs):
            steps = _Steps(*state.steps_done(phase.name, epoch))
            if not steps.run(phase, runner, epoch, meter, should_stop):
                saver.save(epoch, steps)
                raise _stopped(phase, epoch, len(steps.sums))
            row = _row(phase, epoch, steps, runner.score(phase.validation_batches()))
            note = _note(row)
            meter.report(phase, epoch, phase.steps_per_epoch, note)
            _log.info("%s epoch %d of %d: %s, %.2f s", phase.name, epoch + 1, phase.epochs, note, steps.seconds)
            history.append({**row, "learning_rate": float(optimizer.learning_rate)})
            if (epoch + 1) % phase.save_interval == 0 or epoch + 1 == phase.epochs:
                saver.save(epoch + 1, _Steps())


def _optimizer(phase: Phase) -> Any:
    """Return AdamW (Loshchilov and Hutter 2019) on a cosine schedule, without decay of biases and BatchNorm."""
    warmup_steps = WARMUP_EPOCHS * phase.steps_per_epoch
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, phase.epochs * phase.steps_per_epoch - warmup_steps),
        warmup_target=phase.learning_rate,
        warmup_steps=warmup_steps,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class _Meter:
    """Tells how many steps of the whole training are done; `done` before the phase began."""

    done: int
    total: int

    def report(self, phase: Phase, epoch: int, step: int, note: str) -> None:
        done = self.done + epoch * phase.steps_per_epoch + step
        note = f"{phase.name} epoch {epoch + 1}/{phase.epochs}, {note}"
        progress.report("train", done, self.total, unit="steps", note=note)


@dataclass(slots=True)
class _Steps:
    """The steps of one epoch that are done: the Sums of each, and the seconds that they took."""

    sums: list[Sums] = field(default_factory=list)
    seconds: float = 0.0

    def run(
        self, phase: Phase, runner: StepRunner, epoch: int, meter: "_Meter", should_stop: Callable[[], bool]
    ) -> bool:
        """Run the rest of the epoch; return False, after any step, if it was asked to stop."""
        started = time.monotonic() - self.seconds
        batches = phase.train_batches(epoch, len(self.sums))
        for sums, is_stopping in runner.train(batches, should_stop):
            self.sums.append(sums)
            self.seconds = time.monotonic() - started
            if not math.isfinite(sums.loss):
                raise _not_finite(phase, epoch, len(self.sums))
            if phase.save_interval == 1:
                meter.report(phase, epoch, len(self.sums), f"loss {sums.loss / sums.num_examples:.2f}")
            if is_stopping:
                return False
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class _Saver:
    """Saves the moments of one phase."""

    phase: Phase
    optimizer: Any
    state: TrainingState
    history: History
    started: float

    def save(self, epoch: int, steps: _Steps) -> None:
        """Save the moment after so many epochs and, of the next one, the steps."""
        if self.state.is_writer:
            self.history.write_events()
        self.state.save(
            phase=self.phase.name,
            epoch=epoch,
            sums=steps.sums,
            epoch_seconds=steps.seconds,
            model=self.phase.model,
            optimizer=self.optimizer,
            history=self.history.rows,
            seconds=time.monotonic() - self.started,
        )


def _row(phase: Phase, epoch: int, steps: _Steps, validation: Sums) -> dict[str, Any]:
    train = Sums(*(math.fsum(column) for column in zip(*steps.sums, strict=True)))
    return {
        "phase": phase.name,
        "epoch": epoch + 1,
        "train_loss": train.loss / train.num_examples,
        "train_precision_at_1": train.correct / train.num_examples,
        "validation_loss": validation.loss / validation.num_examples if validation.num_examples else None,
        "validation_precision_at_1": validation.correct / validation.num_examples if validation.num_examples else None,
        "seconds": steps.seconds,
    }


def _note(row: dict[str, Any]) -> str:
    note = f"loss {row['train_loss']:.2f}"
    if row["validation_precision_at_1"] is not None:
        note += f", precision@1 {row['validation_precision_at_1']:.3f}"
    return note


def _stopped(phase: Phase, epoch: int, step: int) -> StoppedError:
    return StoppedError(
        f"The training was asked to stop; it did so in phase {phase.name}, epoch {epoch + 1}, after step {step} of "
        f"{phase.steps_per_epoch}, and saved its state. Start it again to go on from there."
    )


def _not_finite(phase: Phase, epoch: int, step: int) -> TrainingError:
    return TrainingError(
        f"The loss must be finite; it is not in phase {phase.name}, epoch {epoch + 1}, step {step}, with "
        f"learning_rate={phase.learning_rate}. Try a tenth of the learning rate; if it happens in the very first step, "
        "the checkpoint's weights are not finite: try another checkpoint."
    )
