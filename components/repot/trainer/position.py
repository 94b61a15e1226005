"""The training position: how far a training has come, in one object.

`repot.trainer.loop.fit` advances it step by step, `repot.trainer.state` saves and loads it.
A training that resumes from a saved position ends like one that was never interrupted.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from repot.training_record import EpochRecord

PHASES = ("head", "fine_tune")
"""All training phases, in the order in which they run."""


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


@dataclass(kw_only=True, slots=True)
class TrainingPosition:
    """How far a training has come.

    Attributes:
        phase: Current phase, one of PHASES; "" before the first one.
        epoch: Finished epochs of that phase.
        step_sums: Sums of each finished step of the current epoch.
        epoch_seconds: Duration of those steps.
        history: One record per finished epoch, over all phases.
        seconds: Duration of the whole training at the last save, over all starts.
    """

    phase: str = ""
    epoch: int = 0
    step_sums: list[Sums] = field(default_factory=list)
    epoch_seconds: float = 0.0
    history: list[EpochRecord] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def num_steps(self) -> int:
        """Number of finished steps of the current epoch."""
        return len(self.step_sums)

    def is_past(self, phase: str) -> bool:
        """Return whether a later phase than `phase` has begun."""
        return self.phase != "" and PHASES.index(self.phase) > PHASES.index(phase)

    def start_phase(self, phase: str) -> None:
        """Move to the start of a phase."""
        self.phase, self.epoch = phase, 0
        self.step_sums, self.epoch_seconds = [], 0.0

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
