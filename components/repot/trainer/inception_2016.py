"""The recipe of 2016: what research/inception did with the options of the tutorial.

All layers of Inception-v3 are trained at once, from the checkpoint's weights except for the two
layers of logits: with an auxiliary head, BatchNorm in training mode, weight decay in the loss,
RMSProp, a learning rate that falls in steps, and a moving average of the weights, which is what the
evaluation sees and the model publishes.

    what                        value                                         source
    loss                        cross-entropy + 0.4 * that of the auxiliary   inception_model.py
                                head, labels smoothed by 0.1, + decay         :loss
    weight decay                0.00004 / 2 * sum of squares of all kernels   inference
    BatchNorm                   decay of the statistics 0.9997                BATCHNORM_MOVING_
                                                                              AVERAGE_DECAY
    optimizer                   RMSProp: decay 0.9, momentum 0.9, epsilon 1,  inception_train.py
                                mean square starts at 1
    learning rate               0.001 * 0.16 ^ floor(epochs / 30)             flags, tutorial
    moving average of weights   0.9999, warming up                            MOVING_AVERAGE_DECAY

Known defects of the program are not copied: its BatchNorm forgot the checkpoint's statistics in the
first step (zero debias), its moving averages started at random weights, the order of updates of a
step was undefined, and several GPUs kept the statistics of the last one; here it is their mean.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from repot import progress
from repot.auxiliary_head import ARRAY_SHAPES, LAYER, build_auxiliary_head, truncated_normal
from repot.backbone_weights import load_weights
from repot.classifier import DROPOUT_NAME, HEAD_NAME, RESCALE_NAME
from repot.recipes import RECIPES
from repot.settings import TrainingSettings
from repot.trainer.batches import Pictures
from repot.trainer.phases import TrainingPhase
from repot.trainer.step import smoothed_cross_entropy

AUXILIARY_LOSS_WEIGHT = 0.4
WEIGHT_DECAY = 0.00004
BATCH_NORM_DECAY = 0.9997
AVERAGE_DECAY = 0.9999
RMSPROP_DECAY, RMSPROP_MOMENTUM, RMSPROP_EPSILON = 0.9, 0.9, 1.0
_LOGITS_STDDEV = 0.01
MIN_STEPS = 1000
"""Fewer steps give a warning: after 1000, a quarter of the BatchNorm statistics is new.

The tutorial's result, 93.4 % on flowers, took 2000.
"""


def inception_2016_phase(
    classifier: Any,
    *,
    pictures: Mapping[str, Pictures],
    settings: TrainingSettings,
    weights_path: Path,
    augment: Callable[[Any], Any],
    num_parts: int = 1,
) -> TrainingPhase:
    """Return the only phase of the recipe. Call it under the strategy.

    Args:
        classifier: keras.Model from `repot.classifier.build_classifier`, of inception_v3; the phase
            trains its layers.
        pictures: The pictures of the splits train and validation.
        settings: Training settings; zeros take the recipe's own epochs and learning rate.
        weights_path: The checkpoint's weights, for the auxiliary head.
        augment: Turns TrainingPictures into the model's input.
        num_parts: Parts of a batch that go through the network one after the other.
    """
    recipe = RECIPES["inception_2016"]
    train = pictures["train"]
    model = _training_model(classifier, seed=settings.seed, weights_path=weights_path)
    _set_statistics_decay(model, num_parts)
    kernels = [variable for variable in model.trainable_variables if variable.name == "kernel"]
    learning_rate = settings.learning_rate or recipe.learning_rate
    decay_epochs = settings.num_epochs_per_decay
    decay_steps = int(train.num_examples / settings.batch_size * decay_epochs)

    epochs = settings.epochs or recipe.epochs
    num_steps = epochs * train.num_full_batches
    if num_steps < MIN_STEPS:
        progress.notice(
            "train",
            f"recipe=inception_2016 should take at least {MIN_STEPS} steps; got {num_steps}. Its "
            "BatchNorm statistics and its learning rate are slow. Choose more epochs, or "
            "recipe=fine_tune.",
            is_warning=True,
        )

    def outputs(inputs: Any, training: bool) -> tuple[Any, ...]:
        return tuple(model(augment(inputs) if training else inputs, training=training))

    def train_batches(epoch: int, skip: int) -> Any:
        return train.training_batches(epoch, skip, only_full=True)

    return TrainingPhase(
        name="inception_2016",
        model=model,
        outputs=outputs,
        loss=_loss,
        penalty=lambda: weight_decay(kernels),
        optimizer=lambda factor: make_rmsprop(
            factor * learning_rate,
            decay_steps=max(1, decay_steps),
            decay_factor=settings.learning_rate_decay_factor,
        ),
        average_decay=AVERAGE_DECAY,
        updates_statistics=True,
        epochs=epochs,
        steps_per_epoch=train.num_full_batches,
        learning_rate=learning_rate,
        save_interval=1,
        reports_steps=True,
        train_batches=train_batches,
        validation_batches=pictures["validation"].scoring_batches,
    )


class RMSprop2016(keras.optimizers.RMSprop):  # type: ignore[misc]
    """RMSProp whose mean squares start at 1, as in TensorFlow 1; those of Keras start at 0."""

    def add_optimizer_variables(
        self, trainable_variables: Any, name: Any, initializer: Any = "zeros"
    ) -> Any:
        """Return one variable per trained variable, as Keras' method does."""
        if name == "velocity":  # Keras' name of the mean squares
            initializer = "ones"
        return super().add_optimizer_variables(trainable_variables, name, initializer)


def make_rmsprop(learning_rate: float, *, decay_steps: int, decay_factor: float) -> Any:
    """Return the keras.Optimizer of 2016.

    Args:
        learning_rate: Learning rate of the first step.
        decay_steps: Steps after which it falls, and falls again.
        decay_factor: What it is multiplied by each time.
    """
    schedule = keras.optimizers.schedules.ExponentialDecay(
        learning_rate, decay_steps=decay_steps, decay_rate=decay_factor, staircase=True
    )
    return RMSprop2016(
        schedule, rho=RMSPROP_DECAY, momentum=RMSPROP_MOMENTUM, epsilon=RMSPROP_EPSILON
    )


def weight_decay(kernels: list[Any]) -> Any:
    """Return WEIGHT_DECAY times half of the sum of squares of all kernels, float32 []."""
    return WEIGHT_DECAY * tf.add_n([tf.nn.l2_loss(kernel.value) for kernel in kernels])


def _loss(outputs: tuple[Any, ...], labels: Any) -> Any:
    logits, auxiliary_logits = outputs
    return smoothed_cross_entropy(logits, labels) + AUXILIARY_LOSS_WEIGHT * smoothed_cross_entropy(
        auxiliary_logits, labels
    )


def _training_model(classifier: Any, *, seed: int, weights_path: Path) -> Any:
    """Return a model (pictures) -> [logits, auxiliary logits] that shares the classifier's layers.

    Sets the initial weights of both heads.
    """
    dropout, head = classifier.get_layer(DROPOUT_NAME), classifier.get_layer(HEAD_NAME)
    (backbone,) = (layer for layer in classifier.layers if isinstance(layer, keras.Model))
    mixed = backbone.get_layer(LAYER).output
    head_seed, auxiliary_seed = np.random.SeedSequence([seed, 2016]).generate_state(2).tolist()
    head.kernel.assign(truncated_normal(_LOGITS_STDDEV, head_seed)(head.kernel.shape))
    auxiliary = build_auxiliary_head(mixed.shape[1], num_classes=head.units, seed=auxiliary_seed)
    _load_auxiliary(auxiliary, weights_path)
    trunk = keras.Model(backbone.input, [backbone.output, mixed])
    features, middle = trunk(classifier.get_layer(RESCALE_NAME).output)
    outputs = [head(dropout(features)), auxiliary(middle)]
    return keras.Model(classifier.input, outputs, name="inception_2016")


def _set_statistics_decay(model: Any, num_parts: int) -> None:
    """Set the decay of every BatchNorm, whose statistics each part of a batch updates."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = BATCH_NORM_DECAY ** (1 / num_parts)


def _load_auxiliary(auxiliary: Any, weights_path: Path) -> None:
    with h5py.File(weights_path, "r") as file:
        is_stored = all(name in file for name in ARRAY_SHAPES)
    if not is_stored:
        progress.notice(
            "train",
            "The checkpoint has no auxiliary head; that of the training starts from random "
            "weights.",
        )
        return
    convolutions = keras.Model(auxiliary.input, auxiliary.layers[-2].output)
    load_weights(convolutions, weights_path)
