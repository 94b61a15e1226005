"""Whether recipe `auto` tries to fine-tune the network, and for how long, within a budget.

The time is estimated from two measurements: of a picture on its way through the network, and, with
several replicas, of the exchange of gradients. It is the time of all epochs, so a trial that ends
early takes less.
"""

import time
from dataclasses import dataclass

import tensorflow as tf

from repot.classifier import FeatureNetwork
from repot.json_record import JsonRecord
from repot.trainer.auto.averages import NUM_STATES
from repot.trainer.auto.selection import VIEWS
from repot.trainer.batches import Pictures

MAX_EPOCHS = 8
MIN_EPOCHS = 3
SELECTION_SHARE, MAX_SELECTED = 0.2, 20_000
"""The selection part of the training pictures: this share, and at most about as many."""

MIN_PICTURES_PER_LABEL = 10
"""Fewer training pictures per label on average are too few to fine-tune."""

_BATCH_SIZE = 32
_STEP_COST = 3.0  # A training step takes about as long as three forward passes.


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuningPlan(JsonRecord):
    """Whether fine-tuning is tried; stored, because it depends on the machine's speed.

    Attributes:
        epochs: Epochs of the trial; 0 does not try.
        reason: Why not, or how long it is expected to take.
    """

    epochs: int
    reason: str


def plan_fine_tuning(
    network: FeatureNetwork,
    pictures: Pictures,
    *,
    num_labels: int,
    budget_seconds: float,
    num_replicas: int = 1,
    exchange_seconds: float = 0.0,
) -> FineTuningPlan:
    """Decide whether fine-tuning is tried, and for how many epochs.

    Args:
        network: The feature network; it is timed on one device.
        pictures: The training pictures.
        num_labels: Number of labels.
        budget_seconds: Time that the trial and the final training may take.
        num_replicas: Devices that share the work, of all workers.
        exchange_seconds: Time that they take to add up the gradients of a step.
    """
    num_examples = pictures.num_examples
    if not budget_seconds:
        return FineTuningPlan(
            epochs=0, reason="not tried: the budget is 0, its default without a GPU"
        )
    if num_examples < MIN_PICTURES_PER_LABEL * num_labels:
        reason = (
            f"not tried: {num_examples} training pictures are fewer than {MIN_PICTURES_PER_LABEL} "
            "per label"
        )
        return FineTuningPlan(epochs=0, reason=reason)
    # One epoch of the trial, which is scored, and one of the final training.
    selected = selection_share(num_examples)
    pass_seconds = num_examples * _seconds_per_picture(network) / num_replicas
    epoch_seconds = pass_seconds * (_STEP_COST * (1 - selected) + selected + _STEP_COST)
    epoch_seconds += (2 - selected) * num_examples / pictures.batch_size * exchange_seconds
    # At the end of the trial, every view of the selection part is scored with each average.
    end_seconds = pass_seconds * selected * len(VIEWS) * (NUM_STATES + 1)
    epochs = min(int((budget_seconds - end_seconds) / epoch_seconds), MAX_EPOCHS)
    expected = end_seconds + max(epochs, MIN_EPOCHS) * epoch_seconds
    minutes = f"about {expected / 60:.1f} min"
    if epochs < MIN_EPOCHS:
        reason = f"not tried: {MIN_EPOCHS} epochs would take {minutes}, more than the budget"
        return FineTuningPlan(epochs=0, reason=reason)
    devices = f" on {num_replicas} devices" if num_replicas > 1 else ""
    return FineTuningPlan(epochs=epochs, reason=f"{epochs} epochs, {minutes} in all{devices}")


def selection_share(num_examples: int) -> float:
    """Return the share of some training pictures that the selection part has."""
    return min(SELECTION_SHARE, MAX_SELECTED / num_examples)


def _seconds_per_picture(network: FeatureNetwork) -> float:
    infer = tf.function(lambda inputs: network.model(inputs, training=False))
    inputs = tf.zeros([_BATCH_SIZE, *network.model.input.shape[1:]])
    infer(inputs)
    started = time.monotonic()
    tf.nest.map_structure(lambda output: output.numpy(), infer(inputs))
    return (time.monotonic() - started) / _BATCH_SIZE
