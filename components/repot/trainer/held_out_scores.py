"""What the models of recipes head, fine_tune and inception_2016 promise.

Pictures are scored by models that were not fitted to them: the head by cross-validation, a network
on the training pictures that it was not trained on. `repot.trainer.calibration` has the rest.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from repot.classifier import DROPOUT, normalise_features, split_classifier
from repot.errors import StoppedError
from repot.settings import TrainingSettings
from repot.trainer.auto.heads import MAX_ROWS, FloatArray, IntArray, assign_folds
from repot.trainer.auto.selection import NUM_FOLDS, TrainingFeatures
from repot.trainer.batches import FeatureTable, Pictures, epoch_seed, feature_batches
from repot.trainer.calibration import (
    MAX_FITTED,
    Calibrated,
    HeldOut,
    calibrate,
    cross_validate_unlike,
    fit_unlike,
    sample_rows,
    spread,
    with_threshold,
)
from repot.trainer.loop import TrainingRun, check_finite
from repot.trainer.optimizer import make_optimizer
from repot.trainer.step import StepRunner, smoothed_cross_entropy
from repot.trainer.strategy import gather_rows, run_on_replicas, worker_share


def calibrate_head(
    features: TrainingFeatures,
    table: FeatureTable,
    run: TrainingRun,
    settings: TrainingSettings,
    *,
    epochs: int,
    learning_rate: float,
) -> Calibrated:
    """Return what a head on frozen features promises, by cross-validation on training pictures.

    Beyond MAX_ROWS pictures, at most as many of one fold alone are scored: that is enough.

    Args:
        features: What is known of the training pictures.
        table: Their features, as the head takes them.
        run: The training.
        settings: What the model promises, and how the head is trained.
        epochs, learning_rate: Of the head that is published.

    Raises:
        StoppedError: The training was asked to stop.
    """
    keys = features.keys(slice(None))
    folds = assign_folds(keys, features.classes, NUM_FOLDS)
    rows = np.arange(len(folds))
    if len(folds) > MAX_ROWS:
        (first,) = np.nonzero(folds == folds.min())
        order = np.argsort(features.digests[first], kind="stable")
        rows = np.sort(first[order[:MAX_ROWS]])
    logits = _cross_validate_head(
        table,
        folds,
        rows,
        num_outputs=features.num_classes + 1,
        run=run,
        settings=settings,
        epochs=epochs,
        learning_rate=learning_rate,
    )
    method = f"{NUM_FOLDS}-fold cross-validation on training pictures"
    held_out = HeldOut(
        logits=logits,
        classes=features.classes[rows],
        method=method + ("" if features.groups is None else ", groups kept together"),
    )
    temperature, calibration = calibrate(held_out, settings=settings)
    sample = sample_rows(features.digests)
    unlike = cross_validate_unlike(
        normalise_features(table.features[sample], features.sizes),
        folds[sample],
        settings.unlike_rate,
    )
    return Calibrated(temperature=temperature, calibration=calibration, unlike=unlike)


def calibrate_network(
    classifier: Any,
    train: Pictures,
    held_out: Pictures,
    run: TrainingRun,
    settings: TrainingSettings,
) -> Calibrated:
    """Return what a network promises that was trained without some of the training pictures.

    At most MAX_ROWS of these are scored: that is enough.

    Args:
        classifier: keras.Model from `repot.classifier.build_classifier`.
        train: The pictures that it was trained on.
        held_out: Those that were held out.
        run: The training.
        settings: What the model promises.
    """
    sample = replace(train, only=spread(train.numbers, MAX_FITTED))
    unlike = fit_unlike(_answers(classifier, run, sample, lambda rows, logits, classes: rows))
    # float64 [n, N + 2]
    answers = _answers(
        classifier,
        run,
        replace(held_out, only=spread(held_out.numbers, MAX_ROWS)),
        lambda rows, logits, classes: np.column_stack([logits, unlike.scores(rows), classes]),
    )
    temperature, calibration = calibrate(
        HeldOut(
            logits=answers[:, :-2],
            classes=answers[:, -1].astype(np.int64),
            method="training pictures that the network was not trained on",
        ),
        settings=settings,
    )
    unlike = with_threshold(unlike, answers[:, -2], settings.unlike_rate)
    return Calibrated(temperature=temperature, calibration=calibration, unlike=unlike)


def _cross_validate_head(
    table: FeatureTable,
    folds: IntArray,
    scored: IntArray,
    *,
    num_outputs: int,
    run: TrainingRun,
    settings: TrainingSettings,
    epochs: int,
    learning_rate: float,
) -> FloatArray:
    """Return the logits of some rows, by heads that were trained without the fold of each.

    They are trained as the phase `head` trains the one that is published.

    Args:
        table: The features.
        folds: int64 [num_rows], see `assign_folds`.
        scored: int64 [n], the rows.
        num_outputs: N + 1.
        run, settings, epochs, learning_rate: As in `calibrate_head`.

    Returns:
        float64 [n, N], without the background.

    Raises:
        StoppedError: The training was asked to stop.
        TrainingError: The loss is not finite.
        StepOutOfMemoryError: The device's memory does not suffice for a step.
    """
    batch_size = settings.batch_size
    held_out = np.unique(folds[scored])
    fitted = [np.flatnonzero(folds != fold) for fold in held_out]
    # The largest number of batches that all of them fill, so that they share a compiled loop.
    num_batches = min(math.ceil(len(rows) / batch_size) for rows in fitted)
    logits = np.zeros((len(scored), num_outputs - 1))
    if not num_batches:
        return logits
    with run.strategy.scope():
        inputs = keras.Input(table.features.shape[1:])
        head = keras.layers.Dense(num_outputs, kernel_initializer="zeros", dtype="float32")
        dropout = keras.layers.Dropout(DROPOUT, seed=settings.seed)
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
    for fold, rows in zip(held_out, fitted, strict=True):
        for variable, value in zip(variables, initial, strict=True):
            variable.assign(value)
        for epoch in range(epochs):
            seed = epoch_seed(settings.seed, epoch)
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
        (places,) = np.nonzero(folds[scored] == fold)
        logits[places] = (table.features[scored[places]] @ kernel + bias)[:, 1:]
    return logits


def _answers(
    classifier: Any,
    run: TrainingRun,
    pictures: Pictures,
    answer: Callable[[FloatArray, FloatArray, IntArray], FloatArray],
) -> FloatArray:
    """Return what a function makes of some pictures, of which each worker computes its share.

    Args:
        classifier: The network.
        run: The training.
        pictures: The pictures.
        answer: (float64 [n, features] normalised, float64 [n, N] logits without the background,
            int64 [n] classes in 0..N-1) -> float64 [n, columns].

    Returns:
        float64 [num_pictures, columns], in the order of the pictures.
    """
    extractor, head = split_classifier(classifier)
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
