import dataclasses
import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from repot.trainer.position import Sums
from repot.trainer.step import LABEL_SMOOTHING, StepRunner, smoothed_cross_entropy

WIDTH, NUM_CLASSES = 3, 4


def make_runner(learning_rate: float = 1.0) -> tuple[StepRunner, Any]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([WIDTH]), keras.layers.Dense(NUM_CLASSES)])
    optimizer = keras.optimizers.SGD(learning_rate)
    runner = StepRunner(
        lambda inputs, training: (model(inputs, training=training),),
        lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        [(optimizer, model.trainable_variables)],
        tf.distribute.get_strategy(),
    )
    return runner, model


def one_batch(labels: list[int], mask: list[float]) -> Any:
    """Return a dataset of one batch with random inputs."""
    inputs = np.random.default_rng(0).normal(size=(len(labels), WIDTH)).astype(np.float32)
    values = (inputs[None], np.array([labels]), np.array([mask], np.float32))
    return tf.data.Dataset.from_tensor_slices(values)


def train_step(runner: StepRunner, batches: Any, *, stop: bool = False) -> tuple[Sums, bool]:
    (batch,) = runner.distribute(batches)
    return runner.train_step(batch, stop=stop)


def test_padding_changes_neither_the_step_nor_the_sums() -> None:
    short, short_model = make_runner()
    long, long_model = make_runner()

    short_sums, _ = train_step(short, one_batch([1, 2, 3], [1, 1, 1]))
    long_sums, _ = train_step(long, one_batch([1, 2, 3, 0, 0], [1, 1, 1, 0, 0]))

    np.testing.assert_allclose(
        dataclasses.astuple(short_sums), dataclasses.astuple(long_sums), rtol=1e-6
    )
    for expected, weight in zip(short_model.weights, long_model.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), expected.numpy(), atol=1e-6)


def test_step_follows_the_gradient_of_the_smoothed_loss() -> None:
    runner, model = make_runner(learning_rate=0.5)
    ((inputs, labels, _),) = one_batch([1, 3], [1, 1]).as_numpy_iterator()
    kernel = model.weights[0].numpy()
    scores = tf.nn.softmax(model(inputs)).numpy()
    targets = np.eye(NUM_CLASSES)[labels] * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / NUM_CLASSES

    train_step(runner, one_batch([1, 3], [1, 1]))

    np.testing.assert_allclose(
        model.weights[0].numpy(), kernel - 0.5 * inputs.T @ (scores - targets) / 2, atol=1e-6
    )


@pytest.mark.parametrize("stop", [True, False])
def test_step_is_taken_and_reports_whether_a_worker_was_asked_to_stop(*, stop: bool) -> None:
    runner, model = make_runner()
    before = model.weights[0].numpy()

    _, is_stopping = train_step(runner, one_batch([1, 2], [1, 1]), stop=stop)

    assert is_stopping == stop
    assert not np.array_equal(model.weights[0].numpy(), before)


def test_sums_leave_out_padding_and_the_background_class() -> None:
    runner, model = make_runner()
    model.weights[0].assign(np.zeros((WIDTH, NUM_CLASSES)))
    model.weights[1].assign([100.0, 0.0, 0.0, 1.0])

    sums = runner.score(one_batch([3, 3, 1, 0], [1, 1, 1, 0]))

    others = math.log(2 + math.e)
    assert (sums.correct, sums.num_examples) == (2, 3)
    assert sums.loss == pytest.approx(2 * (others - 1) + others, rel=1e-5)


def test_score_of_no_batches_is_zero() -> None:
    runner, _ = make_runner()

    assert runner.score(one_batch([1], [1]).take(0)) == Sums(0.0, 0.0, 0.0)


def test_predicted_logits_leave_out_padding() -> None:
    runner, model = make_runner()
    batches = one_batch([3, 1, 2, 0], [1, 1, 1, 0])
    ((inputs, _, _),) = batches.as_numpy_iterator()

    logits, labels = runner.predict(batches)

    np.testing.assert_allclose(logits, model(inputs[:3]).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(labels, [3, 1, 2])


def test_scoring_changes_no_weight() -> None:
    runner, model = make_runner()
    before = [weight.numpy() for weight in model.weights]

    runner.score(one_batch([1, 2], [1, 1]))

    for expected, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected)
