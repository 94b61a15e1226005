"""Training draws from generators of its own: no global random state has a part in its results.

Any library may draw from the global generators of Python, NumPy, Keras and TensorFlow, or seed
them. Google's client, for example, draws the pause before a retry from Python's. A single retry
would then change the weights.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from repot import classifier, progress, storage
from repot.backbone_weights import save_weights, stable_names
from repot.errors import StoppedError
from repot.json_record import read_record
from repot.model_spec import ModelSpec
from repot.recipes import RECIPES
from repot.settings import TrainingSettings
from repot.storage.s3 import objects
from repot.trainer.request import TrainingRequest
from repot.trainer.train import train
from repot.training_record import EpochRecord, read_history
from tests.integration.faulty_proxy import run_proxy

STORAGE_FUNCTIONS = (
    "as_local_file",
    "delete",
    "delete_folder",
    "exists",
    "file_crc32c_hex",
    "read_bytes",
    "read_json",
    "read_text",
    "upload_folder",
    "write_bytes",
    "write_json",
    "write_text",
)
SETTINGS = TrainingSettings(
    backbone="mobilenet_v2", recipe="fine_tune", epochs=2, image_size=32, seed=7
)
HEAD_EPOCHS = 3


def never_stop() -> bool:
    return False


def run(
    request: TrainingRequest, *, should_stop: Callable[[], bool] = never_stop
) -> tuple[list[Any], list[EpochRecord]]:
    """Train, and return the published weights and the epochs without their durations."""
    train(request, should_stop=should_stop)
    with storage.as_local_file(f"{request.run_uri}/model/model.keras") as path:
        model = keras.models.load_model(path, compile=False)
    epochs = [dataclasses.replace(epoch, seconds=0.0) for epoch in read_history(request.run_uri)]
    return [weight.numpy() for weight in model.weights], epochs


def assert_same_bits(
    results: tuple[list[Any], list[EpochRecord]], expected: tuple[list[Any], list[EpochRecord]]
) -> None:
    assert results[1] == expected[1]
    assert len(results[0]) == len(expected[0]) == 12
    for weight, same in zip(results[0], expected[0], strict=True):
        np.testing.assert_array_equal(weight, same)


def build_small_backbone(
    _name: str, *, image_size: int, weights_path: Path | None = None, architecture: None = None
) -> Any:
    """Build a network with a layer that draws random numbers, as some backbones have."""
    pictures = keras.Input([image_size, image_size, 3])
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu", name="conv")(pictures)
    x = keras.layers.Dropout(0.2, name="drop")(keras.layers.BatchNormalization(name="bn")(x))
    return keras.Model(pictures, keras.layers.GlobalAveragePooling2D(name="pool")(x))


@pytest.fixture(scope="module", autouse=True)
def small_training() -> Iterator[None]:
    """Train a small backbone for a few epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "build_backbone", build_small_backbone)
        recipe = dataclasses.replace(RECIPES["fine_tune"], head_epochs=HEAD_EPOCHS)
        patch.setitem(RECIPES, "fine_tune", recipe)
        yield


@pytest.fixture(scope="module")
def make_request(
    sample_dataset_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], TrainingRequest]:
    weights = tmp_path_factory.mktemp("weights")
    backbone = build_small_backbone("small", image_size=SETTINGS.image_size)
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=weight.shape, loc=0.5, scale=0.1)
        for name, weight in zip(stable_names(backbone), backbone.weights, strict=True)
    }
    save_weights(weights / "weights.h5", arrays)

    def make(run_uri: str) -> TrainingRequest:
        return TrainingRequest(
            dataset_uri=sample_dataset_uri,
            weights_uri=str(weights),
            run_uri=run_uri,
            training_id="t",
            checkpoint_id="c",
            settings=SETTINGS,
        )

    return make


@pytest.fixture(scope="module")
def expected(
    make_request: Callable[[str], TrainingRequest], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Any], list[EpochRecord]]:
    return run(make_request(str(tmp_path_factory.mktemp("expected"))))


class Perturbation:
    """Seeds every global generator with a different number at each call, and draws from each."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self) -> bool:
        self.num_calls += 1
        keras.utils.set_random_seed(1000 + self.num_calls)
        random.random()
        np.random.random()
        tf.random.uniform([])
        keras.random.uniform([])
        return False


@pytest.fixture
def perturb(monkeypatch: pytest.MonkeyPatch) -> Perturbation:
    """Perturb the global generators before and after every storage call and progress report."""
    perturbation = Perturbation()

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            perturbation()
            result = function(*args, **kwargs)
            perturbation()
            return result

        return call

    for name in STORAGE_FUNCTIONS:
        monkeypatch.setattr(storage, name, wrap(getattr(storage, name)))
    monkeypatch.setattr(progress, "report", wrap(progress.report))
    return perturbation


def test_global_random_states_do_not_change_a_training(
    make_request: Callable[[str], TrainingRequest],
    expected: tuple[list[Any], list[EpochRecord]],
    perturb: Perturbation,
    tmp_path: Path,
) -> None:
    results = run(make_request(str(tmp_path)), should_stop=perturb)  # before every step too

    assert perturb.num_calls > 100
    assert_same_bits(results, expected)


def test_global_random_states_do_not_change_a_resumed_training(
    make_request: Callable[[str], TrainingRequest],
    expected: tuple[list[Any], list[EpochRecord]],
    perturb: Perturbation,
    tmp_path: Path,
) -> None:
    request = make_request(str(tmp_path))
    for num_calls in (10, 10, 20, 30):
        limit = perturb.num_calls + num_calls
        with pytest.raises(StoppedError):
            train(request, should_stop=lambda limit=limit: perturb() or perturb.num_calls > limit)  # type: ignore[misc]

    assert_same_bits(run(request, should_stop=perturb), expected)


def test_recipe_head_that_is_stopped_while_it_calibrates_promises_the_same(
    make_request: Callable[[str], TrainingRequest], perturb: Perturbation, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, recipe="head", epochs=HEAD_EPOCHS)
    first, second = (
        dataclasses.replace(make_request(str(tmp_path / name)), settings=settings)
        for name in ("first", "second")
    )
    expected = run(first)

    # Five heads for the calibration, then the published one; each stop ends in another of them.
    for num_calls in (8, 16, 24):
        limit = perturb.num_calls + num_calls
        with pytest.raises(StoppedError):
            train(second, should_stop=lambda limit=limit: perturb() or perturb.num_calls > limit)  # type: ignore[misc]
    assert_same_bits(run(second, should_stop=perturb), expected)

    specs = [(tmp_path / name / "model" / "model_spec.json") for name in ("first", "second")]
    assert specs[0].read_bytes() == specs[1].read_bytes()
    promised = read_record(str(specs[0]), ModelSpec).calibration
    assert promised is not None
    assert promised.num_examples == 92


# Both stores share the retries; the second one doubles the time.
@pytest.mark.parametrize("store", ["gcs", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_fault_in_each_storage_request_does_not_change_a_training(
    store: str,
    make_request: Callable[[str], TrainingRequest],
    expected: tuple[list[Any], list[EpochRecord]],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = str(request.getfixturevalue(store))
    monkeypatch.setattr(objects, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr("repot.storage.retries._FIRST_PAUSE_SECONDS", 0.01)
    training = make_request(f"{bucket}/run")
    for uri, name in ((training.dataset_uri, "dataset"), (training.weights_uri, "weights")):
        storage.upload_folder(Path(uri), f"{bucket}/{name}")
    training = dataclasses.replace(
        training, dataset_uri=f"{bucket}/dataset", weights_uri=f"{bucket}/weights"
    )

    with run_proxy(request.getfixturevalue(f"{store}_endpoint")) as proxy:
        name = "STORAGE_EMULATOR_HOST" if store == "gcs" else "AWS_ENDPOINT_URL_S3"
        monkeypatch.setenv(name, proxy.url)
        proxy.refuse_every_second_request()
        results = run(training)

    assert len(proxy.requests) > 60
    assert_same_bits(results, expected)
