"""One driver per recipe: it runs the phases of a training, and may choose the next by results.

A driver must do the same in every process that starts or resumes the same training: its decisions
follow from the settings, the data and the results of earlier phases only.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from repot.augmentation import augment
from repot.classifier import (
    DROPOUT,
    network_spec,
    normalise_features,
    published_model,
    split_classifier,
    training_logits,
)
from repot.errors import StoppedError
from repot.example_digests import Digests
from repot.model_spec import ModelSpec
from repot.recipes import RECIPES
from repot.selection_record import SelectionRecord
from repot.settings import TrainingSettings
from repot.trainer.auto.heads import MAX_ROWS, FloatArray, IntArray, assign_folds
from repot.trainer.auto.selection import NUM_FOLDS, TrainingFeatures
from repot.trainer.auto.train_auto import train_auto
from repot.trainer.batches import FeatureTable, Pictures, feature_batches
from repot.trainer.calibration import (
    MAX_FITTED,
    Calibrated,
    HeldOut,
    calibrate,
    cross_validate_unlike,
    fit_unlike,
    sample_rows,
    with_threshold,
)
from repot.trainer.features import FeatureReader
from repot.trainer.inception_2016 import inception_2016_phase
from repot.trainer.loop import TrainingRun, check_finite, fit
from repot.trainer.optimizer import make_optimizer
from repot.trainer.phases import TrainingPhase
from repot.trainer.step import StepRunner, smoothed_cross_entropy
from repot.trainer.strategy import gather_rows, run_on_replicas, worker_share
from repot.trainer.suspects import keep_suspects

_CALIBRATION_NAME = "calibration.npz"

HEAD_SAVE_INTERVAL = 10
"""Epochs of the head phase between two saves; each takes milliseconds."""

HEAD_STEPS_PER_CALL = 256
"""Steps of the head phase per call of the compiled loop; each takes a millisecond or less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainee:
    """What a driver trains, and on what.

    Attributes:
        classifier: keras.Model from `repot.classifier.build_classifier`.
        weights_path: The checkpoint's weights, see `repot.backbone_weights`.
        pictures: The pictures of each split.
        features: The checkpoint's features of them; they are read before a phase changes the
            backbone.
        settings: Training settings; zeros take the recipe's own epochs and learning rate.
        groups: The group of each training picture, which no division of them separates; None
            without groups. See `repot.example_digests`.
        calibration_pictures: Training pictures that are held out for the calibration, and not among
            `pictures`; None for recipes that calibrate in another way.
    """

    classifier: Any
    weights_path: Path
    pictures: Mapping[str, Pictures]
    features: FeatureReader
    settings: TrainingSettings
    groups: Digests | None = None
    calibration_pictures: Pictures | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches per epoch; the last one may be padded."""
        return math.ceil(self.pictures["train"].num_examples / self.settings.batch_size)

    def augment(self, inputs: Any) -> Any:
        """Return the model's input for TrainingPictures."""
        augmentation, can_flip = self.settings.chosen_augmentation, not self.settings.no_flip
        # Also where XLA does not compile the whole step: on a CPU, colors then take a fifth of the
        # time (docs/performance.md). The tables of RandAugment take longer with XLA there.
        compiled = tf.function(
            lambda pictures: augment(pictures, augmentation=augmentation, flip=can_flip),
            jit_compile=self.settings.xla != "off" and augmentation != "randaugment",
        )
        return compiled(inputs)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainedModel:
    """What a recipe ends with.

    Attributes:
        model: The keras.Model to publish, see `repot.classifier`.
        spec: What it takes.
        selection: What recipe auto tried and chose; None for other recipes.
    """

    model: Any
    spec: ModelSpec
    selection: SelectionRecord | None = None


def run_recipe(trainee: Trainee, run: TrainingRun) -> TrainedModel:
    """Run the recipe of the settings to its end.

    Raises:
        StoppedError: The training was asked to stop; the position is saved.
        TrainingError: The loss is not finite.
    """
    settings = trainee.settings
    if settings.recipe == "auto":
        chosen = train_auto(
            trainee.classifier,
            pictures=trainee.pictures,
            reader=trainee.features,
            weights_path=trainee.weights_path,
            settings=settings,
            run=run,
            groups=trainee.groups,
        )
        return TrainedModel(model=chosen.model, spec=chosen.spec, selection=chosen.record)
    calibrated = _DRIVERS[settings.recipe](trainee, run)
    unlike = calibrated.unlike if calibrated else None
    spec = ModelSpec(
        backbone=settings.backbone,
        image_size=trainee.pictures["train"].image_size,
        temperature=calibrated.temperature if calibrated else 1.0,
        calibration=calibrated.calibration if calibrated else None,
        network=network_spec(
            settings.backbone, head="features", unlike=unlike, weights_path=trainee.weights_path
        ),
    )
    model = published_model(trainee.classifier, temperature=spec.temperature, unlike=unlike)
    return TrainedModel(model=model, spec=spec)


def train_head(trainee: Trainee, run: TrainingRun) -> Calibrated | None:
    """Train the head on cached features; heads for the calibration, fitted to parts, come first."""
    recipe, settings = RECIPES["head"], trainee.settings
    epochs = settings.epochs or recipe.head_epochs
    learning_rate = settings.learning_rate or recipe.head_learning_rate
    features = _read_features(trainee, run)
    stored = run.store.read_file(_CALIBRATION_NAME)
    if stored is not None:
        calibrated = Calibrated.from_bytes(stored)
    elif features:
        calibrated = _calibrate_head(
            trainee, run, features["train"], epochs=epochs, learning_rate=learning_rate
        )
        run.store.write_file(_CALIBRATION_NAME, calibrated.to_bytes())
    else:
        raise ValueError(f"{_CALIBRATION_NAME} must be stored before the head is trained.")
    fit(head_phase(trainee, features, epochs=epochs, learning_rate=learning_rate), run)
    return calibrated


def train_head_and_fine_tune(trainee: Trainee, run: TrainingRun) -> Calibrated | None:
    """Train the head on cached features, then the whole network."""
    # The settings' epochs and learning rate are those of the recipe's main phase.
    recipe, settings = RECIPES["fine_tune"], trainee.settings
    head = head_phase(
        trainee,
        _read_features(trainee, run),
        epochs=recipe.head_epochs,
        learning_rate=recipe.head_learning_rate,
    )
    fine_tune = fine_tune_phase(
        trainee,
        epochs=settings.epochs or recipe.epochs,
        learning_rate=settings.learning_rate or recipe.learning_rate,
    )
    fit(head, run, later_steps=fine_tune.num_steps)
    fit(fine_tune, run)
    return _calibrate_network(trainee, run)


def train_like_2016(trainee: Trainee, run: TrainingRun) -> Calibrated | None:
    """Train the whole network as research/inception did, see `repot.trainer.inception_2016`."""
    with run.strategy.scope():
        phase = inception_2016_phase(
            trainee.classifier,
            pictures=trainee.pictures,
            settings=trainee.settings,
            weights_path=trainee.weights_path,
            augment=trainee.augment,
        )
    fit(phase, run)
    return _calibrate_network(trainee, run)


_DRIVERS: dict[str, Callable[[Trainee, TrainingRun], Calibrated | None]] = {
    "head": train_head,
    "fine_tune": train_head_and_fine_tune,
    "inception_2016": train_like_2016,
}


def _read_features(trainee: Trainee, run: TrainingRun) -> Mapping[str, FeatureTable]:
    """Return the features of each split, and find suspects; {} if the head is finished.

    Raises:
        StoppedError: The training was asked to stop; the features that were computed are kept.
    """
    if run.position.result_of("head") is not None:
        return {}
    features = {split: trainee.features.read(split)[0] for split in trainee.pictures}
    if features["train"].digests is not None:
        keep_suspects(run.store, _training_features(features["train"], trainee))
    return features


def head_phase(
    trainee: Trainee,
    features: Mapping[str, FeatureTable],
    *,
    epochs: int,
    learning_rate: float,
) -> TrainingPhase:
    """Return the phase that trains the head.

    Args:
        trainee: What is trained.
        features: The features of each split; of no use if the phase is finished.
        epochs, learning_rate: Of the phase.
    """
    settings = trainee.settings
    _, head = split_classifier(trainee.classifier)

    def train_batches(epoch: int, skip: int) -> Any:
        return feature_batches(
            features["train"],
            settings.batch_size,
            only=trainee.pictures["train"].only,
            seed=_epoch_seed(settings, epoch),
            skip=skip,
        )

    def validation_batches() -> Any:
        return feature_batches(features["validation"], settings.batch_size)

    return _adamw_phase(
        trainee,
        name="head",
        model=head,
        logits=lambda features, training: head(features, training=training),
        epochs=epochs,
        learning_rate=learning_rate,
        save_interval=HEAD_SAVE_INTERVAL,
        reports_steps=False,
        steps_per_call=HEAD_STEPS_PER_CALL,
        train_batches=train_batches,
        validation_batches=validation_batches,
    )


def _epoch_seed(settings: TrainingSettings, epoch: int) -> int:
    return int(np.random.SeedSequence([settings.seed, epoch]).generate_state(1)[0])


def _calibrate_head(
    trainee: Trainee,
    run: TrainingRun,
    table: FeatureTable,
    *,
    epochs: int,
    learning_rate: float,
) -> Calibrated:
    """Return what a head on frozen features promises, by cross-validation on training pictures.

    Beyond MAX_ROWS pictures, one fold alone is scored: that is many enough.

    Raises:
        StoppedError: The training was asked to stop.
    """
    features, settings = _training_features(table, trainee), trainee.settings
    keys = features.keys(slice(None))
    folds = assign_folds(keys, features.classes, NUM_FOLDS)
    scored = np.unique(folds) if len(folds) <= MAX_ROWS else np.array([0])
    rows = np.flatnonzero(np.isin(folds, scored))
    logits = _cross_validate_head(
        trainee, run, table, folds, scored, epochs=epochs, learning_rate=learning_rate
    )
    method = f"{NUM_FOLDS}-fold cross-validation on training pictures"
    held_out = HeldOut(
        logits=logits[rows],
        classes=features.classes[rows],
        method=method + ("" if trainee.groups is None else ", groups kept together"),
    )
    temperature, calibration = calibrate(held_out, settings=settings)
    sample = sample_rows(features.digests)
    unlike = cross_validate_unlike(
        normalise_features(table.features[sample], features.sizes),
        folds[sample],
        settings.unlike_rate,
    )
    return Calibrated(temperature=temperature, calibration=calibration, unlike=unlike)


def _cross_validate_head(
    trainee: Trainee,
    run: TrainingRun,
    table: FeatureTable,
    folds: IntArray,
    scored: IntArray,
    *,
    epochs: int,
    learning_rate: float,
) -> FloatArray:
    """Return float64 [n, N] logits of the rows of some folds, by heads trained without the fold.

    They are trained as the phase `head` trains the one that is published.

    Raises:
        StoppedError: The training was asked to stop.
        TrainingError: The loss is not finite.
        StepOutOfMemoryError: The device's memory does not suffice for a step.
    """
    batch_size = trainee.settings.batch_size
    fitted = [np.flatnonzero(folds != fold) for fold in scored]
    # The largest number of batches that all of them fill, so that they share a compiled loop.
    num_batches = min(math.ceil(len(rows) / batch_size) for rows in fitted)
    logits = np.zeros((len(folds), trainee.classifier.output.shape[-1] - 1))
    if not num_batches:
        return logits
    with run.strategy.scope():
        inputs = keras.Input(table.features.shape[1:])
        head = keras.layers.Dense(
            trainee.classifier.output.shape[-1], kernel_initializer="zeros", dtype="float32"
        )
        dropout = keras.layers.Dropout(DROPOUT, seed=trainee.settings.seed)
        model = keras.Model(inputs, head(dropout(inputs)))
        optimizer = make_optimizer(
            learning_rate, num_steps=epochs * num_batches, steps_per_epoch=num_batches
        )
        optimizer.build(model.trainable_variables)
    runner = StepRunner(
        lambda features, training: (model(features, training=training),),
        lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        [(optimizer, model.trainable_variables)],
        run.strategy,
        model=model,
        computation=dataclasses.replace(run.computation, precision="float32"),
    )
    variables = [*model.variables, *optimizer.variables]
    initial = [np.array(np.asarray(variable)) for variable in variables]
    for fold, rows in zip(scored, fitted, strict=True):
        for variable, value in zip(variables, initial, strict=True):
            variable.assign(value)
        for epoch in range(epochs):
            seed = _epoch_seed(trainee.settings, epoch)
            batches = runner.distribute(
                feature_batches(table, batch_size, only=rows, seed=seed).first(num_batches)
            )
            result = runner.train_steps(iter(batches), num_batches, stop=run.should_stop())
            for step, sums in enumerate(result.sums, start=1):
                check_finite(
                    sums.loss, phase="head", epoch=epoch, step=step, learning_rate=learning_rate
                )
            if result.is_stopping:
                raise StoppedError(
                    "The training was asked to stop while it trained heads for the calibration. "
                    "Start it again to train them again; features and suspects are kept."
                )
        kernel, bias = (np.asarray(each, np.float64) for each in head.get_weights())
        held_out = np.flatnonzero(folds == fold)
        logits[held_out] = (table.features[held_out] @ kernel + bias)[:, 1:]
    return logits


def _calibrate_network(trainee: Trainee, run: TrainingRun) -> Calibrated | None:
    """Return what a network promises that was trained without the pictures for the calibration."""
    held_out, train = trainee.calibration_pictures, trainee.pictures["train"]
    if held_out is None:
        return None
    numbers = train.numbers
    sample = numbers[np.linspace(0, len(numbers) - 1, min(len(numbers), MAX_FITTED)).astype(int)]
    unlike = fit_unlike(
        _answers(trainee, run, replace(train, only=sample), lambda rows, logits, classes: rows)
    )
    # float64 [n, N + 2]
    answers = _answers(
        trainee,
        run,
        held_out,
        lambda rows, logits, classes: np.column_stack([logits, unlike.scores(rows), classes]),
    )
    temperature, calibration = calibrate(
        HeldOut(
            logits=answers[:, :-2],
            classes=answers[:, -1].astype(np.int64),
            method="training pictures that the network was not trained on",
        ),
        settings=trainee.settings,
    )
    unlike = with_threshold(unlike, answers[:, -2], trainee.settings.unlike_rate)
    return Calibrated(temperature=temperature, calibration=calibration, unlike=unlike)


def _answers(
    trainee: Trainee,
    run: TrainingRun,
    pictures: Pictures,
    answer: Callable[[FloatArray, FloatArray, IntArray], FloatArray],
) -> FloatArray:
    """Return what a function makes of some pictures, of which each worker computes its share.

    Args:
        trainee, run: The training.
        pictures: The pictures.
        answer: (float64 [n, features] normalised, float64 [n, N] logits without the background,
            int64 [n] classes in 0..N-1) -> float64 [n, columns].

    Returns:
        float64 [num_pictures, columns], in the order of the pictures.
    """
    extractor, head = split_classifier(trainee.classifier)
    num_features, num_labels = extractor.output.shape[-1], head.output.shape[-1] - 1

    def infer(inputs: Any) -> Any:
        features = extractor(inputs, training=False)
        return tf.concat([tf.cast(features, tf.float32), head(features, training=False)], axis=1)

    compiled = tf.function(
        lambda inputs: run_on_replicas(run.strategy, infer, inputs), autograph=False
    )
    own = replace(
        pictures, only=pictures.numbers[worker_share(run.strategy, pictures.num_examples)]
    )
    nothing = np.empty((0, num_features)), np.empty((0, num_labels)), np.empty(0, np.int64)
    parts = [answer(*nothing)]
    for inputs, labels, mask in own.batches():
        is_example = mask.numpy() > 0
        outputs = compiled(inputs).numpy()[is_example]
        rows = normalise_features(outputs[:, :num_features], (num_features,))
        # Without the background.
        logits = np.asarray(outputs[:, num_features + 1 :], np.float64)
        parts.append(answer(rows, logits, labels.numpy()[is_example] - 1))
    return gather_rows(run.strategy, np.concatenate(parts))


def _training_features(table: FeatureTable, trainee: Trainee) -> TrainingFeatures:
    return TrainingFeatures(
        tables={"central": table.features},
        sizes=(table.features.shape[1],),
        classes=np.asarray(table.labels, np.int64) - 1,
        digests=table.digests,
        num_classes=trainee.classifier.output.shape[-1] - 1,
        groups=trainee.groups,
    )


def fine_tune_phase(trainee: Trainee, *, epochs: int, learning_rate: float) -> TrainingPhase:
    """Return the phase that trains the whole network, with BatchNorm statistics frozen."""
    logits = training_logits(trainee.classifier)

    def augmented_logits(inputs: Any, training: bool) -> Any:
        return logits(trainee.augment(inputs) if training else inputs, training)

    return _adamw_phase(
        trainee,
        name="fine_tune",
        model=trainee.classifier,
        logits=augmented_logits,
        epochs=epochs,
        learning_rate=learning_rate,
        save_interval=1,
        reports_steps=True,
        train_batches=trainee.pictures["train"].training_batches,
        validation_batches=trainee.pictures["validation"].scoring_batches,
    )


def _adamw_phase(
    trainee: Trainee,
    *,
    name: str,
    model: Any,
    logits: Callable[[Any, bool], Any],
    epochs: int,
    learning_rate: float,
    save_interval: int,
    reports_steps: bool,
    train_batches: Callable[[int, int], Any],
    validation_batches: Callable[[], Any],
    steps_per_call: int = 0,
) -> TrainingPhase:
    steps_per_epoch = trainee.steps_per_epoch
    return TrainingPhase(
        name=name,
        model=model,
        outputs=lambda inputs, training: (logits(inputs, training),),
        loss=lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        steps_per_call=steps_per_call,
        optimizer=lambda factor: make_optimizer(
            factor * learning_rate,
            num_steps=epochs * steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
        ),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        learning_rate=learning_rate,
        save_interval=save_interval,
        reports_steps=reports_steps,
        train_batches=train_batches,
        validation_batches=validation_batches,
    )
