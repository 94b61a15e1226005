"""Runs the phases of a training epoch by epoch, from wherever the state says."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from repot import progress
from repot.errors import TrainingError
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
        model: Its trainable variables are what is trained.
        epochs: Length of the phase.
        learning_rate: Peak, after a linear warm-up of one epoch; it falls to 0 along a cosine.
        save_interval: Epochs between two saves of the state; the last epoch is always saved.
        num_examples: Training examples an epoch.
        batch_size: Examples a step.
        train_batches: Gives the batches of an epoch in [0, epochs).
        validation_batches: Gives the batches that are scored after each epoch.
    """

    name: str
    model: Any
    epochs: int
    learning_rate: float
    save_interval: int
    num_examples: int
    batch_size: int
    train_batches: Callable[[int], Any]
    validation_batches: Callable[[], Any]

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of batches an epoch."""
        return math.ceil(self.num_examples / self.batch_size)


def fit(phases: Sequence[Phase], *, strategy: Any, state: TrainingState, history: History) -> None:
    """Run what is left of the phases; afterwards the state holds the last epoch of the last one.

    Raises:
        TrainingError: The loss is not finite.
    """
    started = time.monotonic() - state.seconds_before
    total = sum(phase.epochs for phase in phases)
    for phase in phases:
        if state.is_past(phase.name):
            continue
        with strategy.scope():
            optimizer = _optimizer(phase)
            optimizer.build(phase.model.trainable_variables)
        state.restore(phase.name, phase.model, optimizer)
        runner = StepRunner(phase.model, optimizer, strategy)
        for epoch in range(state.epochs_done(phase.name), phase.epochs):
            row = _run_epoch(phase, runner, epoch, len(history.rows), total)
            history.append({**row, "learning_rate": float(optimizer.learning_rate)})
            if (epoch + 1) % phase.save_interval == 0 or epoch + 1 == phase.epochs:
                history.write_events()
                seconds = time.monotonic() - started
                state.save(
                    phase=phase.name,
                    epoch=epoch + 1,
                    model=phase.model,
                    optimizer=optimizer,
                    history=history.rows,
                    seconds=seconds,
                )


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


def _run_epoch(phase: Phase, runner: StepRunner, epoch: int, epochs_before: int, total: int) -> dict[str, Any]:
    started = time.monotonic()
    steps = []
    for step, sums in enumerate(runner.train(phase.train_batches(epoch)), start=1):
        if not math.isfinite(sums.loss):
            raise _not_finite(phase, epoch, step)
        steps.append(sums)
        if phase.save_interval == 1:
            note = f"epoch {epoch + 1} of {phase.epochs}, loss {sums.loss / sums.num_examples:.3f}"
            progress.report("train", step, phase.steps_per_epoch, unit="steps", note=note)
    seconds = time.monotonic() - started
    train = Sums(*(math.fsum(column) for column in zip(*steps, strict=True)))
    validation = runner.score(phase.validation_batches())
    row = {
        "phase": phase.name,
        "epoch": epoch + 1,
        "train_loss": train.loss / train.num_examples,
        "train_precision_at_1": train.correct / train.num_examples,
        "validation_loss": validation.loss / validation.num_examples if validation.num_examples else None,
        "validation_precision_at_1": validation.correct / validation.num_examples if validation.num_examples else None,
        "seconds": seconds,
    }
    note = _note(row)
    progress.report("train", epochs_before + 1, total, unit="epochs", note=note)
    _log.info("%s epoch %d of %d: %s, %.2f s", phase.name, epoch + 1, phase.epochs, note, seconds)
    return row


def _note(row: dict[str, Any]) -> str:
    note = f"loss {row['train_loss']:.3f}"
    if row["validation_precision_at_1"] is not None:
        note += f", validation precision@1 {row['validation_precision_at_1']:.3f}"
    return note


def _not_finite(phase: Phase, epoch: int, step: int) -> TrainingError:
    return TrainingError(
        f"The loss must be finite; it is not in phase {phase.name}, epoch {epoch + 1}, step {step}, with "
        f"learning_rate={phase.learning_rate}. Try a tenth of the learning rate."
    )
