"""Runs the phases of a training epoch by epoch, from wherever the state says."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from repot.errors import StoppedError
from repot.trainer.epoch import Meter, Steps
from repot.trainer.history import History
from repot.trainer.phase import Phase, make_optimizer
from repot.trainer.state import TrainingState
from repot.trainer.step import StepRunner

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
        saver = _Saver(phase=phase, optimizer=optimizer, state=state, history=history, started=started)
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
            _log.info("%s epoch %d of %d: %s, %.2f s", phase.name, epoch + 1, phase.epochs, note, steps.seconds)
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
