"""The optimizer and its learning-rate schedule: AdamW, linear warm-up, cosine decay to zero."""

from typing import Any

import keras

WARMUP_EPOCHS = 1
WEIGHT_DECAY = 1e-4


def make_optimizer(peak_learning_rate: float, *, num_steps: int, steps_per_epoch: int) -> Any:
    """Return the keras.Optimizer of one training phase.

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
