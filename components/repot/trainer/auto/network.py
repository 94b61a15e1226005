"""The whole network of recipe `auto`: how it is trained and scored, on all devices.

Layers have learning rates of their own, the first ones lower ones; BatchNorm keeps the statistics
of the checkpoint; labels are smoothed, classes have the weights that the head was chosen with, and
pictures may be blended (mixup).

Of several workers, each reads and scores its share of the pictures. All of them get all results, so
that they go on alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from repot.augmentation import augment, mixup
from repot.classifier import HEAD_NAME, FeatureNetwork, linear_classifier, normalise_features
from repot.preprocessing import decode_jpeg, view_picture
from repot.trainer.auto.averages import Values, values_of
from repot.trainer.auto.heads import FloatArray, IntArray, LinearHead
from repot.trainer.auto.selection import Candidate
from repot.trainer.batches import Pictures, input_options
from repot.trainer.loop import TrainingRun
from repot.trainer.optimizer import make_optimizer
from repot.trainer.phases import Selection, TrainingPhase
from repot.trainer.step import LABEL_SMOOTHING
from repot.trainer.strategy import (
    gather_rows,
    local_replicas,
    run_on_replicas,
    worker_share,
)

LEARNING_RATE = 3e-4
LAYER_DECAY = 0.8
"""Learning rate of a twelfth of the network's depth, relative to the next one."""
_DEPTH_GROUPS = 4
_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FineTuning:
    """What fine-tuning works on.

    Attributes:
        classifier: keras.Model from `repot.classifier.build_classifier`.
        network: Its feature network with the parts that the candidate uses.
        candidate: The chosen features.
        weights_path: The checkpoint's weights of the backbone.
        pictures: The pictures of each split.
        augmentation: A key of `repot.recipes.AUGMENTATIONS`.
        flip: Whether pictures may be mirrored.
        mixes: Whether training pictures are blended (mixup).
        class_weights: float64 [N], the weight of the pictures of each class; 1 on average over the
            training pictures.
        run: The training.
    """

    classifier: Any
    network: FeatureNetwork
    candidate: Candidate
    weights_path: Path
    pictures: Mapping[str, Pictures]
    augmentation: str
    flip: bool
    mixes: bool
    class_weights: FloatArray
    run: TrainingRun

    @property
    def backbone(self) -> Any:
        """The classifier's backbone."""
        (backbone,) = [each for each in self.classifier.layers if isinstance(each, keras.Model)]
        return backbone


def training_pictures(work: FineTuning, numbers: IntArray | None) -> Pictures:
    """Return training pictures, by number, or all of them."""
    return replace(work.pictures["train"], augmentation=work.augmentation, only=numbers)


def start(work: FineTuning, head: LinearHead) -> tuple[Any, Values]:
    """Return the classifier with the checkpoint's weights and a head, and their values."""
    with work.run.strategy.scope():
        model = linear_classifier(work.network, head.kernel, head.bias)
    return model, values_of(model)


def head_of(model: Any) -> LinearHead:
    """Return the head of a classifier."""
    kernel, bias = model.get_layer(HEAD_NAME).get_weights()
    return LinearHead(kernel=kernel.astype(np.float64), bias=bias.astype(np.float64))


def make_phase(
    work: FineTuning,
    name: str,
    model: Any,
    train: Pictures,
    *,
    epochs: int,
    schedule_epochs: int,
    after_epoch: Callable[[int, float | None], None],
    selection: Selection | None = None,
) -> TrainingPhase:
    """Return a phase that trains the whole network.

    Args:
        work: What to fine-tune.
        name: Name of the phase.
        model: The classifier.
        train: The pictures to train on.
        epochs: Number of epochs.
        schedule_epochs: Epochs after which the learning rate would be zero.
        after_epoch: See `TrainingPhase`.
        selection: See `TrainingPhase`.
    """
    steps_per_epoch = -(-train.num_examples // train.batch_size)
    return TrainingPhase(
        name=name,
        model=model,
        outputs=lambda inputs, training: _outputs(work, model, inputs, training),
        loss=lambda outputs, labels: _loss(outputs, labels, work.class_weights),
        optimizer=lambda factor: make_optimizer(
            factor * LEARNING_RATE,
            num_steps=schedule_epochs * steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
        ),
        multiplier=_multiplier(work.backbone),
        selection=selection,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        learning_rate=LEARNING_RATE,
        save_interval=1,
        reports_steps=True,
        in_pairs=work.mixes,
        train_batches=lambda epoch, skip: train.training_batches(epoch, skip, in_pairs=work.mixes),
        validation_batches=work.pictures["validation"].scoring_batches,
        after_epoch=after_epoch,
    )


def _outputs(work: FineTuning, model: Any, inputs: Any, training: bool) -> tuple[Any, ...]:
    """Return the logits and, if pictures are blended, the share of each example in each.

    Returns:
        float32 [batch, N + 1], and perhaps float32 [batch, batch].
    """
    # BatchNorm keeps the checkpoint's statistics.
    if not training:
        return (model(inputs, training=False),)
    draws = inputs.draws
    pictures = augment(inputs, augmentation=work.augmentation, flip=work.flip)
    if not work.mixes:
        return (model(pictures, training=False),)
    is_example = tf.cast(tf.reduce_any(draws > 0, axis=1), tf.float32)
    pictures, shares = mixup(pictures, tf.eye(tf.shape(draws)[0]), is_example, draws)
    return model(pictures, training=False), shares


def _loss(outputs: tuple[Any, ...], labels: Any, class_weights: FloatArray) -> Any:
    """Return the weighted cross-entropy with smoothed labels: float32 [batch], in nats.

    Args:
        outputs: Those of `_outputs`; labels of blended pictures are blended like them.
        labels: int64 [batch], class ids.
        class_weights: See `FineTuning`.
    """
    logits = outputs[0][:, 1:]
    classes = tf.maximum(labels - 1, 0)  # padding counts as class 0 and is masked out
    targets = tf.one_hot(classes, logits.shape[-1])
    targets = targets * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / logits.shape[-1]
    targets *= tf.gather(tf.constant(class_weights, tf.float32), classes)[:, tf.newaxis]
    if len(outputs) > 1:
        targets = outputs[1] @ targets
    # TensorFlow's own function is for targets that add up to 1.
    return -tf.reduce_sum(targets * tf.nn.log_softmax(logits), axis=-1)


def _multiplier(backbone: Any) -> Callable[[Any], float]:
    """Return the learning-rate multiplier by variable: the deeper a layer, the higher.

    Layers are in four groups, because each multiplier needs an optimizer of its own.
    """
    # Not `backbone.layers`: a network of KerasHub is a single one.
    layers = [variable.path.rpartition("/")[0] for variable in backbone.trainable_variables]
    places = {layer: i for i, layer in enumerate(dict.fromkeys(layers))}
    factors = {}
    for variable, layer in zip(backbone.trainable_variables, layers, strict=True):
        group = places[layer] * _DEPTH_GROUPS // len(places)
        factors[id(variable)] = LAYER_DECAY ** (12 * (1 - (group + 0.5) / _DEPTH_GROUPS))
    return lambda variable: factors.get(id(variable), 1.0)


class Scorer:
    """Computes features with the network's present weights, averaged over the candidate's views.

    Args:
        work: What is fine-tuned.
    """

    def __init__(self, work: FineTuning) -> None:
        self._work = work
        self._examples = work.pictures["train"].examples
        self._infer = tf.function(
            lambda pictures: run_on_replicas(work.run.strategy, self._features, pictures),
            reduce_retracing=True,
        )

    def score(
        self, numbers: IntArray, answer: Callable[[FloatArray], FloatArray] = lambda rows: rows
    ) -> FloatArray:
        """Return what a function makes of the features of some training pictures.

        Args:
            numbers: int64 [n], of the pictures.
            answer: float64 [m, features] normalised features -> float64 [m, columns].

        Returns:
            float64 [n, columns].
        """
        network, strategy = self._work.network, self._work.run.strategy
        own = numbers[worker_share(strategy, len(numbers))]
        parts = [answer(np.empty((0, sum(network.sizes))))]
        num_replicas = local_replicas(strategy)
        prepared = self._examples.read(own).map(self._prepare, num_parallel_calls=tf.data.AUTOTUNE)
        batches = prepared.batch(num_replicas * _BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
        for batch in batches.with_options(input_options()):
            features = np.mean([self._infer(pictures).numpy() for pictures in batch], axis=0)
            parts.append(answer(normalise_features(features, network.sizes)))
        return gather_rows(strategy, np.concatenate(parts))

    def _features(self, pictures: Any) -> Any:
        outputs = self._work.network.model(pictures, training=False)
        return tf.concat(tf.nest.flatten(outputs), axis=-1)

    def _prepare(self, example: dict[str, Any]) -> tuple[Any, ...]:
        picture = decode_jpeg(example["encoded"])
        side = self._work.pictures["train"].image_size
        return tuple(view_picture(picture, side, view) for view in self._work.candidate.views)
