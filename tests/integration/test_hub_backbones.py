"""Networks of KerasHub: tiny random presets, saved by KerasHub itself, become trained models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repot.backbone_weights import load_weights
from repot.checkpoint_fetcher.fetch import convert_to_folder, fetch_checkpoint
from repot.classifier import build_classifier, network_spec, published_model
from repot.errors import CheckpointError, UsageError
from repot.hub_backbone import load_architecture
from repot.json_record import write_record
from repot.keras_model import load_keras_model
from repot.layout import WEIGHTS_NAME
from repot.model_spec import ModelSpec
from repot.saved_model import export_saved_model
from repot.zoo import BACKBONES, build_backbone
from tests.rebuilt_models import assert_rebuilt_exactly

hub = pytest.importorskip("keras_hub", reason="make venv EXTRAS=hub")

import tensorflow as tf  # noqa: E402

SCALE, OFFSET = [1 / 58.4, 1 / 57.1, 1 / 57.4], [-2.1, -2.0, -1.8]


def vit() -> Any:
    return hub.models.ViTBackbone(
        image_shape=(48, 48, 3), patch_size=16, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )


def deit() -> Any:
    return hub.models.DeiTBackbone(
        image_shape=(48, 48, 3),
        patch_size=16,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
    )


def dinov2() -> Any:
    return hub.models.DINOV2Backbone(
        patch_size=14,
        num_layers=2,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=16,
        num_register_tokens=1,
        image_shape=(42, 42, 3),
        position_embedding_shape=(56, 56),
    )


def siglip2() -> Any:
    pictures = hub.models.SigLIPVisionEncoder(
        patch_size=16,
        hidden_dim=8,
        num_layers=2,
        num_heads=2,
        intermediate_dim=16,
        image_shape=(48, 48, 3),
    )
    texts = hub.models.SigLIPTextEncoder(
        vocabulary_size=20,
        embedding_dim=8,
        hidden_dim=8,
        num_layers=1,
        num_heads=2,
        intermediate_dim=16,
        max_sequence_length=8,
    )
    return hub.models.SigLIPBackbone(pictures, texts)


def swin() -> Any:
    return hub.models.SwinTransformerBackbone(
        image_shape=(56, 56, 3), embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=7
    )


def resnet() -> Any:
    return hub.models.ResNetBackbone(
        input_conv_filters=[8],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block_vd",
        image_shape=(48, 48, 3),
    )


# By backbone: its network, another image size, and KerasHub's output -> the expected features.
FAMILIES: dict[str, tuple[Callable[[], Any], int, Callable[[Any], Any]]] = {
    "vit": (vit, 64, lambda tokens: tokens[:, 0]),
    "deit": (deit, 64, lambda tokens: tokens[:, 0]),
    "dinov2": (dinov2, 70, lambda tokens: tokens[:, 0]),
    "siglip2": (siglip2, 64, lambda pooled: pooled),
    "swin": (swin, 112, lambda tokens: tokens.mean(axis=1)),
    "resnet_vd": (resnet, 64, lambda places: places.mean(axis=(1, 2))),
}


def save_preset(network: Any, folder: Path) -> None:
    """Save a network with an image converter, as the folders that KerasHub publishes."""
    draw = np.random.default_rng(0)
    for weight in network.weights:
        if "position_ids" not in weight.path:
            weight.assign(draw.uniform(0.1, 0.5, weight.shape).astype(np.float32))
    network.save_to_preset(str(folder))
    hub.layers.ImageConverter(image_size=(48, 48), scale=SCALE, offset=OFFSET).save_to_preset(
        str(folder)
    )


def read_back(folder: Path) -> Any:
    """Return KerasHub's own network for pictures."""
    network = hub.models.Backbone.from_preset(str(folder))
    return getattr(network, "vision_encoder", network)


@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask:UserWarning")
@pytest.mark.parametrize("backbone", FAMILIES)
def test_preset_becomes_a_model_with_the_features_of_keras_hub(
    backbone: str, tmp_path: Path
) -> None:
    make, other_size, pool = FAMILIES[backbone]
    save_preset(make(), tmp_path / "preset")
    record = convert_to_folder(
        str(tmp_path / "preset"),
        backbone=backbone,
        values="auto",
        folder_uri=str(tmp_path / "checkpoint"),
    )
    assert (record.kind, record.values) == ("preset", "raw")
    weights_path = tmp_path / "checkpoint" / WEIGHTS_NAME
    size = load_architecture(weights_path).image_size

    network = build_backbone(backbone, image_size=size, weights_path=weights_path)
    load_weights(network, weights_path)
    pictures = np.random.default_rng(1).uniform(0, 1, (2, size, size, 3)).astype(np.float32)
    inputs = (pictures * 255 * np.array(SCALE) + np.array(OFFSET)).astype(np.float32)
    own = read_back(tmp_path / "preset")
    expected = own({"images": inputs} if isinstance(own.input, dict) else inputs, training=False)
    found = np.asarray(network(pictures, training=False))
    np.testing.assert_allclose(found, pool(np.asarray(expected)), rtol=1e-4, atol=1e-5)
    assert len(np.unique(found.round(5), axis=0)) == 2

    classifier = build_classifier(
        backbone, num_classes=4, image_size=other_size, seed=0, weights_path=weights_path
    )
    kernel = classifier.get_layer("logits").kernel
    kernel.assign(np.random.default_rng(2).normal(size=kernel.shape))
    model = published_model(classifier)
    other = np.zeros((1, other_size, other_size, 3), np.float32)
    probabilities = np.asarray(model(other, training=False))
    assert probabilities.shape == (1, 3)
    assert np.isfinite(probabilities).all()
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model" / "model.keras")
    loaded = load_keras_model(tmp_path / "model" / "model.keras", uri="model.keras")
    np.testing.assert_allclose(loaded(other, training=False), probabilities, atol=1e-5)

    network = network_spec(backbone, head="features", unlike=None, weights_path=weights_path)
    spec = ModelSpec(backbone=backbone, image_size=other_size, network=network)
    write_record(str(tmp_path / "model" / "model_spec.json"), spec)
    (tmp_path / "model" / "labels.txt").write_text("a\nb\nc\n")
    assert_rebuilt_exactly(tmp_path / "model", tmp_path / "copy")


@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask:UserWarning")
@pytest.mark.parametrize(
    "backbone",
    [pytest.param(name, marks=[] if name == "siglip2" else pytest.mark.slow) for name in FAMILIES],
)
def test_saved_model_needs_no_keras_hub(backbone: str, tmp_path: Path) -> None:
    make, size, _ = FAMILIES[backbone]
    save_preset(make(), tmp_path / "preset")
    convert_to_folder(
        str(tmp_path / "preset"), backbone=backbone, values="auto", folder_uri=str(tmp_path)
    )
    classifier = build_classifier(
        backbone,
        num_classes=4,
        image_size=size,
        seed=0,
        weights_path=tmp_path / WEIGHTS_NAME,
    )
    model = published_model(classifier)
    probabilities = np.asarray(model(np.zeros((1, size, size, 3), np.float32), training=False))

    export_saved_model(model, ["a", "b", "c"], tmp_path / "saved_model")
    served = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    jpeg = tf.io.encode_jpeg(np.zeros((size, size, 3), np.uint8))
    outputs = served(image_bytes=tf.stack([jpeg]))
    np.testing.assert_allclose(outputs["probabilities"], probabilities, atol=1e-4)


def test_position_embeddings_are_resized_for_another_image_size(tmp_path: Path) -> None:
    network = vit()
    save_preset(network, tmp_path / "preset")
    convert_to_folder(
        str(tmp_path / "preset"), backbone="vit", values="auto", folder_uri=str(tmp_path)
    )

    larger = build_backbone("vit", image_size=96, weights_path=tmp_path / WEIGHTS_NAME)
    load_weights(larger, tmp_path / WEIGHTS_NAME)

    def positions(model: Any) -> Any:
        (found,) = (each for each in model.weights if "position_embedding" in each.path)
        return found.numpy()

    source, target = positions(network), positions(larger)
    assert (source.shape, target.shape) == ((10, 8), (37, 8))
    np.testing.assert_array_equal(target[0], source[0])  # the class token's
    np.testing.assert_allclose(target[1:].mean(axis=0), source[1:].mean(axis=0), atol=0.05)


def test_preset_is_stored_by_content_and_found_again_without_its_folder(tmp_path: Path) -> None:
    save_preset(vit(), tmp_path / "preset")
    stored = str(tmp_path / "checkpoints")
    fetched = fetch_checkpoint(
        str(tmp_path / "preset"), backbone="vit", values="auto", checkpoints_uri=stored
    )
    sha256 = fetched.split("/")[0]
    originals = {path.name for path in Path(stored, sha256, "original").iterdir()}
    assert originals == {"config.json", "image_converter.json", "model.weights.h5"}

    (tmp_path / "preset").rename(tmp_path / "elsewhere")

    again = fetch_checkpoint(
        str(tmp_path / "preset"),
        backbone="vit",
        values="auto",
        checkpoints_uri=stored,
        sha256=sha256,
    )
    assert again == fetched


def convert_changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Convert a preset of ViT after a change of its config.json."""
    save_preset(vit(), tmp_path / "preset")
    path = tmp_path / "preset" / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    convert_to_folder(
        str(tmp_path / "preset"), backbone="vit", values="auto", folder_uri=str(tmp_path / "c")
    )


def test_preset_of_dinov3_is_refused_because_of_its_licence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"got 'DINOV3Backbone'\. DINOv3 is not supported"):
        convert_changed(tmp_path, lambda config: config.update(class_name="DINOV3Backbone"))


def test_preset_with_an_object_as_argument_is_refused(tmp_path: Path) -> None:
    evil = {"module": "os", "class_name": "system", "config": {}}
    with pytest.raises(CheckpointError, match="arguments that are numbers, texts or lists"):
        convert_changed(tmp_path, lambda config: config["config"].update(num_layers=evil))


@pytest.mark.parametrize("change", [{"num_layers": "x"}, {"patch_size": 0}])
def test_preset_that_keras_hub_cannot_build_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="KerasHub refuses it"):
        convert_changed(tmp_path, lambda config: config["config"].update(change))


def test_preset_is_refused_for_a_network_of_keras_applications(tmp_path: Path) -> None:
    save_preset(vit(), tmp_path / "preset")
    with pytest.raises(CheckpointError, match="mobilenet_v2 must be used with a checkpoint of its"):
        convert_to_folder(
            str(tmp_path / "preset"),
            backbone="mobilenet_v2",
            values="auto",
            folder_uri=str(tmp_path / "c"),
        )


def test_image_size_must_be_a_multiple_of_the_patch_size(tmp_path: Path) -> None:
    save_preset(vit(), tmp_path / "preset")
    convert_to_folder(
        str(tmp_path / "preset"), backbone="vit", values="auto", folder_uri=str(tmp_path)
    )
    with pytest.raises(UsageError, match=r"multiple of 16.*got image_size=100\. Use 96"):
        build_backbone("vit", image_size=100, weights_path=tmp_path / WEIGHTS_NAME)


def test_presets_and_classes_of_the_table_are_those_of_keras_hub() -> None:
    from repot.checkpoints import _KERAS_HUB

    for name, source in _KERAS_HUB.items():
        backbone_class = getattr(hub.models, BACKBONES[source.backbone].hub_class)
        handle = hub.models.Backbone.presets[name]["kaggle_handle"]
        assert handle.removeprefix("kaggle://keras/") in source.uri
        assert source.backbone == "siglip2" or name in backbone_class.presets
