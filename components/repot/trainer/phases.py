"""The phases of a recipe: first the head on cached features, then the whole network."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from repot.augmentation import augment
from repot.classifier import split_classifier, training_logits
from repot.recipes import RECIPES, Recipe
from repot.settings import TrainingSettings
from repot.trainer.batches import FeatureTable, Pictures, feature_batches
from repot.trainer.features import cached_features
from repot.trainer.position import TrainingPosition
from repot.trainer.state import StateStore

HEAD_SAVE_INTERVAL = 10
"""Epochs of the head phase between two saves; each takes milliseconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPhase:
    """A part of a training with one model and one learning-rate schedule.

    Attributes:
        name: One of `repot.trainer.position.PHASES`.
        model: keras.Model. Its trainable variables are trained, all of its variables are saved.
        logits: (inputs, training) -> float32 [batch, N + 1] logits, from the model's layers.
        epochs: Number of epochs.
        learning_rate: Peak learning rate, see `repot.trainer.optimizer`.
        save_interval: Epochs between two saves; the last epoch is always saved.
        reports_steps: Whether every step reports its progress, not only every epoch.
        num_examples: Training examples per epoch.
        batch_size: Examples per step.
        train_batches: (epoch in [0, epochs), number of batches to skip) -> the epoch's batches.
        validation_batches: () -> the batches that are scored after each epoch.
    """

    name: str
    model: Any
    logits: Callable[[Any, bool], Any]
    epochs: int
    learning_rate: float
    save_interval: int
    reports_steps: bool
    num_examples: int
    batch_size: int
    train_batches: Callable[[int, int], Any]
    validation_batches: Callable[[], Any]

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches per epoch; the last one may be padded."""
        return math.ceil(self.num_examples / self.batch_size)

    @property
    def num_steps(self) -> int:
        """Number of steps of the whole phase."""
        return self.epochs * self.steps_per_epoch


def make_phases(
    classifier: Any,
    pictures: Mapping[str, Pictures],
    settings: TrainingSettings,
    *,
    position: TrainingPosition,
    store: StateStore,
    should_stop: Callable[[], bool],
) -> list[TrainingPhase]:
    """Return the phases of the recipe in order, and compute the features that the head trains on.

    Args:
        classifier: keras.Model from `repot.classifier.build_classifier`.
        pictures: The pictures of each split.
        settings: Training settings; zeros take the recipe's own epochs and learning rate.
        position: Where the training starts; after the head phase no features are needed.
        store: Keeps the features for the next start.
        should_stop: Called before every batch.

    Raises:
        StoppedError: `should_stop` returned True; finished features are kept.
    """
    recipe = RECIPES[settings.recipe]
    extractor, head = split_classifier(classifier)
    features = (
        {} if position.is_past("head") else cached_features(extractor, pictures, store, should_stop)
    )
    num_examples = pictures["train"].num_examples
    phases = [_head_phase(head, features, num_examples, recipe=recipe, settings=settings)]
    if recipe.fine_tune:
        phases.append(_fine_tune_phase(classifier, pictures, recipe=recipe, settings=settings))
    return phases


def _head_phase(
    head: Any,
    features: Mapping[str, FeatureTable],
    num_examples: int,
    *,
    recipe: Recipe,
    settings: TrainingSettings,
) -> TrainingPhase:
    # The settings' epochs and learning rate are those of the recipe's main phase.
    epochs, learning_rate = (
        (0, 0.0) if recipe.fine_tune else (settings.epochs, settings.learning_rate)
    )

    def train_batches(epoch: int, skip: int) -> Any:
        seed = int(np.random.SeedSequence([settings.seed, epoch]).generate_state(1)[0])
        return feature_batches(features["train"], settings.batch_size, seed=seed, skip=skip)

    return TrainingPhase(
        name="head",
        model=head,
        logits=lambda features, training: head(features, training=training),
        epochs=epochs or recipe.head_epochs,
        learning_rate=learning_rate or recipe.head_learning_rate,
        save_interval=HEAD_SAVE_INTERVAL,
        reports_steps=False,
        num_examples=num_examples,
        batch_size=settings.batch_size,
        train_batches=train_batches,
        validation_batches=lambda: feature_batches(features["validation"], settings.batch_size),
    )


def _fine_tune_phase(
    classifier: Any,
    pictures: Mapping[str, Pictures],
    *,
    recipe: Recipe,
    settings: TrainingSettings,
) -> TrainingPhase:
    train, validation = pictures["train"], pictures["validation"]
    logits = training_logits(classifier)

    def augmented_logits(inputs: Any, training: bool) -> Any:
        if training:
            inputs = augment(inputs, augmentation=train.augmentation, flip=not settings.no_flip)
        return logits(inputs, training)

    return TrainingPhase(
        name="fine_tune",
        model=classifier,
        logits=augmented_logits,
        epochs=settings.epochs or recipe.epochs,
        learning_rate=settings.learning_rate or recipe.learning_rate,
        save_interval=1,
        reports_steps=True,
        num_examples=train.num_examples,
        batch_size=settings.batch_size,
        train_batches=train.training_batches,
        validation_batches=validation.batches,
    )
