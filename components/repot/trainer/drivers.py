"""One driver per recipe: it runs the phases of a training, and may choose the next by results.

A driver must do the same in every process that starts or resumes the same training: its decisions
follow from the settings, the data and the results of earlier phases only.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from repot.augmentation import augment
from repot.classifier import (
    network_spec,
    published_model,
    split_classifier,
    training_logits,
)
from repot.example_digests import Digests
from repot.model_spec import ModelSpec
from repot.recipes import RECIPES
from repot.selection_record import SelectionRecord
from repot.settings import TrainingSettings
from repot.trainer.auto.selection import TrainingFeatures
from repot.trainer.auto.train_auto import train_auto
from repot.trainer.batches import FeatureTable, Pictures, epoch_seed, feature_batches
from repot.trainer.calibration import Calibrated
from repot.trainer.features import FeatureReader
from repot.trainer.held_out_scores import calibrate_head, calibrate_network
from repot.trainer.inception_2016 import inception_2016_phase
from repot.trainer.loop import TrainingRun, fit
from repot.trainer.optimizer import make_optimizer
from repot.trainer.phases import TrainingPhase
from repot.trainer.step import smoothed_cross_entropy
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
    else:
        table = features["train"]
        calibrated = calibrate_head(
            _training_features(table, trainee),
            table,
            run,
            settings,
            epochs=epochs,
            learning_rate=learning_rate,
        )
        run.store.write_file(_CALIBRATION_NAME, calibrated.to_bytes())
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
            num_parts=run.computation.num_parts,
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
            seed=epoch_seed(settings.seed, epoch),
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


def _calibrate_network(trainee: Trainee, run: TrainingRun) -> Calibrated | None:
    held_out = trainee.calibration_pictures
    if held_out is None:
        return None
    return calibrate_network(
        trainee.classifier, trainee.pictures["train"], held_out, run, trainee.settings
    )


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
