import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

from repot.trainer.batches import FeatureTable, feature_batches
from repot.trainer.position import Sums
from repot.trainer.step import (
    LABEL_SMOOTHING,
    StepOutOfMemoryError,
    StepRunner,
    computing_in,
    smoothed_cross_entropy,
)
from repot.trainer.strategy import FLOAT32, Computation

WIDTH, NUM_CLASSES = 3, 4


def make_runner(
    learning_rate: float = 1.0,
    *,
    computation: Computation = FLOAT32,
    penalty: Callable[[Any], Any] | None = None,
) -> tuple[StepRunner, Any]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([WIDTH]), keras.layers.Dense(NUM_CLASSES)])
    optimizer = keras.optimizers.SGD(learning_rate)
    runner = StepRunner(
        lambda inputs, training: (model(inputs, training=training),),
        lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        [(optimizer, model.trainable_variables)],
        tf.distribute.get_strategy(),
        penalty=None if penalty is None else lambda: penalty(model),
        model=model,
        computation=computation,
    )
    return runner, model


def penalty(model: Any) -> Any:
    return 0.1 * tf.reduce_sum(model.weights[0].value ** 2)


class NotingDense(keras.layers.Dense):  # type: ignore[misc]
    """Notes the dtype of its outputs whenever a call is traced."""

    seen: ClassVar[list[str]] = []

    def call(self, inputs: Any) -> Any:
        outputs = super().call(inputs)
        self.seen.append(outputs.dtype.name)
        return outputs


def make_deep_model() -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input([WIDTH]), NotingDense(5, activation="relu"), NotingDense(NUM_CLASSES)]
    )


def make_deep_runner(precision: str = "float32") -> tuple[StepRunner, Any]:
    model = make_deep_model()
    optimizer = keras.optimizers.SGD(0.1)
    if precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    runner = StepRunner(
        lambda inputs, training: (model(inputs, training=training),),
        lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        [(optimizer, model.trainable_variables)],
        tf.distribute.get_strategy(),
        model=model,
        computation=Computation(precision=precision),
    )
    return runner, model


def four_batches() -> Any:
    inputs = np.random.default_rng(1).normal(size=(4, 3, WIDTH)).astype(np.float32)
    labels = np.array([[1, 2, 3], [2, 2, 1], [3, 1, 1], [1, 0, 0]])
    mask = (labels > 0).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((inputs, labels, mask))


def one_batch(labels: list[int], mask: list[float]) -> Any:
    """Return a dataset of one batch with random inputs."""
    inputs = np.random.default_rng(0).normal(size=(len(labels), WIDTH)).astype(np.float32)
    values = (inputs[None], np.array([labels]), np.array([mask], np.float32))
    return tf.data.Dataset.from_tensor_slices(values)


def train_step(runner: StepRunner, batches: Any, *, stop: bool = False) -> tuple[Sums, bool]:
    result = runner.train_steps(iter(runner.distribute(batches)), 1, stop=stop)
    return result.sums[0], result.is_stopping


def test_gradients_of_many_branches_are_summed_in_pairs() -> None:
    # The result of an AddN of three terms depends on timing.
    inputs = keras.Input([WIDTH])
    middle = keras.layers.Dense(5)(inputs)
    branches = [keras.layers.Dense(NUM_CLASSES)(middle) for _ in range(4)]
    model = keras.Model(inputs, keras.layers.Concatenate()(branches))
    graphs = []

    def loss(outputs: tuple[Any, ...], labels: Any) -> Any:
        graphs.append(tf.compat.v1.get_default_graph())
        return smoothed_cross_entropy(outputs[0], labels)

    runner = StepRunner(
        lambda inputs, training: (model(inputs, training=training),),
        loss,
        [(keras.optimizers.SGD(1.0), model.trainable_variables)],
        tf.distribute.get_strategy(),
        model=model,
    )
    train_step(runner, four_batches())

    sums = [op for op in graphs[0].get_operations() if op.type == "AddN"]
    assert sums
    assert {len(op.inputs) for op in sums} == {2}


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


# 5 examples fit into 2 parts only with padding.
@pytest.mark.parametrize("num_parts", [2, 3, 5])
def test_parts_of_a_batch_give_the_step_of_the_whole_batch(num_parts: int) -> None:
    whole, whole_model = make_runner()
    parts, parts_model = make_runner(computation=Computation(num_parts=num_parts))
    batches = one_batch([1, 2, 3, 1, 0], [1, 1, 1, 1, 0])

    expected, found = (train_step(runner, batches)[0] for runner in (whole, parts))

    np.testing.assert_allclose(dataclasses.astuple(found), dataclasses.astuple(expected), rtol=1e-6)
    for weight, other in zip(whole_model.weights, parts_model.weights, strict=True):
        np.testing.assert_allclose(other.numpy(), weight.numpy(), atol=1e-6)


def test_parts_include_the_penalty_once() -> None:
    whole, whole_model = make_runner(penalty=penalty)
    parts, parts_model = make_runner(computation=Computation(num_parts=2), penalty=penalty)

    for runner in (whole, parts):
        train_step(runner, one_batch([1, 2, 3, 1], [1, 1, 1, 1]))

    expected = whole_model.weights[0].numpy()
    np.testing.assert_allclose(parts_model.weights[0].numpy(), expected, atol=1e-6)


def test_parts_of_a_batch_do_not_divide_pairs() -> None:
    def blend(inputs: Any) -> Any:
        pairs = tf.reshape(inputs, [-1, 2, WIDTH])
        return tf.reshape(pairs + 0.5 * tf.reverse(pairs, [1]), [-1, WIDTH])

    def train(num_parts: int) -> Any:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input([WIDTH]), keras.layers.Dense(NUM_CLASSES)])
        runner = StepRunner(
            lambda inputs, training: (model(blend(inputs), training=training),),
            lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
            [(keras.optimizers.SGD(1.0), model.trainable_variables)],
            tf.distribute.get_strategy(),
            in_pairs=True,
            model=model,
            computation=Computation(num_parts=num_parts),
        )
        train_step(runner, one_batch([1, 2, 3, 1, 2, 2], [1, 1, 1, 1, 1, 1]))
        return model.weights[0].numpy()

    for num_parts in (2, 3, 6):
        np.testing.assert_allclose(train(num_parts), train(1), atol=1e-6)


@pytest.mark.parametrize("num_parts", [2, 3])
def test_batch_norm_sees_no_padding_if_the_parts_do_not_divide_the_batch(num_parts: int) -> None:
    model = keras.Sequential(
        [
            keras.Input([WIDTH]),
            keras.layers.BatchNormalization(momentum=0.0),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )
    runner = StepRunner(
        lambda inputs, training: (model(inputs, training=training),),
        lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        [(keras.optimizers.SGD(0.1), model.trainable_variables)],
        tf.distribute.get_strategy(),
        model=model,
        computation=Computation(num_parts=num_parts),
    )
    inputs = np.full([1, 5, WIDTH], 7, np.float32)
    labels, mask = np.ones([1, 5], np.int64), np.ones([1, 5], np.float32)

    sums, _ = train_step(runner, tf.data.Dataset.from_tensor_slices((inputs, labels, mask)))

    assert sums.num_examples == 5
    np.testing.assert_allclose(model.layers[0].moving_mean, [7.0] * WIDTH)


def train_in_calls(runner: StepRunner, batches: Any, calls: tuple[int, ...]) -> list[Any]:
    """Train with these numbers of steps per call; return the sums of each step."""
    iterator = iter(runner.distribute(batches))
    return [
        sums
        for num_steps in calls
        for sums in runner.train_steps(iterator, num_steps, stop=False).sums
    ]


@pytest.mark.parametrize("calls", [(4,), (1, 3), (3, 1), (1, 1, 1, 1)])
def test_results_do_not_depend_on_the_number_of_steps_per_call(calls: tuple[int, ...]) -> None:
    alone, alone_model = make_runner()
    runner, model = make_runner()
    batches = four_batches()

    expected = [train_step(alone, batches.skip(i).take(1))[0] for i in range(4)]

    assert train_in_calls(runner, batches, calls) == expected
    for weight, other in zip(alone_model.weights, model.weights, strict=True):
        np.testing.assert_array_equal(other.numpy(), weight.numpy())


@pytest.mark.parametrize(("calls", "skip"), [((4,), 0), ((1, 3), 0), ((1, 1, 1), 1), ((2,), 2)])
def test_batches_gathered_from_a_table_give_the_steps_of_a_tf_data_dataset(
    calls: tuple[int, ...], skip: int
) -> None:
    features = np.random.default_rng(2).normal(size=(11, WIDTH)).astype(np.float32)
    table = FeatureTable(features=features, labels=np.arange(11) % 3 + 1)
    batches = feature_batches(table, 3, seed=1, skip=skip)  # 4 batches, the last with padding
    plain, plain_model = make_runner()
    runner, model = make_runner()

    expected = [train_step(plain, batches.dataset().skip(i).take(1))[0] for i in range(4 - skip)]

    assert train_in_calls(runner, batches, calls) == expected
    for weight, other in zip(plain_model.weights, model.weights, strict=True):
        np.testing.assert_array_equal(other.numpy(), weight.numpy())
    totals = [dataclasses.astuple(runner.score(each)) for each in (batches, batches.dataset())]
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-6)
    logits, labels = runner.predict(batches)
    np.testing.assert_array_equal(logits, runner.predict(batches.dataset())[0])
    assert len(labels) == 11 - 3 * skip


def test_empty_table_has_no_score() -> None:
    table = FeatureTable(features=np.zeros([0, WIDTH], np.float32), labels=np.zeros(0, np.int64))

    assert make_runner()[0].score(feature_batches(table, 3)) == Sums(0.0, 0.0, 0.0)


@pytest.mark.parametrize("num_steps", [1, 2])
def test_call_of_any_length_reports_a_worker_that_was_asked_to_stop(num_steps: int) -> None:
    runner, _ = make_runner()
    iterator = iter(runner.distribute(four_batches()))

    assert not runner.train_steps(iterator, num_steps, stop=False).is_stopping
    assert runner.train_steps(iterator, num_steps, stop=True).is_stopping


def test_xla_gives_the_same_step() -> None:
    plain, plain_model = make_runner()
    compiled, compiled_model = make_runner(computation=Computation(uses_xla=True))
    batches = one_batch([1, 2, 3], [1, 1, 1])

    expected, found = (train_step(runner, batches)[0] for runner in (plain, compiled))

    np.testing.assert_allclose(dataclasses.astuple(found), dataclasses.astuple(expected), rtol=1e-5)
    np.testing.assert_allclose(
        compiled_model.weights[0].numpy(), plain_model.weights[0].numpy(), atol=1e-5
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_computes_nearly_the_same_step_with_float32_weights(
    precision: str,
) -> None:
    exact, exact_model = make_deep_runner()
    runner, model = make_deep_runner(precision)
    batches = one_batch([1, 2, 3], [1, 1, 1])

    expected = train_step(exact, batches)[0]
    NotingDense.seen.clear()
    found = train_step(runner, batches)[0]

    # The hidden layer computes in the lower precision, the one that returns the logits does not.
    assert NotingDense.seen == [precision, "float32"]
    assert found.loss == pytest.approx(expected.loss, rel=0.02)
    for weight, other in zip(exact_model.weights, model.weights, strict=True):
        assert other.dtype == "float32"
        np.testing.assert_allclose(other.numpy(), weight.numpy(), atol=0.02)
    # Scoring, and the model itself, still compute in float32.
    NotingDense.seen.clear()
    runner.score(batches)
    assert set(NotingDense.seen) == {"float32"}
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


def test_layers_around_the_networks_and_those_that_make_logits_stay_in_float32() -> None:
    def network(name: str, last: Any) -> Any:
        inputs = keras.Input([WIDTH])
        return keras.Model(inputs, last(keras.layers.Dense(WIDTH, name=f"{name}_hidden")(inputs)))

    backbone = network("backbone", keras.layers.ReLU(name="pool"))
    auxiliary = network("auxiliary", keras.layers.Dense(2, name="auxiliary_logits"))
    inputs = keras.Input([WIDTH])
    features = keras.layers.UnitNormalization(name="unit")(backbone(inputs))
    logits = keras.ops.pad(keras.layers.Dense(2, name="logits")(features), [[0, 0], [1, 0]])
    model = keras.Model(inputs, [logits, auxiliary(features)])
    layers = [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]

    with computing_in("bfloat16", model):
        lowered = {layer.name for layer in layers if layer.dtype_policy.name != "float32"}

    assert {"backbone_hidden", "pool", "auxiliary_hidden"} <= lowered
    assert not {"unit", "logits", "auxiliary_logits"} & lowered
    assert {layer.dtype_policy.name for layer in layers} == {"float32"}


def test_step_without_finite_float16_gradients_is_skipped_by_all_optimizers() -> None:
    model = make_deep_model()
    groups = [model.weights[:2], model.weights[2:]]
    optimizers = []
    for group in groups:
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(1.0), initial_scale=2.0**120
        )
        optimizer.build(group)
        optimizers.append((optimizer, group))
    runner = StepRunner(
        lambda inputs, training: (model(inputs, training=training),),
        lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        optimizers,
        tf.distribute.get_strategy(),
        model=model,
        computation=Computation(precision="float16"),
    )
    before = [weight.numpy() for weight in model.weights]

    train_step(runner, one_batch([1, 2, 3], [1, 1, 1]))

    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)
    assert [float(optimizer.dynamic_scale) for optimizer, _ in optimizers] == [2.0**119] * 2


def test_step_without_enough_memory_raises_an_error_of_its_own() -> None:
    runner, _ = make_runner(penalty=lambda model: tf.reduce_sum(tf.tile(model.weights[0], huge)))
    huge = [2**20, 2**20]  # times 12 values of 4 bytes: 48 TiB

    with pytest.raises(StepOutOfMemoryError, match="OOM when allocating"):
        train_step(runner, one_batch([1, 2, 3, 1], [1, 1, 1, 1]))


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
