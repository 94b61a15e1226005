"""Saliency maps of a small network that was trained to find one corner of a picture."""

import base64
import dataclasses
import io
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from repot.evaluator import saliency
from repot.evaluator.outcomes import ScoredPicture
from repot.evaluator.saliency import MAX_MAPS, explain_mistakes, saliency_maps
from repot.model_spec import ModelSpec, View
from repot.predictor import Model
from tests.unit.evaluator.samples import make_outcome

SIDE = 64
LABELS = ("bright", "dark")


def make_pictures(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return noise whose upper left quarter is bright or dark, and the label of each."""
    rng = np.random.default_rng(seed)
    pictures = rng.random((count, SIDE, SIDE, 3), np.float32)
    labels = rng.integers(2, size=count)
    quarter = pictures[:, : SIDE // 2, : SIDE // 2]
    quarter[labels == 0] = 0.5 + quarter[labels == 0] / 2
    quarter[labels == 1] /= 2
    return pictures, labels


@pytest.fixture(scope="module")
def network() -> Any:
    """Return a trained network."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input([SIDE, SIDE, 3]),
            keras.layers.Conv2D(8, 5, strides=4, activation="relu"),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    network.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    network.fit(*make_pictures(256, 0), epochs=8, verbose=0)
    pictures, labels = make_pictures(64, 1)
    assert np.mean(network(pictures).numpy().argmax(axis=1) == labels) > 0.95
    return network


def as_model(network: Any, views: tuple[View, ...] = ("whole",)) -> Model:
    @tf.function  # type: ignore[untyped-decorator]
    def call(pictures: tuple[Any, ...]) -> tuple[Any, Any]:
        answers = tf.add_n([network(each) for each in pictures]) / len(pictures)
        return answers, tf.zeros(tf.shape(answers)[:1])

    spec = ModelSpec(backbone="", image_size=SIDE, views=views)
    return Model(labels=LABELS, spec=spec, call=call)


def map_of(network: Any, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    (found,) = saliency_maps(as_model(network), (tf.constant(picture[None]),), [LABELS])
    own: NDArray[np.float32] = found[0]
    return own


def rank_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    ranks = [each.ravel().argsort().argsort() for each in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def test_map_is_strong_where_the_label_is_decided(network: Any) -> None:
    for picture in make_pictures(8, 2)[0]:
        found = map_of(network, picture)

        assert found.shape == (16, 16)
        assert found.max() == 1.0
        assert found[:8, :8].mean() > 1.5 * found[8:, 8:].mean()


def test_map_of_the_same_weights_is_the_same(network: Any) -> None:
    picture = make_pictures(1, 3)[0][0]

    assert rank_correlation(map_of(network, picture), map_of(network, picture)) > 0.999


@pytest.mark.parametrize("first_layer", [3, 1, 0])
def test_map_changes_when_the_weights_are_random(network: Any, first_layer: int) -> None:
    # Adebayo et al. 2018, section 4: layers are randomised from the last one to the first. A method
    # that shows the picture's edges whatever the weights would keep its map.
    pictures = make_pictures(8, 4)[0]
    trained = [map_of(network, picture) for picture in pictures]
    random = keras.models.clone_model(network)
    random.set_weights(network.get_weights())
    rng = np.random.default_rng(0)
    for layer in random.layers[first_layer:]:
        layer.set_weights(
            [rng.normal(0, each.std() + 1e-3, each.shape) for each in layer.get_weights()]
        )

    changed = [map_of(random, picture) for picture in pictures]

    correlations = [
        rank_correlation(one, other) for one, other in zip(trained, changed, strict=True)
    ]
    assert np.mean(correlations) < 0.6


def make_mistakes(count: int, size: tuple[int, int]) -> list[ScoredPicture]:
    encoded = io.BytesIO()
    Image.fromarray((255 * make_pictures(1, 5)[0][0]).astype(np.uint8)).resize(size).save(
        encoded, "JPEG"
    )
    outcome = make_outcome(0, "dark", "bright")
    return [ScoredPicture(outcome=outcome, jpeg=encoded.getvalue())] * count


@pytest.mark.parametrize(
    ("views", "expected"),
    [(("whole",), (160, 40)), (("central",), (160, 160)), (("central", "whole"), (160, 40))],
)
def test_maps_of_the_first_mistakes_have_the_shape_of_what_the_network_saw(
    network: Any, views: tuple[View, ...], expected: tuple[int, int]
) -> None:
    maps = explain_mistakes(
        lambda: as_model(network, views), make_mistakes(MAX_MAPS + 1, (200, 50))
    )

    assert len(maps) == MAX_MAPS
    with Image.open(io.BytesIO(base64.b64decode(maps[0].partition(",")[2]))) as picture:
        assert picture.size == expected
        # Grey where nothing matters, red where it does.
        pixels = np.asarray(picture.convert("RGB"), np.int16)
    redness = pixels[..., 0] - pixels[..., 1]
    if expected == (160, 40):
        assert redness[:20, :80].mean() > redness[20:, 80:].mean() + 20


def test_mistake_of_a_label_that_the_model_does_not_have_has_a_map(network: Any) -> None:
    (mistake,) = make_mistakes(1, (64, 64))
    foreign = dataclasses.replace(mistake, outcome=make_outcome(0, "other", "bright"))

    assert len(explain_mistakes(lambda: as_model(network), [foreign])) == 1


@pytest.mark.parametrize(("excess", "expected"), [(0, 2), (1, 1)])
def test_network_that_takes_much_memory_has_fewer_maps(
    network: Any, excess: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saliency, "MAX_PIXELS", 2 * 2 * SIDE**2 - excess)
    model = as_model(network)
    model = dataclasses.replace(model, spec=dataclasses.replace(model.spec, mirrored=True))

    assert len(explain_mistakes(lambda: model, make_mistakes(4, (64, 64)))) == expected
