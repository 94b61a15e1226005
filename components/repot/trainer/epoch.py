"""One epoch of a phase: its steps, and what they come to."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from repot import progress
from repot.errors import TrainingError
from repot.trainer.phase import Phase
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
        self, phase: Phase, runner: StepRunner, epoch: int, meter: Meter, should_stop: Callable[[], bool]
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
                meter.report(phase, epoch, len(self.sums), f"loss {sums.loss / sums.num_examples:.2f}")
            yield is_stopping

    def row(self, phase: Phase, epoch: int, validation: Sums) -> dict[str, Any]:
        """Return the row of the history for a whole epoch, without the learning rate."""
        train, count = Sums(*(math.fsum(column) for column in zip(*self.sums, strict=True))), validation.num_examples
        return {
            "phase": phase.name,
            "epoch": epoch + 1,
            "train_loss": train.loss / train.num_examples,
            "train_precision_at_1": train.correct / train.num_examples,
            "validation_loss": validation.loss / count if count else None,
            "validation_precision_at_1": validation.correct / count if count else None,
            "seconds": self.seconds,
        }


def _not_finite(phase: Phase, epoch: int, step: int) -> TrainingError:
    return TrainingError(
        f"The loss must be finite; it is not in phase {phase.name}, epoch {epoch + 1}, step {step}, with "
        f"learning_rate={phase.learning_rate}. Try a tenth of the learning rate; if it happens in the very first step, "
        "the checkpoint's weights are not finite: try another checkpoint."
    )
