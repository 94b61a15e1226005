"""Two steps of the recipe of 2016 equal those of a second implementation, from the 2016 formulas.

The second one is plain TensorFlow and NumPy: the network of research/inception by its description,
its loss, RMSProp, learning rate, BatchNorm statistics and moving averages.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import keras
import numpy as np
import pytest
import tensorflow as tf

from repot import progress
from repot.auxiliary_head import ARRAY_SHAPES
from repot.backbone_weights import save_weights, stable_names
from repot.classifier import build_classifier
from repot.dataset import Examples
from repot.settings import TrainingSettings
from repot.trainer.batches import Pictures
from repot.trainer.inception_2016 import _set_statistics_decay, inception_2016_phase
from repot.trainer.optimizer import WeightAverage
from repot.trainer.phases import TrainingPhase
from repot.trainer.step import StepRunner
from repot.zoo import build_backbone

NUM_CLASSES, BATCH_SIZE, LEARNING_RATE = 4, 6, 0.05
TOLERANCE = 1e-5

Arrays = dict[str, Any]


@dataclass
class Network2016:
    """Inception-v3 of research/inception, slim/inception_model.py, in training mode.

    Attributes:
        weights: Tensor by name: conv2d_7/kernel, batch_normalization_7/beta, logits/kernel, ...
        dropout: What dropout multiplies each feature by, float32 [batch, 2048].
        statistics: Mean and variance of the batch by name of the moving statistics; filled by a
            call.
    """

    weights: Arrays
    dropout: Any
    statistics: Arrays = field(default_factory=dict)
    num_convolutions: int = 0

    def __call__(self, pictures: Any) -> tuple[Any, Any]:
        """Return logits and auxiliary logits for pictures in [0, 1]."""
        x = self.conv(2 * pictures - 1, stride=2, padding="VALID")
        x = self.conv(self.conv(x, padding="VALID"))
        x = self.conv(tf.nn.max_pool2d(x, 3, 2, "VALID"), padding="VALID")
        x = tf.nn.max_pool2d(self.conv(x, padding="VALID"), 3, 2, "VALID")
        for _ in range(3):
            x = self.block(x, [1, 2, 3])
        branches = [
            self.conv(x, stride=2, padding="VALID"),
            self.conv(self.conv(self.conv(x)), stride=2, padding="VALID"),
        ]
        x = tf.concat([*branches, tf.nn.max_pool2d(x, 3, 2, "VALID")], -1)
        for _ in range(4):
            x = self.block(x, [1, 3, 5])
        auxiliary_logits = self.auxiliary(x)
        branches = [
            self.conv(self.conv(x), stride=2, padding="VALID"),
            self.conv(self.conv(self.conv(self.conv(x))), stride=2, padding="VALID"),
        ]
        x = tf.concat([*branches, tf.nn.max_pool2d(x, 3, 2, "VALID")], -1)
        for _ in range(2):
            x = self.wide_block(x)
        features = tf.reduce_mean(x, [1, 2]) * self.dropout
        return self.dense(features, "logits"), auxiliary_logits

    def block(self, x: Any, lengths: list[int]) -> Any:
        """Concatenate branches of some convolutions each, and one of pooling and a convolution."""
        branches = []
        for length in lengths:
            branch = x
            for _ in range(length):
                branch = self.conv(branch)
            branches.append(branch)
        return tf.concat([*branches, self.conv(tf.nn.avg_pool2d(x, 3, 1, "SAME"))], -1)

    def wide_block(self, x: Any) -> Any:
        first = self.conv(x)
        branch = self.conv(x)
        second = [self.conv(branch), self.conv(branch)]
        branch = self.conv(self.conv(x))
        third = [self.conv(branch), self.conv(branch)]
        last = self.conv(tf.nn.avg_pool2d(x, 3, 1, "SAME"))
        return tf.concat([first, *second, *third, last], -1)

    def auxiliary(self, x: Any) -> Any:
        pool = min(5, x.shape[1])
        x = self.conv(tf.nn.avg_pool2d(x, pool, 3, "VALID"), name="auxiliary_proj")
        # Centred in 5x5 if it is smaller than that.
        missing = 5 - x.shape[1]
        sides = [missing // 2, missing - missing // 2]
        x = tf.pad(x, [[0, 0], sides, sides, [0, 0]])
        x = self.conv(x, padding="VALID", name="auxiliary_conv")
        assert tuple(x.shape[1:]) == (1, 1, 768)
        return self.dense(x[:, 0, 0], "auxiliary_logits")

    def conv(self, x: Any, *, stride: int = 1, padding: str = "SAME", name: str = "") -> Any:
        """Convolve, normalise by the batch, add beta, and rectify."""
        norm = f"{name}_norm"
        if not name:
            number = f"_{self.num_convolutions}" if self.num_convolutions else ""
            name, norm = f"conv2d{number}", f"batch_normalization{number}"
            self.num_convolutions += 1
        x = tf.nn.conv2d(x, self.weights[f"{name}/kernel"], stride, padding)
        mean, variance = tf.nn.moments(x, [0, 1, 2])
        self.statistics[f"{norm}/moving_mean"] = mean
        self.statistics[f"{norm}/moving_variance"] = variance
        beta = self.weights[f"{norm}/beta"]
        return tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, beta, None, 0.001))

    def dense(self, x: Any, name: str) -> Any:
        return x @ self.weights[f"{name}/kernel"] + self.weights[f"{name}/bias"]


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the mean cross-entropy with labels smoothed by 0.1."""
    targets = tf.one_hot(labels, NUM_CLASSES) * 0.9 + 0.1 / NUM_CLASSES
    return -tf.reduce_mean(tf.reduce_sum(targets * tf.nn.log_softmax(logits), -1))


@dataclass
class Training2016:
    """The state of inception_train.py, from its formulas.

    Attributes:
        weights: Value by name of everything that has a moving average.
        averages: The moving averages.
        num_steps: Finished steps.
        losses: Total loss of each step.
        gradients: Gradients of the last step.
    """

    weights: Arrays
    averages: Arrays
    num_steps: int = 0
    losses: list[float] = field(default_factory=list)
    gradients: Arrays = field(default_factory=dict)
    mean_squares: Arrays = field(default_factory=dict)
    momentums: Arrays = field(default_factory=dict)

    def step(self, pictures: Any, labels: Any, dropout: Any, learning_rate: float) -> None:
        variables = {
            name: tf.constant(value) for name, value in self.weights.items() if "moving" not in name
        }
        network = Network2016(variables, dropout)
        with tf.GradientTape() as tape:
            tape.watch(variables)
            logits, auxiliary_logits = network(pictures)
            decay = sum(tf.reduce_sum(variables[name] ** 2) / 2 for name in kernels(variables))
            loss = (
                cross_entropy(logits, labels)
                + 0.4 * cross_entropy(auxiliary_logits, labels)
                + 0.00004 * decay
            )
        gradients = tape.gradient(loss, variables)
        self.losses.append(float(loss))
        self.gradients = {name: gradient.numpy() for name, gradient in gradients.items()}
        for name, gradient in self.gradients.items():
            mean_square = 0.9 * self.mean_squares.get(name, 1.0) + 0.1 * gradient**2
            update = learning_rate * gradient / np.sqrt(mean_square + 1.0)
            momentum = 0.9 * self.momentums.get(name, 0.0) + update
            self.mean_squares[name], self.momentums[name] = mean_square, momentum
            self.weights[name] = self.weights[name] - momentum
        for name, value in network.statistics.items():
            self.weights[name] = 0.9997 * self.weights[name] + 0.0003 * value.numpy()
        self.num_steps += 1
        decay = min(0.9999, (1 + self.num_steps) / (10 + self.num_steps))
        for name, value in self.weights.items():
            self.averages[name] = decay * self.averages[name] + (1 - decay) * value


def kernels(names: Any) -> list[str]:
    return [name for name in names if name.endswith("/kernel")]


def random_arrays(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    """Return weights of a sensible size for a checkpoint."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in shapes.items():
        array = rng.normal(size=shape)
        if name.endswith("kernel"):
            array *= np.sqrt(2 / np.prod(shape[:-1]))
        elif name.endswith("variance"):
            array = 0.5 + np.abs(array)
        else:
            array *= 0.1
        arrays[name] = array.astype(np.float32)
    return arrays


@pytest.fixture(scope="module")
def arrays() -> Iterator[Arrays]:
    """Return the weights of a checkpoint, auxiliary head included."""
    backbone = build_backbone("inception_v3", image_size=75)
    shapes = {
        name: tuple(weight.shape)
        for name, weight in zip(stable_names(backbone), backbone.weights, strict=True)
    }
    yield random_arrays(shapes | ARRAY_SHAPES)
    keras.backend.clear_session()


@dataclass
class Made:
    """The phase of a training.

    Attributes:
        phase: The phase.
        variables: The variables that have a moving average, by name.
        dropout: The dropout layer.
        start: The values of the variables before the first step.
    """

    phase: TrainingPhase
    variables: dict[str, Any]
    dropout: Any
    start: Arrays

    def next_dropout(self) -> Any:
        """Return what the next step's dropout multiplies features by."""
        state = self.dropout.seed_generator.state
        before = state.numpy()
        mask = self.dropout(tf.ones([BATCH_SIZE, 2048]), training=True)
        state.assign(before)
        return mask

    def values(self) -> Arrays:
        """Return the current values by name."""
        return {name: variable.numpy().copy() for name, variable in self.variables.items()}


Make = Callable[..., Made]


@pytest.fixture(scope="module")
def make(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that builds the phase from the weights of a checkpoint."""

    def make_phase(
        image_size: int = 75,
        num_examples: int = 12,
        checkpoint: Arrays = arrays,
        **settings: Any,
    ) -> Made:
        weights_path = tmp_path_factory.mktemp("weights") / "weights.h5"
        save_weights(weights_path, checkpoint)
        classifier = build_classifier(
            "inception_v3",
            num_classes=NUM_CLASSES,
            image_size=image_size,
            seed=0,
            weights_path=weights_path,
        )
        pictures = Pictures(
            examples=cast(Examples, range(num_examples)),  # only their number matters
            image_size=image_size,
            batch_size=BATCH_SIZE,
            shuffle_buffer=1,
            seed=0,
        )
        phase = inception_2016_phase(
            classifier,
            pictures={"train": pictures, "validation": pictures},
            settings=TrainingSettings(
                recipe="inception_2016",
                batch_size=BATCH_SIZE,
                learning_rate=LEARNING_RATE,
                **settings,
            ),
            weights_path=weights_path,
            augment=lambda inputs: inputs,
        )
        (backbone,) = (layer for layer in classifier.layers if isinstance(layer, keras.Model))
        variables = dict(zip(stable_names(backbone), backbone.weights, strict=True))
        known = {id(variable) for variable in backbone.weights}
        for variable in phase.model.variables:
            if id(variable) not in known and "float" in variable.dtype:
                variables[variable.path] = variable
        start = {name: variable.numpy().copy() for name, variable in variables.items()}
        return Made(phase, variables, classifier.get_layer("dropout"), start)

    return make_phase


@pytest.fixture(scope="module")
def made(make: Make) -> Made:
    """Return one phase at 75 pixels for the tests that do not compile its steps."""
    return make()


def batch(image_size: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    shape = (BATCH_SIZE, image_size, image_size, 3)
    pictures = rng.uniform(size=shape).astype(np.float32)
    return tf.constant(pictures), tf.constant(rng.integers(1, NUM_CLASSES, BATCH_SIZE))


def assert_close(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(found[name], value, atol=TOLERANCE * scale, err_msg=name)


def test_everything_but_the_logits_comes_from_the_checkpoint(made: Made, arrays: Arrays) -> None:
    values = made.start

    for name, value in arrays.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)
    new = {"logits", "auxiliary_logits"}
    assert {name for name in values if name not in arrays} == {
        f"{layer}/{variable}" for layer in new for variable in ("kernel", "bias")
    }
    for layer, stddev in (("logits", 0.01), ("auxiliary_logits", 0.001)):
        kernel = values[f"{layer}/kernel"]
        assert np.abs(kernel).max() <= 2 * stddev
        assert np.std(kernel) == pytest.approx(0.88 * stddev, rel=0.05)
        assert np.all(values[f"{layer}/bias"] == 0)


@pytest.mark.parametrize("image_size", [75, pytest.param(299, marks=pytest.mark.slow)])
def test_two_steps_equal_those_of_2016(image_size: int, make: Make) -> None:
    # The learning rate falls after the first step.
    made = make(image_size, num_epochs_per_decay=0.5)
    phase = made.phase
    pictures, labels = batch(image_size)
    reference = Training2016(weights=made.values(), averages=made.values())
    average = WeightAverage(phase.model, phase.average_decay)
    optimizer = phase.optimizer(1.0)
    optimizer.build(phase.model.trainable_variables)
    runner = StepRunner(
        phase.outputs,
        phase.loss,
        [(optimizer, phase.model.trainable_variables)],
        tf.distribute.get_strategy(),
        penalty=phase.penalty,
        average=average,
    )
    batches = tf.data.Dataset.from_tensors((pictures, labels, tf.ones([BATCH_SIZE])))

    for learning_rate in (LEARNING_RATE, LEARNING_RATE * 0.16):
        # From the same weights: the gradients of this network amplify rounding errors.
        reference.weights = made.values()
        reference.step(pictures, labels, made.next_dropout(), learning_rate)
        runner.train_steps(iter(runner.distribute(batches)), 1, stop=False)

        assert_close(made.values(), reference.weights)
        with average.assigned():
            assert_close(made.values(), reference.averages)


def test_loss_and_gradients_equal_those_of_2016(made: Made) -> None:
    phase = made.phase
    assert phase.penalty is not None
    pictures, labels = batch(75)
    reference = Training2016(weights=made.values(), averages=made.values())
    reference.step(pictures, labels, made.next_dropout(), LEARNING_RATE)

    with tf.GradientTape() as tape:
        outputs = phase.outputs(pictures, True)
        loss = tf.reduce_mean(phase.loss(outputs, labels)) + phase.penalty()
    names = list(reference.gradients)
    gradients = tape.gradient(loss, [made.variables[name].value for name in names])

    assert len(names) == len(phase.model.trainable_variables)
    assert float(loss) == pytest.approx(reference.losses[0], abs=TOLERANCE)
    found = {name: gradient.numpy() for name, gradient in zip(names, gradients, strict=True)}
    assert_close(found, reference.gradients)


def test_checkpoint_without_an_auxiliary_head_starts_it_at_random_with_a_notice(
    make: Make, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    monkeypatch.setattr(progress, "notice", lambda task, text, **_: notices.append(text))
    backbone_only = {name: array for name, array in arrays.items() if name not in ARRAY_SHAPES}

    values = make(checkpoint=backbone_only).values()

    assert np.std(values["auxiliary_proj/kernel"]) == pytest.approx(0.088, rel=0.05)
    assert np.std(values["auxiliary_conv/kernel"]) == pytest.approx(0.0088, rel=0.05)
    too_few_steps, no_auxiliary_head = sorted(notices, reverse=True)
    assert "has no auxiliary head" in no_auxiliary_head
    assert too_few_steps.startswith("recipe=inception_2016 should take at least 1000 steps; got 40")


def test_scoring_leaves_statistics_alone(made: Made) -> None:
    before = made.values()

    (logits, _) = made.phase.outputs(batch(75)[0], False)

    assert logits.shape == (BATCH_SIZE, NUM_CLASSES)
    for name, value in made.values().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("num_parts", [1, 4])
def test_statistics_move_as_far_in_parts_of_a_batch_as_in_the_whole(num_parts: int) -> None:
    network = keras.Sequential([keras.Input([2]), keras.layers.BatchNormalization()])
    inputs = keras.Input([2])
    model = keras.Model(inputs, network(inputs))
    _set_statistics_decay(model, num_parts)

    for _ in range(num_parts):
        model(np.array([[1.0, 2.0], [3.0, 6.0]], np.float32), training=True)

    mean = network.layers[0].moving_mean
    np.testing.assert_allclose(mean, [0.0003 * 2, 0.0003 * 4], rtol=1e-3)
