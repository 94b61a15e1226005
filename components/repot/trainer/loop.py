"""The training loop: every step of one phase, from the current position to its end."""

import contextlib
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from repot import progress
from repot.errors import StoppedError, TrainingError
from repot.trainer.optimizer import WeightAverage
from repot.trainer.phases import TrainingPhase
from repot.trainer.position import PhaseResult, TrainingPosition
from repot.trainer.state import StateStore, numbered, values
from repot.trainer.step import StepRunner
from repot.training_record import EpochRecord

SAVE_SECONDS = 600.0
"""Seconds between two saves within an epoch: the most that a killed machine loses."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRun:
    """What all phases of one training share.

    Attributes:
        strategy: tf.distribute.Strategy under which the models are built.
        position: How far the training has come; `fit` advances it.
        store: Saves the position; also holds the variables if the position was loaded.
        started: time.monotonic() at which an uninterrupted training would have started.
        should_stop: Called before every step.
    """

    strategy: Any
    position: TrainingPosition
    store: StateStore
    started: float
    should_stop: Callable[[], bool]


def fit(phase: TrainingPhase, run: TrainingRun, *, later_steps: int = 0) -> PhaseResult:
    """Run one phase from the current position to its end.

    Afterwards the phase's model has the phase's result: the weights after the last or the selected
    epoch, averaged if the phase averages them. A phase that is finished already is not run again,
    see `TrainingPhase.keeps_result`.

    Args:
        phase: The phase. Everything in it must follow from the settings and from the results of
            earlier phases, so that a resumed training builds the same phase.
        run: The training.
        later_steps: Steps of the phases that are planned after this one, for the progress.

    Raises:
        StoppedError: `should_stop` returned True on a worker; the position is saved.
        TrainingError: The loss is not finite.
    """
    position = run.position
    result = position.result_of(phase.name)
    if result is not None:
        if phase.keeps_result:
            run.store.restore_result(phase.name, numbered(phase.model.variables))
        return result
    learner = _Learner(phase, run)
    learner.start()
    total_steps = position.num_finished_steps + phase.num_steps + later_steps

    while not _is_over(phase, position):
        steps_before_epoch = position.num_finished_steps + position.epoch * phase.steps_per_epoch
        epoch_name = f"{phase.name} epoch {position.epoch + 1}/{phase.epochs}"
        epoch_started = time.monotonic() - position.epoch_seconds
        batches = phase.train_batches(position.epoch, position.num_steps)
        for batch in learner.runner.distribute(batches):
            sums, is_stopping = learner.runner.train_step(batch, stop=run.should_stop())
            position.finish_step(sums, epoch_seconds=time.monotonic() - epoch_started)
            _check_finite(sums.loss, phase, position)
            if phase.reports_steps:
                note = f"{epoch_name}, loss {sums.loss / sums.num_examples:.2f}"
                done = steps_before_epoch + position.num_steps
                progress.report("train", done, total_steps, unit="steps", note=note)
            if is_stopping or time.monotonic() - learner.saved_at >= SAVE_SECONDS:
                learner.save()
            if is_stopping:
                raise _stopped(phase, position)

        record = learner.finish_epoch()
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
        if position.epoch % phase.save_interval == 0 or _is_over(phase, position):
            learner.save()
    return learner.finish()


class _Learner:
    """The variables of a phase, its compiled steps, and the best state so far.

    Attributes:
        runner: The compiled steps.
        saved_at: time.monotonic() of the last save.
    """

    def __init__(self, phase: TrainingPhase, run: TrainingRun) -> None:
        self.saved_at = time.monotonic()
        self._phase = phase
        self._run = run
        self._best: dict[str, Any] = {}  # values of the model's variables; empty before a score
        groups = defaultdict(list)
        for variable in phase.model.trainable_variables:
            groups[phase.multiplier(variable) if phase.multiplier else 1.0].append(variable)
        # The highest learning rate comes first: it is the one in the history.
        self._optimizers = []
        with run.strategy.scope():
            for factor in sorted(groups.keys() - {0.0}, reverse=True):
                optimizer = phase.optimizer(factor)
                optimizer.build(groups[factor])
                self._optimizers.append((optimizer, groups[factor]))
            self._average = (
                WeightAverage(phase.model, phase.average_decay) if phase.average_decay else None
            )
        self.runner = StepRunner(
            phase.outputs,
            phase.loss,
            self._optimizers,
            run.strategy,
            penalty=phase.penalty,
            average=self._average,
            statistics=_statistics(phase.model) if phase.updates_statistics else (),
        )

    def start(self) -> None:
        """Start the phase, or resume it with the saved variables and the best state."""
        position, store = self._run.position, self._run.store
        if position.phase != self._phase.name:
            position.start_phase(self._phase.name)
            self._select()
            return
        store.restore(self._variables())
        if self._phase.selection is not None:
            self._best = store.read_best()

    def save(self) -> None:
        """Save the position, the variables and the best state."""
        self._run.position.seconds = time.monotonic() - self._run.started
        self._run.store.save(self._run.position, self._variables(), self._best)
        self.saved_at = time.monotonic()

    def finish_epoch(self) -> EpochRecord:
        """Score the epoch that has just ended and move to the next one."""
        with self._scored_weights():
            validation = self.runner.score(self._phase.validation_batches())
        optimizer, _ = self._optimizers[0]
        record = self._run.position.finish_epoch(
            validation, learning_rate=float(optimizer.learning_rate)
        )
        self._select()
        return record

    def _select(self) -> None:
        """Score the current state, and keep it if it is the best; only in a phase that selects."""
        selection = self._phase.selection
        if selection is None:
            return
        with self._scored_weights():
            logits, labels = self.runner.predict(selection.batches())
            if self._run.position.note_score(selection.score(logits, labels)):
                self._best = values(numbered(self._phase.model.variables))

    def finish(self) -> PhaseResult:
        """Set the model to the phase's result and move past the phase."""
        position = self._run.position
        variables = numbered(self._phase.model.variables)
        if self._phase.selection is not None:
            for name, variable in variables.items():
                variable.assign(self._best[name])
        elif self._average is not None:
            self._average.assign()
        if self._phase.keeps_result:
            self._run.store.write_result(self._phase.name, variables)
        return position.finish_phase(num_steps=position.epoch * self._phase.steps_per_epoch)

    def _scored_weights(self) -> Any:
        """Return a context in which the model has the weights that are scored."""
        return contextlib.nullcontext() if self._average is None else self._average.assigned()

    def _variables(self) -> dict[str, Any]:
        """Return every variable of the phase by kind and index."""
        named = numbered(self._phase.model.variables, "model/")
        for i, (optimizer, _) in enumerate(self._optimizers):
            named |= numbered(optimizer.variables, f"optimizer{i}/")
        if self._average is not None:
            named |= numbered(self._average.variables, "average/")
        return named


def _statistics(model: Any) -> list[Any]:
    # Integers are the states of random generators.
    variables = model.non_trainable_variables
    return [variable for variable in variables if "float" in str(variable.dtype)]


def _is_over(phase: TrainingPhase, position: TrainingPosition) -> bool:
    patience = phase.selection.patience if phase.selection else 0
    is_exhausted = patience > 0 and position.epoch - position.best_epoch >= patience
    return position.epoch >= phase.epochs or is_exhausted


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
