"""Every backbone and kind of head is rebuilt exactly, with weights as training leaves them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repot.classifier import (
    UnlikeScore,
    build_classifier,
    feature_network,
    network_spec,
    published_linear_model,
    published_model,
)
from repot.json_record import write_record
from repot.model_spec import Head, ModelSpec
from repot.zoo import BACKBONES
from tests.rebuilt_models import assert_rebuilt_exactly

NUM_LABELS = 4
# Random weights make their features almost constant.
SHRINKING = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_lite0")
FAST = {("mobilenet_v3_small", "normalised")}
KINDS = [
    pytest.param(name, head, marks=[] if (name, head) in FAST else pytest.mark.slow)
    for name in BACKBONES
    if not BACKBONES[name].hub_class
    for head in ("features", "normalised")
]


def draw_unlike(num_features: int) -> UnlikeScore:
    draw = np.random.default_rng(1)
    axes = np.linalg.qr(draw.normal(size=(num_features, 5)))[0]
    return UnlikeScore(mean=draw.normal(size=num_features) / 50, axes=axes, threshold=0.7)


@pytest.mark.parametrize(("backbone", "head"), KINDS)
def test_network_is_rebuilt_exactly(backbone: str, head: Head, tmp_path: Path) -> None:
    size = max(64, BACKBONES[backbone].min_image_size)
    classifier = build_classifier(backbone, num_classes=NUM_LABELS + 1, image_size=size, seed=3)
    draw = np.random.default_rng(0)
    for weight in classifier.weights:
        if weight.path.endswith(("beta", "bias")):  # still zeros
            weight.assign(draw.normal(size=weight.shape) / 10)
        elif weight.path.endswith("moving_variance") and backbone in SHRINKING:
            weight.assign(draw.uniform(0.02, 0.04, weight.shape))
    if head == "features":
        classifier.get_layer("logits").kernel.assign(
            draw.normal(size=classifier.get_layer("logits").kernel.shape)
        )
        unlike = draw_unlike(classifier.get_layer("dropout").output.shape[-1])
        model = published_model(classifier, temperature=1.3, unlike=unlike)
        spec = ModelSpec(backbone=backbone, image_size=size, temperature=1.3)
    else:
        network = feature_network(classifier, use_depths=True)
        unlike = draw_unlike(sum(network.sizes))
        spec = ModelSpec(
            backbone=backbone,
            image_size=size,
            views=("central", "whole"),
            mirrored=True,
            temperature=0.8,
        )
        kernel = draw.normal(size=(sum(network.sizes), NUM_LABELS))
        model = published_linear_model(
            network, kernel, np.zeros(NUM_LABELS), spec=spec, unlike=unlike
        )
    write_model(model, spec, head, unlike, tmp_path / "model")

    assert_rebuilt_exactly(tmp_path / "model", tmp_path / "copy")


def write_model(model: Any, spec: ModelSpec, head: Head, unlike: Any, folder: Path) -> None:
    network = network_spec(
        spec.backbone,
        head=head,
        use_depths=head == "normalised",
        unlike=unlike,
        weights_path=folder / "unused",
    )
    folder.mkdir()
    model.save(folder / "model.keras")
    write_record(str(folder / "model_spec.json"), dataclasses.replace(spec, network=network))
    (folder / "labels.txt").write_text("".join(f"{i}\n" for i in range(NUM_LABELS)))
