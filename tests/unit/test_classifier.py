import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from repot.backbone_weights import save_weights, stable_names
from repot.classifier import (
    UnlikeScore,
    build_classifier,
    feature_network,
    linear_classifier,
    normalise_features,
    published_linear_model,
    published_model,
    split_classifier,
    training_logits,
)
from repot.errors import CheckpointError
from repot.model_spec import ModelSpec
from repot.zoo import build_backbone

SIZE = 64
LOAD = (
    "import sys, keras, numpy as np; model = keras.models.load_model(sys.argv[1]);"
    " np.save(sys.argv[3], model(np.load(sys.argv[2])))"
)
LOAD_TWO_VIEWS = LOAD.replace("np.load(sys.argv[2])", "list(np.load(sys.argv[2]))")


@pytest.fixture(scope="module")
def classifier(lite0_weights_uri: str) -> Any:
    path = Path(lite0_weights_uri, "weights.h5")
    return build_classifier(
        "efficientnet_lite0", num_classes=4, image_size=SIZE, seed=0, weights_path=path
    )


@pytest.fixture(scope="module")
def pictures() -> Any:
    return np.random.default_rng(0).random((3, SIZE, SIZE, 3), np.float32)


def with_random_head(classifier: Any, features_scale: float = 1.0) -> Any:
    kernel = classifier.get_layer("logits").kernel
    kernel.assign(np.random.default_rng(1).normal(size=kernel.shape, scale=1 / features_scale))
    return classifier


def test_pictures_are_rescaled_to_the_range_of_the_backbone(classifier: Any, pictures: Any) -> None:
    extractor, _ = split_classifier(classifier)
    backbone = next(layer for layer in classifier.layers if isinstance(layer, keras.Model))

    np.testing.assert_allclose(
        extractor(pictures), backbone((255 * pictures - 127) / 128), atol=1e-5
    )


def test_new_head_gives_all_classes_equal_logits() -> None:
    _, head = split_classifier(
        build_classifier("mobilenet_v2", num_classes=4, image_size=SIZE, seed=0)
    )

    np.testing.assert_array_equal(
        head(np.random.default_rng(0).normal(size=(2, 1280))), np.zeros((2, 4))
    )


def test_split_models_in_sequence_equal_the_classifier(classifier: Any, pictures: Any) -> None:
    extractor, head = split_classifier(with_random_head(classifier))

    np.testing.assert_allclose(head(extractor(pictures)), classifier(pictures), atol=1e-4)
    assert np.ptp(classifier(pictures)) > 1
    assert [variable.path for variable in head.trainable_variables] == [
        "logits/kernel",
        "logits/bias",
    ]


def test_training_does_not_update_batch_norm_statistics(classifier: Any, pictures: Any) -> None:
    statistics = [weight for weight in classifier.weights if "moving_" in weight.path]
    before = [weight.numpy() for weight in statistics]

    training_logits(with_random_head(classifier))(pictures, True)

    assert len(statistics) == 98
    for old, weight in zip(before, statistics, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())


def test_dropout_is_active_in_training_only(classifier: Any, pictures: Any) -> None:
    logits = training_logits(with_random_head(classifier))

    np.testing.assert_allclose(
        logits(pictures, False), classifier(pictures, training=False), atol=1e-4
    )
    assert np.abs(logits(pictures, True) - logits(pictures, True)).max() > 0.1


def test_layers_that_draw_random_numbers_depend_on_the_seed_only() -> None:
    def seeds(global_seed: int, seed: int) -> list[list[int]]:
        keras.utils.set_random_seed(global_seed)
        built = build_classifier("efficientnet_v2_b0", num_classes=3, image_size=SIZE, seed=seed)
        states = [variable for variable in built.variables if "seed_generator" in variable.path]
        return [state.numpy().tolist() for state in states]

    first, same, other = seeds(1, seed=5), seeds(2, seed=5), seeds(2, seed=6)

    assert len(first) > 10  # 1 of the head, the others of the backbone
    assert first == same
    assert all(state != changed for state, changed in zip(first, other, strict=True))
    assert len({tuple(state) for state in first}) == len(first)


def test_published_model_returns_the_probabilities_of_the_labels_only(
    classifier: Any, pictures: Any
) -> None:
    with_random_head(classifier)
    bias = classifier.get_layer("logits").bias
    bias.assign([50.0, 1.0, 2.0, 3.0])  # background first

    scores = np.asarray(published_model(classifier)(pictures))

    exponents = np.exp(np.asarray(classifier(pictures))[:, 1:])
    assert scores.shape == (3, 3)
    np.testing.assert_allclose(scores, exponents / exponents.sum(axis=1)[:, None], rtol=1e-4)
    bias.assign([0.0] * 4)


def test_weights_are_loaded_from_the_file_and_must_fit_the_backbone(tmp_path: Path) -> None:
    backbone = build_backbone("mobilenet_v2", image_size=SIZE)
    arrays = {
        name: weight.numpy() + 0.5
        for name, weight in zip(stable_names(backbone), backbone.weights, strict=True)
    }
    save_weights(tmp_path / "weights.h5", arrays)

    built = build_classifier(
        "mobilenet_v2", num_classes=3, image_size=SIZE, seed=0, weights_path=tmp_path / "weights.h5"
    )

    np.testing.assert_array_equal(built.weights[0].numpy(), arrays[stable_names(backbone)[0]])
    with pytest.raises(CheckpointError, match="must fit"):
        build_classifier(
            "resnet50_v2",
            num_classes=3,
            image_size=SIZE,
            seed=0,
            weights_path=tmp_path / "weights.h5",
        )


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "efficientnet_lite0", "convnext_tiny"])
def test_published_model_loads_in_a_process_without_repot(backbone: str, tmp_path: Path) -> None:
    classifier = build_classifier(backbone, num_classes=3, image_size=SIZE, seed=0)
    pictures = np.random.default_rng(0).random((2, SIZE, SIZE, 3), np.float32)
    features = split_classifier(classifier)[0](pictures)
    # Features of a random network are near 0; scale the head so that logits differ.
    with_random_head(classifier, features_scale=float(np.std(features)))
    np.save(tmp_path / "pictures.npy", pictures)
    model = published_model(classifier)
    model.save(tmp_path / "model.keras")

    names = ("model.keras", "pictures.npy", "scores.npy")
    subprocess.run(
        [sys.executable, "-c", LOAD, *(str(tmp_path / name) for name in names)],
        check=True,
        cwd=tmp_path,
    )

    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), model(pictures), atol=1e-4)
    assert np.ptp(model(pictures)) > 0.1


@pytest.mark.parametrize(
    ("backbone", "num_depths"),
    [("efficientnet_lite0", 2), ("mobilenet_v2", 2), ("inception_v3", 2), ("convnext_tiny", 0)],
)
def test_features_from_inside_the_backbone_are_statistics_of_merged_maps(
    backbone: str, num_depths: int
) -> None:
    size = max(SIZE, 96)
    built = build_classifier(backbone, num_classes=3, image_size=size, seed=0)
    pictures = np.random.default_rng(0).random((2, size, size, 3), np.float32)

    network = feature_network(built, use_depths=True)

    assert len(network.sizes) == 1 + num_depths
    features = np.asarray(network.extractor(pictures))
    assert features.shape == (2, sum(network.sizes))
    own = np.asarray(split_classifier(built)[0](pictures))
    np.testing.assert_allclose(features[:, : network.sizes[0]], own, atol=1e-5)
    if num_depths:
        # Half of a part are means, the other half standard deviations.
        deviations = features[:, network.sizes[0] + network.sizes[1] // 2 :][:, :8]
        assert (deviations > 0).all()
    assert feature_network(built, use_depths=False).sizes == network.sizes[:1]


def test_linear_classifier_has_the_logits_of_the_normalised_features(
    classifier: Any, pictures: Any
) -> None:
    network = feature_network(classifier, use_depths=True)
    kernel, bias = _random_linear_head(sum(network.sizes))

    logits = np.asarray(linear_classifier(network, kernel, bias)(pictures))

    expected = normalise_features(np.asarray(network.extractor(pictures)), network.sizes)
    np.testing.assert_allclose(logits[:, 1:], expected @ kernel + bias, atol=1e-4)
    assert (logits[:, 0] < -1000).all()


def test_published_linear_model_averages_features_over_views_and_mirror_images(
    classifier: Any, pictures: Any, tmp_path: Path
) -> None:
    network = feature_network(classifier, use_depths=True)
    kernel, bias = _random_linear_head(sum(network.sizes))
    spec = ModelSpec(
        backbone="efficientnet_lite0",
        image_size=SIZE,
        views=("whole", "padded"),
        mirrored=True,
        temperature=0.5,
    )
    views = np.stack([pictures, np.clip(pictures + 0.2, 0, 1)])
    np.save(tmp_path / "pictures.npy", views)

    model = published_linear_model(network, kernel, bias, spec=spec)

    both = [*views, *(view[:, :, ::-1] for view in views)]
    mean = np.mean([np.asarray(network.extractor(each)) for each in both], axis=0)
    scores = np.exp((normalise_features(mean, network.sizes) @ kernel + bias) / 0.5)
    expected = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(model(list(views))), expected, atol=1e-5)
    model.save(tmp_path / "model.keras")
    names = ("model.keras", "pictures.npy", "scores.npy")
    subprocess.run(
        [sys.executable, "-c", LOAD_TWO_VIEWS, *(str(tmp_path / name) for name in names)],
        check=True,
        cwd=tmp_path,
    )
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "plain"])
def test_published_models_state_how_unlike_the_training_pictures_are(
    classifier: Any, pictures: Any, kind: str
) -> None:
    network = feature_network(classifier, use_depths=kind == "linear")
    rows = normalise_features(np.asarray(network.extractor(pictures)), network.sizes)
    axes = np.linalg.qr(np.random.default_rng(5).normal(size=(rows.shape[1], 2)))[0] * [1, 0.7]
    unlike = UnlikeScore(mean=rows[1:].mean(axis=0), axes=axes, threshold=0.02)

    if kind == "linear":
        kernel, bias = _random_linear_head(sum(network.sizes))
        spec = ModelSpec(backbone="efficientnet_lite0", image_size=SIZE)
        model = published_linear_model(network, kernel, bias, spec=spec, unlike=unlike)
        plain = published_linear_model(network, kernel, bias, spec=spec)
    else:
        model = published_model(classifier, temperature=0.5, unlike=unlike)
        plain = published_model(classifier, temperature=0.5)

    answers = model(pictures)
    assert list(model.output) == ["probabilities", "unlike"]
    np.testing.assert_array_equal(answers["probabilities"], plain(pictures))
    centred = rows - unlike.mean
    along = [[row @ axis for axis in axes.T] for row in centred]
    expected = (np.linalg.norm(centred, axis=1) ** 2 - np.sum(np.square(along), axis=1)) / 0.02
    np.testing.assert_allclose(unlike.scores(rows), expected, rtol=1e-9)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(answers["unlike"], expected, atol=1e-3)


def test_temperature_divides_the_logits_of_a_published_model(
    classifier: Any, pictures: Any
) -> None:
    before = np.asarray(published_model(classifier)(pictures), np.float64)
    after = np.asarray(published_model(classifier, temperature=2.0)(pictures))

    roots = np.sqrt(before)
    np.testing.assert_allclose(after, roots / roots.sum(axis=1, keepdims=True), atol=1e-6)


def _random_linear_head(num_features: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(num_features, 3)), rng.normal(size=3)
