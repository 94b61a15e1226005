"""Runs the phases of a training epoch by epoch, from wherever the state says."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from repot import progress
from repot.errors import StoppedError, TrainingError
from repot.trainer.history import History
from repot.trainer.phase import Phase, make_optimizer
from repot.trainer.state import TrainingState
from repot.trainer.step import StepRunner, Sums


@dataclass(frozen=True, kw_only=True, slots=True)
class Meter:
    """Tells how many steps of the whole training are done; `done` before the phase began."""

    done: int
    total: int

    def report(self, phase: Phase, epoch: int, step: int, note: str) -> None:
        """Report so many steps of an epoch."""
        done = self.done + epoch * phase.steps_per_epoch + step
        note = f"{phase.name} epoch {epoch + 1}/{phase.epochs}, {note}"
        progress.report("train", done, self.total, unit="steps", note=note)


@dataclass(slots=True)
class Steps:
    """The steps of one epoch that are done.

    Attributes:
        sums: The Sums of each.
        seconds: What they took.
    """

    sums: list[Sums] = field(default_factory=list)
    seconds: float = 0.0

    def run(
        self,
        phase: Phase,
        runner: StepRunner,
        epoch: int,
        meter: Meter,
        should_stop: Callable[[], bool],
    ) -> Iterator[bool]:
        """Do the rest of the epoch; yield after every step whether training is to stop there.

        Raises:
            TrainingError: The loss is not finite.
        """
        started = time.monotonic() - self.seconds
        batches = phase.train_batches(epoch, len(self.sums))
        for sums, is_stopping in runner.train(batches, should_stop):
            self.sums.append(sums)
            self.seconds = time.monotonic() - started
            if not math.isfinite(sums.loss):
                raise _not_finite(phase, epoch, len(self.sums))
            if phase.save_interval == 1:
                meter.report(
                    phase, epoch, len(self.sums), f"loss {sums.loss / sums.num_examples:.2f}"
                )
            yield is_stopping

    def row(self, phase: Phase, epoch: int, validation: Sums) -> dict[str, Any]:
        """Return the row of the history for a whole epoch, without the learning rate."""
        train, count = (
            Sums(*(math.fsum(column) for column in zip(*self.sums, strict=True))),
            validation.num_examples,
        )
        return {
            "phase": phase.name,
            "epoch": epoch + 1,
            "train_loss": train.loss / train.num_examples,
            "train_precision_at_1": train.correct / train.num_examples,
            "validation_loss": validation.loss / count if count else None,
            "validation_precision_at_1": validation.correct / count if count else None,
            "seconds": self.seconds,
        }


SAVE_SECONDS = 600.0
"""Between two saves within an epoch: what is lost at most when a machine is gone without a word."""

_log = logging.getLogger(__name__)


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
        meter = Meter(done=steps_before, total=num_steps)
        steps_before += phase.epochs * phase.steps_per_epoch
        if state.is_past(phase.name):
            continue
        with strategy.scope():
            optimizer = make_optimizer(phase)
            optimizer.build(phase.model.trainable_variables)
        state.restore(phase.name, phase.model, optimizer)
        runner = StepRunner(phase.logits, phase.model.trainable_variables, optimizer, strategy)
        saver = _Saver(
            phase=phase, optimizer=optimizer, state=state, history=history, started=started
        )
        for epoch in range(state.epochs_done(phase.name), phase.epochs):
            steps = Steps(*state.steps_done(phase.name, epoch))
            for is_stopping in steps.run(phase, runner, epoch, meter, should_stop):
                if is_stopping or saver.is_due():
                    saver.save(epoch, steps)
                if is_stopping:
                    raise _stopped(phase, epoch, len(steps.sums))
            row = steps.row(phase, epoch, runner.score(phase.validation_batches()))
            note = _note(row)
            meter.report(phase, epoch, phase.steps_per_epoch, note)
            _log.info(
                "%s epoch %d of %d: %s, %.2f s",
                phase.name,
                epoch + 1,
                phase.epochs,
                note,
                steps.seconds,
            )
            history.append({**row, "learning_rate": float(optimizer.learning_rate)})
            if (epoch + 1) % phase.save_interval == 0 or epoch + 1 == phase.epochs:
                saver.save(epoch + 1, Steps())


@dataclass(kw_only=True, slots=True)
class _Saver:
    """Saves the moments of one phase, and knows when it last did."""

    phase: Phase
    optimizer: Any
    state: TrainingState
    history: History
    started: float
    saved_at: float = field(default_factory=time.monotonic)

    def is_due(self) -> bool:
        return time.monotonic() - self.saved_at >= SAVE_SECONDS

    def save(self, epoch: int, steps: Steps) -> None:
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
        self.saved_at = time.monotonic()


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
