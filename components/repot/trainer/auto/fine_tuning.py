"""Recipe `auto`, second part: try to fine-tune the whole network, and keep it if it is better.

A trial starts from the chosen head, fitted to four fifths of the training pictures: head first,
then the whole network (Kumar et al. 2022). The rest, the selection part, chooses the epoch, and
decides by a paired comparison whether fine-tuning is kept. Then the network is trained again, from
the checkpoint and on all training pictures, for as many epochs. The weights before and after are
averaged if that is better on the selection part (Wortsman et al. 2022).
"""

import io
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from repot import progress
from repot.augmentation import augment
from repot.backbone_weights import load_weights
from repot.classifier import HEAD_NAME, FeatureNetwork, linear_classifier, normalise_features
from repot.dataset import Examples
from repot.json_record import JsonRecord
from repot.preprocessing import decode_jpeg, view_picture
from repot.trainer.auto.heads import (
    FloatArray,
    IntArray,
    LinearHead,
    fit_head,
    fit_temperature,
    log_losses,
    select_part,
)
from repot.trainer.auto.selection import Candidate, TrainingFeatures
from repot.trainer.batches import Pictures
from repot.trainer.loop import TrainingRun, fit
from repot.trainer.optimizer import make_optimizer
from repot.trainer.phases import Selection, TrainingPhase
from repot.trainer.step import LABEL_SMOOTHING

MAX_EPOCHS = 8
MIN_EPOCHS = 3
LEARNING_RATE = 3e-4
LAYER_DECAY = 0.8
"""Learning rate of a twelfth of the network's depth, relative to the next one."""
_DEPTH_GROUPS = 4

MIN_PICTURES_PER_LABEL = 10
"""Fewer training pictures per label on average are too few to fine-tune."""

SELECTION_SHARE = 0.2
AVERAGES = (1.0, 0.5)
"""Shares of the fine-tuned weights in the average with those before."""

_DECISION_NAME = "auto-fine-tuning.json"
_HEAD_NAME = "auto-trial.npz"
_BATCH_SIZE = 32
_STEP_COST = 3.0  # A training step takes about as long as three forward passes.

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuningPlan(JsonRecord):
    """Whether fine-tuning is tried; stored, because it depends on the machine's speed.

    Attributes:
        epochs: Epochs of the trial; 0 does not try.
        reason: Why not, or how long it is expected to take.
    """

    epochs: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuningDecision(JsonRecord):
    """What the trial showed.

    Attributes:
        is_chosen: Whether fine-tuning is kept.
        epochs: Epochs after which the trial was best.
        share: Share of the fine-tuned weights in the average.
        temperature: Temperature of the fine-tuned network.
        num_correct_before, num_correct: Pictures of the selection part that the head alone, and the
            fine-tuned network, classify correctly.
        num_examples: Pictures of the selection part.
    """

    is_chosen: bool
    epochs: int
    share: float
    temperature: float
    num_correct_before: int
    num_correct: int
    num_examples: int

    @property
    def text(self) -> str:
        """The decision for people."""
        counts = (
            f"of {self.num_examples} pictures of the selection part, the head alone classified "
            f"{self.num_correct_before} correctly, the fine-tuned network {self.num_correct}"
        )
        if not self.is_chosen:
            return f"tried and not kept: {counts}"
        return f"kept, {self.epochs} epochs, {self.share:.0%} of the fine-tuned weights: {counts}"


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
        run: The training.
    """

    classifier: Any
    network: FeatureNetwork
    candidate: Candidate
    weights_path: Path
    pictures: Mapping[str, Pictures]
    augmentation: str
    flip: bool
    run: TrainingRun

    @property
    def backbone(self) -> Any:
        """The classifier's backbone."""
        (backbone,) = [each for each in self.classifier.layers if isinstance(each, keras.Model)]
        return backbone


def plan_fine_tuning(
    network: FeatureNetwork, pictures: Pictures, *, num_labels: int, budget_seconds: float
) -> FineTuningPlan:
    """Decide whether fine-tuning is tried, and for how many epochs.

    Args:
        network: The feature network; it is timed.
        pictures: The training pictures.
        num_labels: Number of labels.
        budget_seconds: Time that the trial and the final training may take.
    """
    num_examples = pictures.num_examples
    if not budget_seconds:
        return FineTuningPlan(epochs=0, reason="not tried: budget=0")
    if pictures.share is not None:
        return FineTuningPlan(epochs=0, reason="not tried: there are several workers")
    if num_examples < MIN_PICTURES_PER_LABEL * num_labels:
        reason = (
            f"not tried: {num_examples} training pictures are fewer than {MIN_PICTURES_PER_LABEL} "
            "per label"
        )
        return FineTuningPlan(epochs=0, reason=reason)
    # One epoch of the trial, which is scored, and one of the final training.
    share = 1 - SELECTION_SHARE
    passes = num_examples * (_STEP_COST * share + SELECTION_SHARE + _STEP_COST)
    epoch_seconds = passes * _seconds_per_picture(network)
    epochs = min(int(budget_seconds / epoch_seconds), MAX_EPOCHS)
    minutes = f"about {max(epochs, MIN_EPOCHS) * epoch_seconds / 60:.1f} min"
    if epochs < MIN_EPOCHS:
        reason = f"not tried: {MIN_EPOCHS} epochs would take {minutes}, more than the budget"
        return FineTuningPlan(epochs=0, reason=reason)
    return FineTuningPlan(epochs=epochs, reason=f"{epochs} epochs, {minutes} in all")


def try_fine_tuning(
    work: FineTuning, plan: FineTuningPlan, features: Callable[[], TrainingFeatures], penalty: float
) -> FineTuningDecision:
    """Run the trial and decide; the decision is stored.

    Args:
        work: What to fine-tune.
        plan: How long.
        features: Reads the features of the training pictures; needed at the first start only.
        penalty: Penalty of the trial's head.
    """
    store = work.run.store
    stored = store.read_file(_DECISION_NAME)
    if stored is not None:
        return FineTuningDecision.from_text(stored.decode())
    head, part, before, classes = _trial_head(work, features, penalty)
    train = _pictures(work, np.flatnonzero(~part))
    selection = _pictures(work, np.flatnonzero(part))
    model, initial = _start(work, head)
    result = fit(
        _phase(
            work,
            "auto_trial",
            model,
            train,
            epochs=plan.epochs,
            selection=Selection(
                batches=selection.batches,
                score=lambda logits, labels: (
                    -float(np.mean(log_losses(np.asarray(logits, np.float64)[:, 1:], labels - 1)))
                ),
                patience=MIN_EPOCHS,
            ),
        ),
        work.run,
    )
    tuned = _values(model)
    best: tuple[float, FloatArray, float] | None = None
    for share in AVERAGES:
        _assign_average(model, initial, tuned, share)
        logits = _logits(work, model, selection.examples, np.flatnonzero(part))
        loss = float(np.mean(log_losses(logits, classes)))
        if best is None or loss < best[0]:
            best = (loss, logits, share)
    load_weights(work.backbone, work.weights_path)
    _, logits, share = best or (0.0, before, 0.0)
    was_right, is_right = (each.argmax(axis=1) == classes for each in (before, logits))
    gain, num_changed = int(is_right.sum() - was_right.sum()), int((was_right != is_right).sum())
    decision = FineTuningDecision(
        is_chosen=result.best_epoch > 0 and is_better(gain, num_changed),
        epochs=result.best_epoch,
        share=share,
        temperature=fit_temperature(logits, classes),
        num_correct_before=int(was_right.sum()),
        num_correct=int(is_right.sum()),
        num_examples=len(classes),
    )
    store.write_file(_DECISION_NAME, decision.to_text().encode())
    progress.notice("train", f"fine-tuning {decision.text}")
    return decision


def is_better(gain: int, num_changed: int) -> bool:
    """Return whether fine-tuning is better by more than one standard error.

    Args:
        gain: How many more pictures of the selection part it classifies correctly.
        num_changed: Pictures that only one of the two classifies correctly.
    """
    return gain > 0 and gain**2 > num_changed


def fine_tune(work: FineTuning, selected: LinearHead, decision: FineTuningDecision) -> LinearHead:
    """Fine-tune on all training pictures; return the head that goes with the network."""
    model, initial = _start(work, selected)
    train = _pictures(work, None)
    fit(_phase(work, "fine_tune", model, train, epochs=decision.epochs), work.run)
    _assign_average(model, initial, _values(model), decision.share)
    return _head_of(model)


def _seconds_per_picture(network: FeatureNetwork) -> float:
    infer = tf.function(lambda inputs: network.model(inputs, training=False))
    inputs = tf.zeros([_BATCH_SIZE, *network.model.input.shape[1:]])
    infer(inputs)
    started = time.monotonic()
    tf.nest.map_structure(lambda output: output.numpy(), infer(inputs))
    return (time.monotonic() - started) / _BATCH_SIZE


def _trial_head(
    work: FineTuning, features: Callable[[], TrainingFeatures], penalty: float
) -> tuple[LinearHead, Any, FloatArray, IntArray]:
    """Return head, selection part, its logits with the head alone, and its classes; all stored."""
    store = work.run.store
    data = store.read_file(_HEAD_NAME)
    if data is None:
        table = features()
        digests = [bytes(digest) for digest in table.digests]
        part = select_part(digests, table.classes, SELECTION_SHARE)
        fitted = np.flatnonzero(~part)
        head = fit_head(
            lambda which: table.rows(work.candidate, fitted[which]),
            sum(table.part_sizes(work.candidate)),
            table.classes[fitted],
            table.num_classes,
            penalty=penalty,
        )
        logits = head.logits(table.rows(work.candidate, np.flatnonzero(part)))
        buffer = io.BytesIO()
        np.savez(
            buffer,
            kernel=head.kernel,
            bias=head.bias,
            part=part,
            logits=logits,
            classes=table.classes[part],
        )
        data = buffer.getvalue()
        store.write_file(_HEAD_NAME, data)
    with np.load(io.BytesIO(data)) as stored:
        head = LinearHead(kernel=stored["kernel"], bias=stored["bias"])
        return head, stored["part"], stored["logits"], stored["classes"]


def _pictures(work: FineTuning, numbers: Any) -> Pictures:
    """Return training pictures, by number, or all of them."""
    train = work.pictures["train"]
    return Pictures(
        examples=train.examples,
        image_size=train.image_size,
        batch_size=train.batch_size,
        shuffle_buffer=train.shuffle_buffer,
        seed=train.seed,
        augmentation=work.augmentation,
        only=numbers,
    )


def _start(work: FineTuning, head: LinearHead) -> tuple[Any, list[Any]]:
    """Return the classifier with the checkpoint's weights and a head, and their values."""
    with work.run.strategy.scope():
        model = linear_classifier(work.network, head.kernel, head.bias)
    return model, _values(model)


def _values(model: Any) -> list[Any]:
    return [np.array(np.asarray(variable)) for variable in model.trainable_variables]


def _assign_average(model: Any, before: list[Any], after: list[Any], share: float) -> None:
    for variable, old, new in zip(model.trainable_variables, before, after, strict=True):
        variable.assign((1 - share) * old + share * new)


def _head_of(model: Any) -> LinearHead:
    kernel, bias = model.get_layer(HEAD_NAME).get_weights()
    return LinearHead(kernel=kernel.astype(np.float64), bias=bias.astype(np.float64))


def _phase(
    work: FineTuning,
    name: str,
    model: Any,
    train: Pictures,
    *,
    epochs: int,
    selection: Selection | None = None,
) -> TrainingPhase:
    steps_per_epoch = -(-train.num_examples // train.batch_size)
    num_labels = model.output.shape[-1] - 1

    def outputs(inputs: Any, training: bool) -> tuple[Any]:
        if training:
            inputs = augment(inputs, augmentation=work.augmentation, flip=work.flip)
        return (model(inputs, training=False),)  # BatchNorm keeps the checkpoint's statistics.

    def loss(outputs: Any, labels: Any) -> Any:
        targets = tf.one_hot(labels - 1, num_labels)
        smoothed = targets * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / num_labels
        return tf.nn.softmax_cross_entropy_with_logits(smoothed, outputs[0][:, 1:])

    return TrainingPhase(
        name=name,
        model=model,
        outputs=outputs,
        loss=loss,
        optimizer=lambda factor: make_optimizer(
            factor * LEARNING_RATE,
            num_steps=epochs * steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
        ),
        multiplier=_multiplier(work.backbone),
        selection=selection,
        keeps_result=True,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        learning_rate=LEARNING_RATE,
        save_interval=1,
        reports_steps=True,
        train_batches=train.training_batches,
        validation_batches=work.pictures["validation"].scoring_batches,
    )


def _multiplier(backbone: Any) -> Callable[[Any], float]:
    """Return the learning-rate multiplier by variable: the deeper a layer, the higher.

    Layers are in four groups, because each multiplier needs an optimizer of its own.
    """
    layers = [layer for layer in backbone.layers if layer.trainable_variables]
    factors = {}
    for i, layer in enumerate(layers):
        group = i * _DEPTH_GROUPS // len(layers)
        factor = LAYER_DECAY ** (12 * (1 - (group + 0.5) / _DEPTH_GROUPS))
        factors.update({id(variable): factor for variable in layer.trainable_variables})
    return lambda variable: factors.get(id(variable), 1.0)


def _logits(work: FineTuning, model: Any, examples: Examples, numbers: IntArray) -> FloatArray:
    """Return the logits of some examples, with features averaged over the candidate's views."""
    network, views = work.network, work.candidate.views
    side = work.pictures["train"].image_size
    head = _head_of(model)

    def prepare(example: dict[str, Any]) -> tuple[Any, ...]:
        picture = decode_jpeg(example["encoded"])
        return tuple(view_picture(picture, side, view) for view in views)

    infer = tf.function(
        lambda pictures: tf.concat(
            tf.nest.flatten(network.model(pictures, training=False)), axis=-1
        ),
        reduce_retracing=True,
    )
    parts = []
    for batch in examples.read(numbers).map(prepare).batch(_BATCH_SIZE):
        features = np.mean([infer(pictures).numpy() for pictures in batch], axis=0)
        parts.append(head.logits(normalise_features(features, network.sizes)))
    return np.concatenate(parts)
