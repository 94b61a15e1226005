import subprocess
import sys

import numpy as np
import pytest

from repot import zoo
from repot.errors import UsageError
from repot.zoo import BACKBONES


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gives_its_features_at_its_smallest_image_size(name: str) -> None:
    backbone = BACKBONES[name]
    model = zoo.build_backbone(name, image_size=backbone.min_image_size)

    features = np.asarray(
        model(np.zeros((2, backbone.min_image_size, backbone.min_image_size, 3), np.float32))
    )

    assert features.shape == (2, backbone.num_features)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_a_backbone_refuses_images_below_its_smallest_size() -> None:
    with pytest.raises(
        UsageError, match=r"image_size must be at least 75 for inception_v3; got image_size=74\."
    ):
        zoo.build_backbone("inception_v3", image_size=74)


def test_an_unknown_backbone_is_answered_with_the_choices() -> None:
    with pytest.raises(
        UsageError, match=r"backbone must be one of inception_v3, .*; got backbone='resnet'"
    ):
        zoo.build_backbone("resnet", image_size=224)


@pytest.mark.parametrize(
    "name", ["inception_v3", "mobilenet_v2", "xception", "inception_resnet_v2", "resnet50_v2"]
)
def test_the_input_range_is_that_of_keras(name: str) -> None:
    import keras

    modules = {
        "inception_v3": "inception_v3",
        "mobilenet_v2": "mobilenet_v2",
        "resnet50_v2": "resnet_v2",
    }
    preprocess = getattr(keras.applications, modules.get(name, name)).preprocess_input
    pixels = np.array([[[[0.0, 127.5, 255.0]]]], np.float32)

    ours = BACKBONES[name].scale * (pixels / 255) + BACKBONES[name].offset

    np.testing.assert_allclose(ours, preprocess(pixels.copy()), atol=1e-6)


def test_efficientnet_lite0_takes_pixels_less_127_over_128() -> None:
    backbone = BACKBONES["efficientnet_lite0"]

    assert backbone.scale * (127 / 255) + backbone.offset == pytest.approx(0)
    assert backbone.scale + backbone.offset == pytest.approx(1)


def test_the_table_is_read_without_tensorflow() -> None:
    code = "import sys, repot.zoo; print('tensorflow' in sys.modules, 'keras' in sys.modules)"

    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout == ("False False\n")
