"""The recipes reach their expected scores on the built-in sample, on one device or several."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from repot.settings import TrainingSettings
from repot.trainer.request import TrainingRequest
from repot.trainer.train import train
from tests.rebuilt_models import assert_rebuilt_exactly

# Two logical CPU devices, which every machine has. No dropout: it differs between devices.
MIRRORED = """
import dataclasses, json, sys
from repot.quiet_tensorflow import import_tensorflow
import_tensorflow()
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from repot.trainer.batches import ShareOfBatches
from repot.trainer.optimizer import WeightAverage
from repot.trainer.step import StepRunner, smoothed_cross_entropy
from repot.trainer.strategy import Computation

def train(strategy, is_shared=False):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(4)])
        optimizer = keras.optimizers.AdamW(0.1)
        optimizer.build(model.trainable_variables)
        average = WeightAverage(model, 0.9)
    runner = StepRunner(
        lambda inputs, training: (model(inputs, training=training),),
        lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        [(optimizer, model.trainable_variables)],
        strategy,
        penalty=lambda: 0.1 * tf.reduce_sum(model.weights[0].value ** 2),
        average=average,
    )
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(6, 8, 3)).astype(np.float32)
    labels, mask = draw.integers(1, 4, (6, 8)), np.ones((6, 8), np.float32)
    mask[-1, 1:] = 0
    columns = (inputs, labels, mask)
    if is_shared:
        halves = tuple(column.reshape(12, 4, *column.shape[2:]) for column in columns)
        batches = ShareOfBatches(replica_batches=tf.data.Dataset.from_tensor_slices(halves))
    else:
        batches = tf.data.Dataset.from_tensor_slices(columns)
    distributed = iter(runner.distribute(batches))
    steps = []
    for num_steps in (1, 2, 3):
        steps += runner.train_steps(distributed, num_steps, stop=False).sums
    return {
        "sums": list(map(dataclasses.astuple, steps)),
        "score": dataclasses.astuple(runner.score(batches)),
        "kernel": model.weights[0].numpy().tolist(),
        "average": np.asarray(average.variables[1]).tolist(),
        "logits": runner.predict(batches)[0].tolist(),
    }

def statistics(strategy):
    with strategy.scope():
        model = keras.Sequential([keras.Input([3]), keras.layers.BatchNormalization(momentum=0.9)])
        optimizer = keras.optimizers.SGD(0.0)
        optimizer.build(model.trainable_variables)
        head = keras.layers.Dense(4)
        head.build((None, 3))
    runner = StepRunner(
        lambda inputs, training: (head(model(inputs, training=training)),),
        lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        [(optimizer, model.trainable_variables)],
        strategy,
        statistics=model.non_trainable_variables,
    )
    inputs = np.random.default_rng(0).normal(size=(1, 8, 3)).astype(np.float32)
    labels, mask = np.ones((1, 8), np.int64), np.ones((1, 8), np.float32)
    batches = tf.data.Dataset.from_tensor_slices((inputs, labels, mask))
    distributed = iter(runner.distribute(batches))
    runner.train_steps(distributed, int(batches.cardinality()), stop=False)
    values = strategy.experimental_local_results(model.non_trainable_variables[0].value)
    found = [value.numpy().tolist() for value in values]
    return {"found": found, "mean": inputs[0].mean(0).tolist()}

def overflow(strategy):
    with strategy.scope():
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(5), keras.layers.Dense(4)])
        optimizers = []
        for group in (model.weights[:2], model.weights[2:]):
            optimizer = keras.optimizers.LossScaleOptimizer(
                keras.optimizers.SGD(0.1), initial_scale=2.0**15
            )
            optimizer.build(group)
            optimizers.append((optimizer, group))
    runner = StepRunner(
        lambda inputs, training: (model(inputs, training=training),),
        lambda outputs, labels: smoothed_cross_entropy(outputs[0], labels),
        optimizers,
        strategy,
        model=model,
        computation=Computation(precision="float16"),
    )
    before = [weight.numpy() for weight in model.weights]
    inputs = np.ones((2, 8, 3), np.float32)
    # Only the gradients of the second replica exceed the range of float16, in the first step.
    inputs[0, 4:] = 100
    labels, mask = np.ones((2, 8), np.int64), np.ones((2, 8), np.float32)
    batches = iter(runner.distribute(tf.data.Dataset.from_tensor_slices((inputs, labels, mask))))
    losses, changes = [], []
    for _ in range(2):
        losses.append(runner.train_steps(batches, 1, stop=False).sums[0].loss)
        changes.append(max(
            float(abs(weight.numpy() - old).max())
            for weight, old in zip(model.weights, before, strict=True)
        ))
    scales = [
        float(scale)
        for optimizer, _ in optimizers
        for scale in strategy.experimental_local_results(optimizer.dynamic_scale.value)
    ]
    return {"losses": losses, "changes": changes, "scales": scales}

def features(strategy, dataset_uri, folder):
    from pathlib import Path
    from repot.dataset import open_examples
    from repot.example_digests import read_contents
    from repot.manifest import read_manifest
    from repot.trainer import features
    from repot.trainer.batches import Pictures
    features.BATCH_SIZE = 8
    manifest = read_manifest(dataset_uri)
    keras.utils.set_random_seed(3)
    with strategy.scope():
        pictures = keras.Input([16, 16, 3])
        maps = keras.layers.Conv2D(5, 3, activation="relu")(pictures)
        extractor = keras.Model(pictures, keras.layers.GlobalAveragePooling2D()(maps))
    with open_examples(dataset_uri, manifest) as examples:
        reader = features.FeatureReader(
            extractor,
            {"train": Pictures(
                examples=examples["train"], image_size=16, batch_size=8, shuffle_buffer=8, seed=0
            )},
            contents=lambda split: read_contents(dataset_uri, manifest, split, task="train"),
            features_uri=folder,
            checkpoint_id="c",
            backbone="tiny",
            scratch=Path(folder),
            strategy=strategy,
            should_stop=lambda: False,
        )
        return reader.read("train")[0].features.tolist()

one = train(tf.distribute.get_strategy())
mirrored = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
two = train(mirrored)
shared = train(mirrored, is_shared=True)
trained = statistics(mirrored)
skipped = overflow(mirrored)
found = [
    features(each, sys.argv[1], f"{sys.argv[2]}/{i}")
    for i, each in enumerate([tf.distribute.get_strategy(), mirrored])
]
print(json.dumps(
    {
        "one": one,
        "two": two,
        "shared": shared,
        "statistics": trained,
        "overflow": skipped,
        "features": found,
    }
))
"""


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_head_recipe_classifies_the_sample(
    seed: int, sample_dataset_uri: str, lite0_weights_uri: str, tmp_path: Path
) -> None:
    settings = TrainingSettings(backbone="efficientnet_lite0", recipe="head", seed=seed)

    record = train(
        TrainingRequest(
            dataset_uri=sample_dataset_uri,
            weights_uri=lite0_weights_uri,
            run_uri=str(tmp_path),
            training_id="t",
            checkpoint_id="c",
            settings=settings,
        )
    )

    last = record.last_epoch
    assert last.validation_precision_at_1 is not None
    assert last.validation_precision_at_1 >= 0.8
    assert last.train_precision_at_1 >= 0.95
    if seed == 0:
        assert_rebuilt_exactly(tmp_path / "model", tmp_path / "copy")


def test_two_devices_train_like_one(sample_dataset_uri: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MIRRORED, sample_dataset_uri, str(tmp_path)]
    output = subprocess.check_output(command, text=True)
    results = json.loads(output)

    for name, numbers in results["one"].items():
        np.testing.assert_allclose(numbers, results["two"][name], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(numbers, results["shared"][name], rtol=1e-4, atol=1e-5)
    assert results["two"]["score"][2] == 41
    one_device, two_devices = results["features"]
    assert len(one_device) == 92
    assert two_devices == one_device
    # Each device normalises by its own share; the moving statistics are the mean of both.
    statistics = results["statistics"]
    assert len(statistics["found"]) == 2
    for found in statistics["found"]:
        np.testing.assert_allclose(found, 0.1 * np.array(statistics["mean"]), rtol=1e-4)
    # A step whose gradients are not finite on one device is skipped by both.
    overflow = results["overflow"]
    assert np.isfinite(overflow["losses"]).all()
    assert overflow["changes"][0] == 0 < overflow["changes"][1]
    assert overflow["scales"] == [2.0**14] * 4
