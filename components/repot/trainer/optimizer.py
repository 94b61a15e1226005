"""Optimizers, learning-rate schedules, and the moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

WARMUP_EPOCHS = 1
WEIGHT_DECAY = 1e-4


def make_optimizer(peak_learning_rate: float, *, num_steps: int, steps_per_epoch: int) -> Any:
    """Return AdamW with a linear warm-up and a cosine decay to zero.

    Weight decay leaves out biases and the parameters of BatchNorm.
    Source: Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization.

    Args:
        peak_learning_rate: Learning rate at the end of the warm-up.
        num_steps: Steps of the whole phase.
        steps_per_epoch: Steps of one epoch.
    """
    schedule = learning_rate_schedule(
        peak_learning_rate, num_steps=num_steps, warmup_steps=WARMUP_EPOCHS * steps_per_epoch
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return optimizer


def learning_rate_schedule(peak: float, *, num_steps: int, warmup_steps: int) -> Any:
    """Return the learning rate by step: linear from 0 to `peak`, then along a cosine to 0.

    Source: Loshchilov and Hutter 2017, SGDR (one cycle, no restarts).

    Args:
        peak: Learning rate after `warmup_steps`.
        num_steps: Steps in total, warm-up included. A phase that is all warm-up ends at the peak.
        warmup_steps: Steps of the linear part.
    """
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, num_steps - warmup_steps),
        warmup_target=peak,
        warmup_steps=warmup_steps,
    )


class WeightAverage:
    """The exponential moving average of every weight of a model, BatchNorm statistics included.

    After step t, counted from 1, the average moves towards the weights by 1 - d, where
    d = min(decay, (1 + t) / (10 + t)): early on, it forgets the initial weights quickly.
    Source: tf.train.ExponentialMovingAverage with num_updates, as research/inception,
    inception_train.py uses it.

    Args:
        model: keras.Model; the average starts at its weights. Create it under the strategy.
        decay: Largest share of the average that one step keeps, in [0, 1).

    Attributes:
        variables: The state: the number of steps and the averages.
    """

    def __init__(self, model: Any, decay: float) -> None:
        self._decay = decay
        # Integers are the states of random generators.
        self._weights = [variable for variable in model.variables if "float" in str(variable.dtype)]
        self._averages = [
            keras.Variable(np.asarray(weight), trainable=False, dtype=weight.dtype)
            for weight in self._weights
        ]
        self._num_steps = keras.Variable(0, trainable=False, dtype="int64")
        self.variables = [self._num_steps, *self._averages]

    def update(self, strategy: Any) -> None:
        """Move towards the weights after a step. Call it outside of the replicas."""
        self._num_steps.value.assign_add(1)
        steps = tf.cast(self._num_steps.value, tf.float32)
        rate = 1.0 - tf.minimum(self._decay, (1.0 + steps) / (10.0 + steps))
        for average, weight in zip(self._averages, self._weights, strict=True):
            strategy.extended.update(
                average.value,
                lambda value, target: value.assign_sub((value - target) * rate),
                args=(weight.value,),
                group=False,
            )

    def assign(self) -> None:
        """Set the model's weights to the average."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            weight.assign(np.asarray(average))

    @contextmanager
    def assigned(self) -> Iterator[None]:
        """Set the model's weights to the average for the duration of a `with` block."""
        weights = [np.array(np.asarray(weight)) for weight in self._weights]
        self.assign()
        try:
            yield
        finally:
            for weight, value in zip(self._weights, weights, strict=True):
                weight.assign(value)
