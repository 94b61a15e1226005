"""The training loop: every step of every phase, from the current position to the end."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from repot import progress
from repot.errors import StoppedError, TrainingError
from repot.trainer.optimizer import make_optimizer
from repot.trainer.phases import TrainingPhase
from repot.trainer.position import TrainingPosition
from repot.trainer.state import StateStore
from repot.trainer.step import StepRunner
from repot.training_record import EpochRecord

SAVE_SECONDS = 600.0
"""Seconds between two saves within an epoch: the most that a killed machine loses."""

_log = logging.getLogger(__name__)


def fit(
    phases: Sequence[TrainingPhase],
    *,
    strategy: Any,
    position: TrainingPosition,
    store: StateStore,
    started: float,
    should_stop: Callable[[], bool],
) -> None:
    """Run the phases from the current position to the end.

    Args:
        phases: All phases, finished ones included.
        strategy: tf.distribute.Strategy under which the models were built.
        position: Where to start; advanced to the end of the last phase.
        store: Saves the position; also holds the variables if the position was loaded.
        started: time.monotonic() at which an uninterrupted training would have started.
        should_stop: Called before every step.

    Raises:
        StoppedError: `should_stop` returned True on a worker; the position is saved.
        TrainingError: The loss is not finite.
    """
    total_steps = sum(phase.num_steps for phase in phases)
    steps_before = 0
    for phase in phases:
        if position.is_past(phase.name):
            steps_before += phase.num_steps
            continue
        with strategy.scope():
            optimizer = make_optimizer(
                phase.learning_rate,
                num_steps=phase.num_steps,
                steps_per_epoch=phase.steps_per_epoch,
            )
            optimizer.build(phase.model.trainable_variables)
        if position.phase == phase.name:
            store.restore(phase.model, optimizer)
        else:
            position.start_phase(phase.name)
        runner = StepRunner(phase.logits, phase.model.trainable_variables, optimizer, strategy)
        saved_at = time.monotonic()

        while position.epoch < phase.epochs:
            steps_before_epoch = steps_before + position.epoch * phase.steps_per_epoch
            epoch_name = f"{phase.name} epoch {position.epoch + 1}/{phase.epochs}"
            epoch_started = time.monotonic() - position.epoch_seconds
            batches = phase.train_batches(position.epoch, position.num_steps)
            for batch in runner.distribute(batches):
                sums, is_stopping = runner.train_step(batch, stop=should_stop())
                position.finish_step(sums, epoch_seconds=time.monotonic() - epoch_started)
                _check_finite(sums.loss, phase, position)
                if phase.reports_steps:
                    note = f"{epoch_name}, loss {sums.loss / sums.num_examples:.2f}"
                    done = steps_before_epoch + position.num_steps
                    progress.report("train", done, total_steps, unit="steps", note=note)
                if is_stopping or time.monotonic() - saved_at >= SAVE_SECONDS:
                    position.seconds = time.monotonic() - started
                    store.save(position, phase.model, optimizer)
                    saved_at = time.monotonic()
                if is_stopping:
                    raise _stopped(phase, position)

            record = position.finish_epoch(
                runner.score(phase.validation_batches()),
                learning_rate=float(optimizer.learning_rate),
            )
            note = f"{epoch_name}, {_scores(record)}"
            done = steps_before_epoch + phase.steps_per_epoch
            progress.report("train", done, total_steps, unit="steps", note=note)
            _log.info(
                "%s epoch %d of %d: %s, %.2f s",
                phase.name,
                record.epoch,
                phase.epochs,
                _scores(record),
                record.seconds,
            )
            if position.epoch % phase.save_interval == 0 or position.epoch == phase.epochs:
                position.seconds = time.monotonic() - started
                store.save(position, phase.model, optimizer)
                saved_at = time.monotonic()
        steps_before += phase.num_steps


def _scores(record: EpochRecord) -> str:
    scores = f"loss {record.train_loss:.2f}"
    if record.validation_precision_at_1 is not None:
        scores += f", precision@1 {record.validation_precision_at_1:.3f}"
    return scores


def _stopped(phase: TrainingPhase, position: TrainingPosition) -> StoppedError:
    return StoppedError(
        f"The training was asked to stop. It stopped in phase {phase.name}, epoch "
        f"{position.epoch + 1}, after step {position.num_steps} of {phase.steps_per_epoch}, and "
        "saved its state. Start it again to resume from there."
    )


def _check_finite(loss: float, phase: TrainingPhase, position: TrainingPosition) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss must be finite; it is not in phase {phase.name}, epoch "
            f"{position.epoch + 1}, step {position.num_steps}, with "
            f"learning_rate={phase.learning_rate}. Try a tenth of the learning rate. If it happens "
            "in the very first step, the checkpoint's weights are not finite: try another "
            "checkpoint."
        )
