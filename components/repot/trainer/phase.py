"""A stretch of training with one model and one learning rate schedule, and its optimizer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

WEIGHT_DECAY = 1e-4
WARMUP_EPOCHS = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A stretch of training with one model and one learning rate schedule.

    Attributes:
        name: One of `repot.trainer.state.PHASES`.
        model: Its trainable variables are what is trained, all of its variables what is saved.
        logits: (inputs, training) -> float32 [batch, N + 1] logits, from the model's layers.
        epochs: Length of the phase.
        learning_rate: Peak, after a linear warm-up of one epoch; it falls to 0 along a cosine.
        save_interval: Epochs between two saves of the state; the last epoch is always saved.
        num_examples: Training examples an epoch.
        batch_size: Examples a step.
        train_batches: Gives the batches of an epoch in [0, epochs), without so many at its start.
        validation_batches: Gives the batches that are scored after each epoch.
    """

    name: str
    model: Any
    logits: Callable[[Any, bool], Any]
    epochs: int
    learning_rate: float
    save_interval: int
    num_examples: int
    batch_size: int
    train_batches: Callable[[int, int], Any]
    validation_batches: Callable[[], Any]

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of batches an epoch."""
        return math.ceil(self.num_examples / self.batch_size)


def make_optimizer(phase: Phase) -> Any:
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
