"""Recipe `auto`, second part: try to fine-tune the whole network, and keep it if it is better.

A trial starts from the chosen head, fitted to four fifths of the training pictures: head first,
then the whole network (Kumar et al. 2022). The rest, the selection part, chooses the epoch, and
decides by a paired comparison whether fine-tuning is kept. Then the network is trained again, from
the checkpoint and on all training pictures, for as many epochs. The states after the best epochs
are averaged one by one, and with the weights before, as long as that is not worse on the selection
part.

Source: Wortsman et al. 2022, Model soups, recipe 1 (greedy), and Robust fine-tuning of zero-shot
models, section 3 (the weights before and after).
"""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from repot import progress
from repot.augmentation import augment, mixup
from repot.backbone_weights import load_weights
from repot.classifier import (
    HEAD_NAME,
    FeatureNetwork,
    UnlikeScore,
    linear_classifier,
    normalise_features,
)
from repot.dataset import Examples
from repot.json_record import JsonRecord
from repot.model_spec import ModelCalibration
from repot.preprocessing import decode_jpeg, view_picture
from repot.selection_record import CandidateRecord, ForecastRecord
from repot.settings import TrainingSettings
from repot.trainer.auto.heads import (
    FloatArray,
    IntArray,
    LinearHead,
    fit_head,
    forecast,
    log_losses,
    mean_recall,
    select_part,
)
from repot.trainer.auto.selection import VIEWS, Candidate, TrainingFeatures
from repot.trainer.batches import Pictures
from repot.trainer.calibration import (
    MAX_FITTED,
    HeldOut,
    calibrate,
    fit_unlike,
    with_threshold,
)
from repot.trainer.loop import TrainingRun, fit
from repot.trainer.optimizer import make_optimizer
from repot.trainer.phases import Selection, TrainingPhase
from repot.trainer.state import StateStore
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
NUM_STATES = 3
"""States after the best epochs that may be averaged."""

SHARE_OF_BEFORE = 0.5
"""Share of the weights before fine-tuning in the average that is tried with them."""

_DECISION_NAME = "auto-fine-tuning.json"
_HEAD_NAME = "auto-trial.npz"
_BATCH_SIZE = 32
_STEP_COST = 3.0  # A training step takes about as long as three forward passes.

_Values = list[Any]
"""Values of a model's trainable variables."""


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
        epochs: Epochs after which the states are averaged, the best one first.
        share: Share of that average in the one with the weights before.
        temperature: Temperature of the fine-tuned network.
        num_correct_before, num_correct: Pictures of the selection part that the head alone, and the
            fine-tuned network, classify correctly.
        num_examples: Pictures of the selection part.
        candidates: The scores of both on the selection part.
        forecast: The score that is forecast for the fine-tuned network.
        calibration: What the fine-tuned network promises.
        unlike_threshold: The threshold of its score `unlike`, as a squared distance.
    """

    is_chosen: bool
    epochs: tuple[int, ...]
    share: float
    temperature: float
    num_correct_before: int
    num_correct: int
    num_examples: int
    candidates: tuple[CandidateRecord, ...]
    forecast: ForecastRecord
    calibration: ModelCalibration
    unlike_threshold: float

    @property
    def text(self) -> str:
        """The decision for people."""
        counts = (
            f"of {self.num_examples} pictures of the selection part, the head alone classified "
            f"{self.num_correct_before} correctly, the fine-tuned network {self.num_correct}"
        )
        if not self.is_chosen:
            return f"tried and not kept: {counts}"
        states = "the state" if len(self.epochs) == 1 else "the mean of the states"
        epochs = ", ".join(map(str, sorted(self.epochs)))
        before = "" if self.share == 1 else f", averaged with {1 - self.share:.0%} of those before"
        return f"kept, with {states} after epoch {epochs}{before}: {counts}"


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
        return FineTuningPlan(
            epochs=0, reason="not tried: the budget is 0, its default without a GPU"
        )
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
    pass_seconds = num_examples * _seconds_per_picture(network)
    epoch_seconds = pass_seconds * (_STEP_COST * share + SELECTION_SHARE + _STEP_COST)
    # At the end of the trial, every view of the selection part is scored with each average.
    end_seconds = pass_seconds * SELECTION_SHARE * len(VIEWS) * (NUM_STATES + 1)
    epochs = min(int((budget_seconds - end_seconds) / epoch_seconds), MAX_EPOCHS)
    expected = end_seconds + max(epochs, MIN_EPOCHS) * epoch_seconds
    minutes = f"about {expected / 60:.1f} min"
    if epochs < MIN_EPOCHS:
        reason = f"not tried: {MIN_EPOCHS} epochs would take {minutes}, more than the budget"
        return FineTuningPlan(epochs=0, reason=reason)
    return FineTuningPlan(epochs=epochs, reason=f"{epochs} epochs, {minutes} in all")


def try_fine_tuning(
    work: FineTuning,
    plan: FineTuningPlan,
    features: Callable[[], TrainingFeatures],
    penalty: float,
    settings: TrainingSettings,
) -> FineTuningDecision:
    """Run the trial and decide; the decision is stored.

    Args:
        work: What to fine-tune.
        plan: How long.
        features: Reads the features of the training pictures; needed at the first start only.
        penalty: Penalty of the trial's head.
        settings: What the model promises.
    """
    store = work.run.store
    stored = store.read_file(_DECISION_NAME)
    if stored is not None:
        return FineTuningDecision.from_text(stored.decode())
    head, part, before, classes = _trial_head(work, features, penalty)
    selected = np.flatnonzero(part)
    selection = _pictures(work, selected)
    model, initial = _start(work, head)
    states = _States(store, "auto-trial", model, most=NUM_STATES)
    fit(
        _phase(
            work,
            "auto_trial",
            model,
            _pictures(work, np.flatnonzero(~part)),
            epochs=plan.epochs,
            schedule_epochs=plan.epochs,
            selection=Selection(
                batches=selection.batches,
                score=lambda logits, labels: (
                    -float(np.mean(log_losses(np.asarray(logits, np.float64)[:, 1:], labels - 1)))
                ),
                patience=MIN_EPOCHS,
            ),
            after_epoch=states.keep,
        ),
        work.run,
    )
    read = _make_feature_reader(work, selection.examples)

    def loss_of(values: _Values) -> float:
        _assign(model, values)
        return float(np.mean(log_losses(_head_of(model).logits(read(selected)), classes)))

    epochs, tuned, loss = average_greedily(states.best_first(), states.read, loss_of)
    share = 1 - SHARE_OF_BEFORE
    if loss_of(_average_with(initial, tuned, share)) >= loss:
        share = 1.0
    _assign(model, _average_with(initial, tuned, share))
    rows = read(selected)
    logits = _head_of(model).logits(rows)
    unlike = fit_unlike(read(_spread(np.flatnonzero(~part))))
    unlike = with_threshold(unlike, unlike.scores(rows), settings.unlike_rate)
    load_weights(work.backbone, work.weights_path)
    decision = _decide(
        work,
        before,
        logits,
        classes,
        epochs=tuple(epochs),
        share=share,
        unlike_threshold=unlike.threshold,
        settings=settings,
    )
    store.write_file(_DECISION_NAME, decision.to_text().encode())
    progress.notice("train", f"fine-tuning {decision.text}")
    return decision


def average_greedily(
    epochs: Sequence[int], read: Callable[[int], _Values], loss_of: Callable[[_Values], float]
) -> tuple[list[int], _Values, float]:
    """Average states one by one, each only if the average does not get worse by it.

    Args:
        epochs: The epochs of the states, the best one first.
        read: (epoch) -> the state after it.
        loss_of: (state) -> its loss.

    Returns:
        The epochs in the average, the average, and its loss.
    """
    chosen, total = [epochs[0]], read(epochs[0])
    average, loss = total, loss_of(total)
    for epoch in epochs[1:]:
        new_total = [old + new for old, new in zip(total, read(epoch), strict=True)]
        new_average = [values / (len(chosen) + 1) for values in new_total]
        new_loss = loss_of(new_average)
        if new_loss <= loss:
            chosen.append(epoch)
            total, average, loss = new_total, new_average, new_loss
    return chosen, average, loss


def _decide(
    work: FineTuning,
    before: FloatArray,
    logits: FloatArray,
    classes: IntArray,
    *,
    epochs: tuple[int, ...],
    share: float,
    unlike_threshold: float,
    settings: TrainingSettings,
) -> FineTuningDecision:
    """Compare the logits of the head alone and of the fine-tuned network on the selection part."""
    was_right, is_right = (each.argmax(axis=1) == classes for each in (before, logits))
    is_chosen = is_better(
        int(is_right.sum() - was_right.sum()), num_changed=int((was_right != is_right).sum())
    )
    num_validation = work.pictures["validation"].num_examples
    expected, low, high = forecast(
        is_right, fitted_share=1 - SELECTION_SHARE, num_scored=num_validation
    )
    place = f"on {len(classes)} pictures of the selection part"
    held_out = HeldOut(
        logits=logits, classes=classes, method="the selection part of the training pictures"
    )
    temperature, calibration = calibrate(held_out, settings=settings)
    return FineTuningDecision(
        is_chosen=is_chosen,
        epochs=epochs,
        share=share,
        temperature=temperature,
        num_correct_before=int(was_right.sum()),
        num_correct=int(is_right.sum()),
        num_examples=len(classes),
        candidates=tuple(
            CandidateRecord(
                name=f"{work.candidate.name}, {kind}; {place}",
                precision_at_1=float(np.mean(each.argmax(axis=1) == classes)),
                mean_recall=mean_recall(each, classes),
                loss=float(np.mean(log_losses(each, classes))),
                is_chosen=is_chosen and kind == "fine-tuned",
            )
            for kind, each in (("head alone", before), ("fine-tuned", logits))
        ),
        forecast=ForecastRecord(
            precision_at_1=expected, low=low, high=high, num_examples=num_validation
        ),
        calibration=calibration,
        unlike_threshold=unlike_threshold,
    )


def is_better(gain: int, num_changed: int) -> bool:
    """Return whether fine-tuning is better by more than one standard error.

    Args:
        gain: How many more pictures of the selection part it classifies correctly.
        num_changed: Pictures that only one of the two classifies correctly.
    """
    return gain > 0 and gain**2 > num_changed


def fine_tune(
    work: FineTuning, selected: LinearHead, plan: FineTuningPlan, decision: FineTuningDecision
) -> tuple[LinearHead, UnlikeScore]:
    """Fine-tune on all training pictures; return what goes with the network.

    The threshold of the score is that of the trial: these pictures have trained the network, so
    they look more like each other than new ones do.
    """
    model, initial = _start(work, selected)
    states = _States(work.run.store, "auto-final", model, most=len(decision.epochs))

    def keep(epoch: int, _: float | None) -> None:
        if epoch in decision.epochs:
            states.keep(epoch, None)

    phase = _phase(
        work,
        "fine_tune",
        model,
        _pictures(work, None),
        epochs=max(decision.epochs),
        schedule_epochs=plan.epochs,
        after_epoch=keep,
    )
    fit(phase, work.run)
    kept = [states.read(epoch) for epoch in decision.epochs]
    tuned = [sum(values) / len(kept) for values in zip(*kept, strict=True)]
    _assign(model, _average_with(initial, tuned, decision.share))
    examples = work.pictures["train"].examples
    read = _make_feature_reader(work, examples)
    unlike = fit_unlike(read(_spread(np.arange(len(examples)))))
    return _head_of(model), replace(unlike, threshold=decision.unlike_threshold)


def _spread(numbers: IntArray) -> IntArray:
    """Return at most MAX_FITTED of some numbers, evenly spread over them."""
    if len(numbers) <= MAX_FITTED:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, MAX_FITTED).astype(np.int64)]


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
        part = select_part(table.keys(slice(None)), table.classes, SELECTION_SHARE)
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


def _start(work: FineTuning, head: LinearHead) -> tuple[Any, _Values]:
    """Return the classifier with the checkpoint's weights and a head, and their values."""
    with work.run.strategy.scope():
        model = linear_classifier(work.network, head.kernel, head.bias)
    return model, _values(model)


class _States:
    """Values of a model after some epochs, kept beside the state of the training.

    A resumed training repeats the epoch that was interrupted; what is kept of it is replaced.

    Args:
        store: Keeps the files.
        name: Start of their names.
        model: The model.
        most: Number of states that are kept: those with the highest scores.
    """

    def __init__(self, store: StateStore, name: str, model: Any, *, most: int) -> None:
        self._store = store
        self._name = name
        self._model = model
        self._most = most

    def keep(self, epoch: int, score: float | None) -> None:
        """Keep the model's current state if it is among the best.

        Args:
            epoch: Number of finished epochs.
            score: Higher is better; None if all are kept.
        """
        buffer = io.BytesIO()
        np.savez(buffer, *_values(self._model))
        self._store.write_file(self._file_name(epoch), buffer.getvalue())
        old = self._read_index()
        scores = {each: old[each] for each in old if each < epoch} | {epoch: score or 0.0}
        best = sorted(scores, key=lambda each: (-scores[each], each))[: self._most]
        index = _KeptStates(epochs=tuple(best), scores=tuple(scores[each] for each in best))
        self._store.write_file(self._index_name, index.to_text().encode())
        for each in {*old, epoch} - {*best}:
            self._store.delete_file(self._file_name(each))

    def best_first(self) -> list[int]:
        """Return the epochs of the states that are kept."""
        return list(self._read_index())

    def read(self, epoch: int) -> _Values:
        """Return the state that is kept of an epoch."""
        data = self._store.read_file(self._file_name(epoch)) or b""
        with np.load(io.BytesIO(data)) as arrays:
            return [arrays[name] for name in arrays.files]

    def _read_index(self) -> dict[int, float]:
        data = self._store.read_file(self._index_name)
        if data is None:
            return {}
        index = _KeptStates.from_text(data.decode())
        return dict(zip(index.epochs, index.scores, strict=True))

    @property
    def _index_name(self) -> str:
        return f"{self._name}-states.json"

    def _file_name(self, epoch: int) -> str:
        return f"{self._name}-{epoch:05d}.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class _KeptStates(JsonRecord):
    """The epochs whose states are kept, the best one first, and their scores."""

    epochs: tuple[int, ...]
    scores: tuple[float, ...]


def _values(model: Any) -> _Values:
    return [np.array(np.asarray(variable)) for variable in model.trainable_variables]


def _assign(model: Any, values: _Values) -> None:
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)


def _average_with(before: _Values, after: _Values, share: float) -> _Values:
    """Return the average of two states; `share` is that of the second."""
    return [(1 - share) * old + share * new for old, new in zip(before, after, strict=True)]


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
        loss=_loss,
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
        train_batches=train.training_batches,
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
    is_example = tf.cast(tf.reduce_any(draws > 0, axis=1), tf.float32)  # padding has zeros
    pictures, shares = mixup(pictures, tf.eye(tf.shape(draws)[0]), is_example, draws)
    return model(pictures, training=False), shares


def _loss(outputs: tuple[Any, ...], labels: Any) -> Any:
    """Return the cross-entropy with smoothed labels, those of blended pictures blended alike."""
    logits = outputs[0][:, 1:]
    targets = tf.one_hot(labels - 1, logits.shape[-1])
    targets = targets * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / logits.shape[-1]
    if len(outputs) > 1:
        targets = outputs[1] @ targets
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


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


def _make_feature_reader(work: FineTuning, examples: Examples) -> Callable[[IntArray], FloatArray]:
    """Return the function that computes the normalised features of some examples, by number.

    They are those of the network's present weights, averaged over the candidate's views.
    """
    network, views = work.network, work.candidate.views
    side = work.pictures["train"].image_size

    def prepare(example: dict[str, Any]) -> tuple[Any, ...]:
        picture = decode_jpeg(example["encoded"])
        return tuple(view_picture(picture, side, view) for view in views)

    infer = tf.function(
        lambda pictures: tf.concat(
            tf.nest.flatten(network.model(pictures, training=False)), axis=-1
        ),
        reduce_retracing=True,
    )

    def read(numbers: IntArray) -> FloatArray:
        parts = []
        for batch in examples.read(numbers).map(prepare).batch(_BATCH_SIZE):
            features = np.mean([infer(pictures).numpy() for pictures in batch], axis=0)
            parts.append(normalise_features(features, network.sizes))
        return np.concatenate(parts)

    return read
