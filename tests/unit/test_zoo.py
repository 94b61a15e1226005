import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from repot import zoo
from repot.checkpoints import resolve_source
from repot.errors import UsageError
from repot.keras_model import check_classes
from repot.zoo import BACKBONES

# Published length of each backbone's feature vector.
NUM_FEATURES = {
    "inception_v3": 2048,
    "efficientnet_lite0": 1280,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 576,
    "mobilenet_v3_large": 960,
    "efficientnet_v2_b0": 1280,
    "resnet50_v2": 2048,
    "convnext_tiny": 768,
    "xception": 2048,
    "inception_resnet_v2": 1536,
}


@pytest.mark.parametrize("name", NUM_FEATURES)
def test_backbone_returns_features_at_its_smallest_image_size(name: str) -> None:
    size = BACKBONES[name].min_image_size
    model = zoo.build_backbone(name, image_size=size)

    features = np.asarray(model(np.zeros((2, size, size, 3), np.float32)))

    assert features.shape == (2, NUM_FEATURES[name])
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    # The summary states the number of parameters, rounded to tenths below 10 million.
    (millions,) = re.findall(r", ([\d.]+) M parameters", BACKBONES[name].summary)
    decimals = 1 if "." in millions else 0
    assert f"{model.count_params() / 1e6:.{decimals}f}" == millions
    # A published model of this network can be loaded.
    check_classes(keras.saving.serialize_keras_object(model), uri="model.keras")


@pytest.mark.parametrize("name", [name for name in BACKBONES if BACKBONES[name].imagenet_path])
def test_imagenet_path_is_the_file_that_keras_downloads(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = BACKBONES[name]
    downloads: list[str] = []

    def record_url(_name: str, url: str, **_: object) -> str:
        downloads.append(url)
        raise InterruptedError

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", record_url)
    with pytest.raises(InterruptedError):
        getattr(keras.applications, spec.keras_name)(
            include_top=False, input_shape=(spec.image_size, spec.image_size, 3)
        )

    assert downloads == [resolve_source("imagenet", backbone=name).uri]


@pytest.mark.parametrize("name", BACKBONES)
def test_row_is_complete_and_consistent(name: str) -> None:
    spec = BACKBONES[name]

    assert spec.name == name
    assert spec.summary
    assert 32 <= spec.min_image_size <= spec.image_size
    assert spec.scale > 0
    assert spec.training_speed > 0
    assert bool(spec.keras_name) == bool(spec.imagenet_path)
    # tests/integration/test_hub_backbones.py builds the networks of KerasHub.
    assert bool(spec.hub_class) == (name not in NUM_FEATURES)
    assert (spec.pooling in ("token", "mean", "none")) == bool(spec.hub_class)


def test_image_size_below_the_minimum_is_an_error() -> None:
    with pytest.raises(
        UsageError, match=r"image_size must be at least 75 for inception_v3; got image_size=74\."
    ):
        zoo.build_backbone("inception_v3", image_size=74)


def test_unknown_backbone_is_an_error_with_the_choices_and_the_nearest_name() -> None:
    with pytest.raises(
        UsageError,
        match=r"backbone must be one of inception_v3, .*; got backbone='resnet_50'\. Did you mean",
    ):
        zoo.build_backbone("resnet_50", image_size=224)


@pytest.mark.parametrize(
    "name", ["inception_v3", "mobilenet_v2", "xception", "inception_resnet_v2", "resnet50_v2"]
)
def test_input_range_is_that_of_keras(name: str) -> None:
    modules = {
        "inception_v3": "inception_v3",
        "mobilenet_v2": "mobilenet_v2",
        "resnet50_v2": "resnet_v2",
    }
    preprocess = getattr(keras.applications, modules.get(name, name)).preprocess_input
    pixels = np.array([[[[0.0, 127.5, 255.0]]]], np.float32)

    scaled = BACKBONES[name].scale * (pixels / 255) + BACKBONES[name].offset

    np.testing.assert_allclose(scaled, preprocess(pixels.copy()), atol=1e-6)


def test_input_range_of_efficientnet_lite0_is_pixel_minus_127_over_128() -> None:
    spec = BACKBONES["efficientnet_lite0"]

    assert spec.scale * (127 / 255) + spec.offset == pytest.approx(0)
    assert spec.scale + spec.offset == pytest.approx(1)


def test_importing_the_table_does_not_import_tensorflow() -> None:
    code = "import sys, repot.zoo; print('tensorflow' in sys.modules, 'keras' in sys.modules)"

    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout == ("False False\n")
