"""A training phase: everything that one call of `repot.trainer.loop.fit` needs."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from repot.trainer.step import Loss, Outputs

_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """How a phase selects the epoch whose state it ends with: the one with the highest score.

    The state before the first epoch takes part, as epoch 0.

    Attributes:
        batches: () -> the batches that are scored; never those of validation or test.
        score: (float32 [num_examples, N + 1] logits, int64 [num_examples] labels) -> score.
            Higher is better.
        patience: Epochs in a row without a better score after which the phase ends; 0 runs all.
    """

    batches: Callable[[], Any]
    score: Callable[[Any, Any], float]
    patience: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPhase:
    """A part of a training: one model, one loss and one learning-rate schedule.

    Attributes:
        name: Unique within the training: lower-case letters, digits and "_"; part of file names.
        model: keras.Model, built under the strategy. All of its variables are saved.
        outputs: (inputs, training) -> tuple of float32 [batch, N + 1] logits, from the model's
            layers. The first ones are the classifier's; others are only for the loss.
        loss: (outputs, labels) -> float32 [batch], the loss of each example.
        penalty: () -> float32 [], such as a weight decay that is part of the loss.
        optimizer: (factor) -> a new keras.Optimizer with `factor` times the phase's learning rate.
        multiplier: (variable) -> learning-rate multiplier of a trainable variable of the model;
            0 does not train it. None trains all of them alike.
        average_decay: Decay of the moving average of the weights, see
            `repot.trainer.optimizer.WeightAverage`; scores and the result are those of the
            average. 0 without one.
        updates_statistics: Whether a step updates statistics among the model's variables, such as
            those of a BatchNorm in training mode; each step then averages them over the replicas.
        in_pairs: Whether `outputs` blends rows 0 and 1 of a batch, rows 2 and 3, and so on;
            `train_batches` must not divide pairs between replicas then.
        selection: Selects the epoch whose state the phase ends with; None is the last epoch.
        epochs: Number of epochs.
        steps_per_epoch: Number of batches per epoch.
        learning_rate: Peak learning rate, for messages.
        save_interval: Epochs between two saves; the last epoch is always saved.
        reports_steps: Whether every step reports its progress, not only every epoch.
        steps_per_call: Most steps per call of the compiled loop, between which nothing is saved,
            stopped or reported; 0 leaves it to the device, see `repot.trainer.strategy`.
        train_batches: (epoch in [0, epochs), number of batches to skip) -> the epoch's batches.
        validation_batches: () -> the batches that are scored after each epoch, for the history.
        after_epoch: (finished epochs, selection score or None) is called after each epoch, when the
            model has the weights that are scored, and before the state is saved: after an
            interruption, it is called again for an epoch that is repeated.
    """

    name: str
    model: Any
    outputs: Outputs
    loss: Loss
    penalty: Callable[[], Any] | None = None
    optimizer: Callable[[float], Any]
    multiplier: Callable[[Any], float] | None = None
    average_decay: float = 0.0
    updates_statistics: bool = False
    in_pairs: bool = False
    selection: Selection | None = None
    epochs: int
    steps_per_epoch: int
    learning_rate: float
    save_interval: int
    reports_steps: bool
    steps_per_call: int = 0
    train_batches: Callable[[int, int], Any]
    validation_batches: Callable[[], Any]
    after_epoch: Callable[[int, float | None], None] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                "The name of a phase must be lower-case letters, digits and '_', not starting with "
                f"'_'; got name={self.name!r}."
            )

    @property
    def num_steps(self) -> int:
        """Number of steps of the whole phase, unless its selection ends it early."""
        return self.epochs * self.steps_per_epoch
