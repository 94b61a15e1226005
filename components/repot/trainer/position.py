"""The training position: how far a training has come, in one object.

`repot.trainer.loop.fit` advances it step by step, `repot.trainer.state` saves and loads it.
A training that resumes from a saved position ends like one that was never interrupted.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from repot.training_record import EpochRecord


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the examples of one step or split; divided once, at the end of an epoch.

    Attributes:
        loss: Cross-entropy over classes 1..N, in nats, without label smoothing.
        correct: Number of examples whose most probable class is their own.
        num_examples: Number of examples, padding excluded.
    """

    loss: float
    correct: float
    num_examples: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseResult:
    """What a finished phase did.

    Attributes:
        name: Name of the phase.
        epochs: Epochs that it trained.
        num_steps: Steps that it took.
        best_epoch: Epoch whose state it ended with; 0 is the state before the first epoch. The
            last epoch unless the phase selects one.
        best_score: Selection score of that state; None unless the phase selects one.
    """

    name: str
    epochs: int
    num_steps: int
    best_epoch: int
    best_score: float | None


@dataclass(kw_only=True, slots=True)
class TrainingPosition:
    """How far a training has come.

    Attributes:
        phase: Name of the current phase; "" between phases.
        epoch: Finished epochs of that phase.
        step_sums: Sums of each finished step of the current epoch.
        epoch_seconds: Duration of those steps.
        best_epoch: Epoch of the current phase with the highest selection score so far; 0 is the
            state before the first epoch.
        best_score: That score; None before the first one, and in a phase without a selection.
        results: Finished phases, in the order in which they ran.
        history: One record per finished epoch, over all phases.
        seconds: Duration of the whole training at the last save, over all starts.
    """

    phase: str = ""
    epoch: int = 0
    step_sums: list[Sums] = field(default_factory=list)
    epoch_seconds: float = 0.0
    best_epoch: int = 0
    best_score: float | None = None
    results: list[PhaseResult] = field(default_factory=list)
    history: list[EpochRecord] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def num_steps(self) -> int:
        """Number of finished steps of the current epoch."""
        return len(self.step_sums)

    @property
    def num_finished_steps(self) -> int:
        """Number of steps of all finished phases."""
        return sum(result.num_steps for result in self.results)

    def result_of(self, phase: str) -> PhaseResult | None:
        """Return the result of a phase, or None if it is not finished."""
        return next((result for result in self.results if result.name == phase), None)

    def start_phase(self, phase: str) -> None:
        """Move to the start of a phase."""
        self.phase, self.epoch = phase, 0
        self.step_sums, self.epoch_seconds = [], 0.0
        self.best_epoch, self.best_score = 0, None

    def finish_phase(self, *, num_steps: int) -> PhaseResult:
        """Move past the current phase and return its result.

        Args:
            num_steps: Steps that the phase took.
        """
        result = PhaseResult(
            name=self.phase,
            epochs=self.epoch,
            num_steps=num_steps,
            best_epoch=self.epoch if self.best_score is None else self.best_epoch,
            best_score=self.best_score,
        )
        self.results.append(result)
        self.start_phase("")
        return result

    def finish_step(self, sums: Sums, *, epoch_seconds: float) -> None:
        """Move past one step.

        Args:
            sums: Sums over the step's batch.
            epoch_seconds: Duration of the epoch's steps so far.
        """
        self.step_sums.append(sums)
        self.epoch_seconds = epoch_seconds

    def finish_epoch(self, validation: Sums, *, learning_rate: float) -> EpochRecord:
        """Move to the next epoch and return the record of the finished one.

        Args:
            validation: Sums over the validation split, which may be empty.
            learning_rate: Learning rate after the last step.
        """
        train = _total(self.step_sums)
        num_validation = validation.num_examples
        record = EpochRecord(
            phase=self.phase,
            epoch=self.epoch + 1,
            learning_rate=learning_rate,
            train_loss=train.loss / train.num_examples,
            train_precision_at_1=train.correct / train.num_examples,
            validation_loss=validation.loss / num_validation if num_validation else None,
            validation_precision_at_1=(
                validation.correct / num_validation if num_validation else None
            ),
            seconds=self.epoch_seconds,
        )
        self.history.append(record)
        self.epoch += 1
        self.step_sums, self.epoch_seconds = [], 0.0
        return record

    def note_score(self, score: float) -> bool:
        """Note the selection score of the current epoch; return whether it is the best so far.

        Of equal scores the earliest counts.
        """
        if self.best_score is not None and not score > self.best_score:
            return False
        self.best_epoch, self.best_score = self.epoch, score
        return True

    def examples_per_second(self, num_examples: int) -> float:
        """Return the median training speed over the epochs of the last phase.

        Args:
            num_examples: Training examples per epoch.
        """
        last_phase = self.history[-1].phase
        seconds = [record.seconds for record in self.history if record.phase == last_phase]
        return num_examples / statistics.median(seconds)


def _total(step_sums: Sequence[Sums]) -> Sums:
    # fsum rounds once, so the result does not depend on where the epoch was interrupted.
    return Sums(
        loss=math.fsum(sums.loss for sums in step_sums),
        correct=math.fsum(sums.correct for sums in step_sums),
        num_examples=math.fsum(sums.num_examples for sums in step_sums),
    )
