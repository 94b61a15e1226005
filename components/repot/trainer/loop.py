"""The training loop: every step of one phase, from the current position to its end."""

import contextlib
import logging
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from repot import progress
from repot.errors import StoppedError, TrainingError
from repot.trainer.optimizer import WeightAverage
from repot.trainer.phases import TrainingPhase
from repot.trainer.position import PhaseResult, Sums, TrainingPosition
from repot.trainer.state import StateStore, numbered, values
from repot.trainer.step import CallResult, StepRunner
from repot.trainer.strategy import FLOAT32, Computation, value_of_chief
from repot.training_record import EpochRecord

SAVE_SECONDS = 600.0
"""Seconds between two saves within an epoch: the most that a killed machine loses."""

INPUT_LIMIT = 0.9
"""Share of the step's speed below which the log says that the input limits the training."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRun:
    """What all phases of one training share.

    Attributes:
        strategy: tf.distribute.Strategy under which the models are built.
        position: How far the training has come; `fit` advances it.
        store: Saves the position; also holds the variables if the position was loaded.
        started: time.monotonic() at which an uninterrupted training would have started.
        should_stop: Called before every call of the compiled steps.
        computation: How the device computes steps.
    """

    strategy: Any
    position: TrainingPosition
    store: StateStore
    started: float
    should_stop: Callable[[], bool]
    computation: Computation = FLOAT32

    def read(self, name: str) -> bytes | None:
        """Return a file kept beside the state, or None if it does not exist.

        Every worker must call this, and all get the same, although one of them writes the file.
        """
        found = self.store.read_file(name)
        if not value_of_chief(self.strategy, found is not None):
            return None
        return self.store.read_file(name) if found is None else found

    def decide(self, name: str, compute: Callable[[], bytes]) -> bytes:
        """Return a file kept beside the state; the worker that writes computes what is missing.

        Every worker must call this.

        Raises:
            StorageError: The file disappeared.
        """
        if self.store.is_writer and self.store.read_file(name) is None:
            self.store.write_file(name, compute())
        data = self.read(name)
        return self.store.require_file(name) if data is None else data


def fit(phase: TrainingPhase, run: TrainingRun, *, later_steps: int = 0) -> PhaseResult:
    """Run one phase from the current position to its end.

    Afterwards the phase's model has the phase's result: the weights after the last or the selected
    epoch, averaged if the phase averages them. A phase that is finished already is not run again,
    and its model stays as it is: the model of a later phase has all of its variables, or does not
    need them.

    Args:
        phase: The phase. Everything in it must follow from the settings and from the results of
            earlier phases, so that a resumed training builds the same phase.
        run: The training.
        later_steps: Steps of the phases that are planned after this one, for the progress.

    Raises:
        StoppedError: `should_stop` returned True on a worker; the position is saved.
        TrainingError: The loss is not finite.
        StepOutOfMemoryError: The device's memory does not suffice for a step.
    """
    position = run.position
    result = position.result_of(phase.name)
    if result is not None:
        return result
    learner = _Learner(phase, run)
    learner.start()
    total_steps = position.num_finished_steps + phase.num_steps + later_steps

    while not _is_over(phase, position):
        steps_before_epoch = position.num_finished_steps + position.epoch * phase.steps_per_epoch
        epoch_name = f"{phase.name} epoch {position.epoch + 1}/{phase.epochs}"

        def report(sums: Sums, name: str = epoch_name, before: int = steps_before_epoch) -> None:
            if phase.reports_steps:
                note = f"{name}, loss {sums.loss / sums.num_examples:.2f}"
                done = before + position.num_steps
                progress.report("train", done, total_steps, unit="steps", note=note)

        _train_epoch(phase, run, learner, report)
        record = learner.finish_epoch()
        done = steps_before_epoch + phase.steps_per_epoch
        note = f"{epoch_name}, {_scores(record)}"
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


def _train_epoch(
    phase: TrainingPhase, run: TrainingRun, learner: "_Learner", report: Callable[[Sums], None]
) -> None:
    """Take the steps of an epoch that are left; `report` gets the Sums of the last one."""
    position = run.position
    batches = iter(
        learner.runner.distribute(phase.train_batches(position.epoch, position.num_steps))
    )
    speed = _SpeedMeter(phase)
    while position.num_steps < phase.steps_per_epoch:
        num_steps = speed.num_steps_of_next_call(
            most=phase.steps_per_call or run.computation.steps_per_call,
            left=phase.steps_per_epoch - position.num_steps,
        )
        started = time.monotonic()
        result = learner.runner.train_steps(batches, num_steps, stop=run.should_stop())
        seconds = time.monotonic() - started
        speed.add(result, seconds)
        for sums in result.sums:
            step_end = position.epoch_seconds + seconds / num_steps
            position.finish_step(sums, epoch_seconds=step_end)
            check_finite(
                sums.loss,
                phase=phase.name,
                epoch=position.epoch,
                step=position.num_steps,
                learning_rate=phase.learning_rate,
            )
        report(result.sums[-1])
        if result.is_stopping or time.monotonic() - learner.saved_at >= SAVE_SECONDS:
            learner.save()
        if result.is_stopping:
            raise _stopped(phase, position)
    if phase.reports_steps and speed.text:
        _log.info("%s: %s", phase.name, speed.text)


class _SpeedMeter:
    """Measures in one epoch whether input or steps limit the speed; only for the log.

    A GPU computes while the host goes on, so only a call of a single step tells how long a step
    takes. The second call of an epoch is one, because the first may compile. The results of steps
    do not depend on how many are in a call.

    Args:
        phase: The phase.
    """

    def __init__(self, phase: TrainingPhase) -> None:
        self._has_probe = phase.reports_steps
        self._num_calls = 0
        self._num_steps = 0
        self._num_examples = 0.0
        self._seconds = 0.0
        self._step_seconds: list[float] = []  # of single steps, without waiting for the input

    def num_steps_of_next_call(self, *, most: int, left: int) -> int:
        """Return how many steps the next call should take.

        Args:
            most: Most steps per call.
            left: Steps left in the epoch.
        """
        is_probe = self._has_probe and self._num_calls == 1
        return min(1 if is_probe else most, left)

    def add(self, result: CallResult, seconds: float) -> None:
        """Take a call into account, except the first one.

        Args:
            result: What the call returned.
            seconds: How long it took.
        """
        self._num_calls += 1
        if self._num_calls == 1:
            return
        self._seconds += seconds
        self._num_steps += len(result.sums)
        self._num_examples += sum(sums.num_examples for sums in result.sums)
        if len(result.sums) == 1:
            self._step_seconds.append(seconds - result.waited_seconds)

    @property
    def text(self) -> str:
        """Which of the two limits the speed, with numbers; "" after too few calls."""
        if not self._step_seconds:
            return ""
        found = self._num_examples / self._seconds
        step_seconds = max(statistics.median(self._step_seconds), 1e-9)
        possible = self._num_examples / self._num_steps / step_seconds
        if found < INPUT_LIMIT * possible:
            return f"input {found:.0f} pictures/s, step could take {possible:.0f}"
        return f"step {found:.0f} pictures/s, input keeps up"


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
                if run.computation.precision == "float16":
                    # Small gradients would be zero in float16.
                    optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
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
            in_pairs=phase.in_pairs,
            model=phase.model,
            computation=run.computation,
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
        score = self._select()
        if self._phase.after_epoch is not None:
            with self._scored_weights():
                self._phase.after_epoch(self._run.position.epoch, score)
        return record

    def _select(self) -> float | None:
        """Score the current state, and keep it if it is the best; only in a phase that selects."""
        selection = self._phase.selection
        if selection is None:
            return None
        with self._scored_weights():
            logits, labels = self.runner.predict(selection.batches())
            score = value_of_chief(self._run.strategy, selection.score(logits, labels))
            if self._run.position.note_score(score):
                self._best = values(numbered(self._phase.model.variables))
        return score

    def finish(self) -> PhaseResult:
        """Set the model to the phase's result and move past the phase."""
        position = self._run.position
        if self._phase.selection is not None:
            for name, variable in numbered(self._phase.model.variables).items():
                variable.assign(self._best[name])
        elif self._average is not None:
            self._average.assign()
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


def check_finite(loss: float, *, phase: str, epoch: int, step: int, learning_rate: float) -> None:
    """Check the loss of a step.

    Args:
        loss: The loss.
        phase: Name of the phase.
        epoch: Number of the epoch, from 0.
        step: Number of the step in the epoch, from 1.
        learning_rate: Learning rate of the phase.

    Raises:
        TrainingError: The loss is not finite.
    """
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss must be finite; it is not in phase {phase}, epoch {epoch + 1}, step {step}, "
            f"with learning_rate={learning_rate}. Try a tenth of the learning rate. If it happens "
            "in the very first step, the checkpoint's weights are not finite: try another "
            "checkpoint."
        )
