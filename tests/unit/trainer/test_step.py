import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from repot.trainer.step import LABEL_SMOOTHING, StepRunner

WIDTH, NUM_CLASSES = 3, 4


def make_runner(learning_rate: float = 1.0) -> tuple[StepRunner, Any]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([WIDTH]), keras.layers.Dense(NUM_CLASSES)])
    optimizer = keras.optimizers.SGD(learning_rate)
    runner = StepRunner(
        lambda inputs, training: model(inputs, training=training),
        model.trainable_variables,
        optimizer,
        tf.distribute.get_strategy(),
    )
    return runner, model


def batches(labels: list[int], mask: list[float]) -> Any:
    inputs = np.random.default_rng(0).normal(size=(len(labels), WIDTH)).astype(np.float32)
    values = (inputs[None], np.array([labels]), np.array([mask], np.float32))
    return tf.data.Dataset.from_tensor_slices(values)


def test_padding_changes_neither_the_step_nor_the_sums() -> None:
    short, long = make_runner(), make_runner()

    ((of_short, _),) = short[0].train(batches([1, 2, 3], [1, 1, 1]), lambda: False)
    ((of_long, _),) = long[0].train(batches([1, 2, 3, 0, 0], [1, 1, 1, 0, 0]), lambda: False)

    np.testing.assert_allclose(of_short, of_long, rtol=1e-6)
    for one, other in zip(short[1].weights, long[1].weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


def test_step_follows_the_gradient_of_the_smoothed_loss() -> None:
    runner, model = make_runner(learning_rate=0.5)
    ((inputs, labels, _),) = batches([1, 3], [1, 1]).as_numpy_iterator()
    kernel = model.weights[0].numpy()
    scores = tf.nn.softmax(model(inputs)).numpy()
    targets = np.eye(NUM_CLASSES)[labels] * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / NUM_CLASSES

    list(runner.train(batches([1, 3], [1, 1]), lambda: False))

    np.testing.assert_allclose(
        model.weights[0].numpy(), kernel - 0.5 * inputs.T @ (scores - targets) / 2, atol=1e-6
    )


def test_sums_leave_the_background_class_out() -> None:
    runner, model = make_runner()
    model.weights[0].assign(np.zeros((WIDTH, NUM_CLASSES)))
    model.weights[1].assign([100.0, 0.0, 0.0, 1.0])

    sums = runner.score(batches([3, 3, 1, 0], [1, 1, 1, 0]))

    others = math.log(2 + math.e)
    assert (sums.correct, sums.num_examples) == (2, 3)
    assert sums.loss == pytest.approx(2 * (others - 1) + others, rel=1e-5)


def test_score_changes_nothing_and_of_nothing_is_zero() -> None:
    runner, model = make_runner()
    before = [weight.numpy() for weight in model.weights]

    assert tuple(runner.score(batches([1], [1]).take(0))) == (0, 0, 0)
    runner.score(batches([1, 2], [1, 1]))

    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())
