"""The backbones that repot fine-tunes, one row each, and the function that builds one.

To add a network of `keras.applications`, add one row to the table. Settings, help texts, reports,
the checkpoint "imagenet" and the cost estimate read the table; tests/unit/test_zoo.py checks every
row, and needs the length of the new feature vector. A network that Keras does not have also needs a
builder, such as `repot.efficientnet_lite`, and a default checkpoint in `repot.checkpoints`.

The rows with a `hub_class` are families of KerasHub, an optional package: the checkpoint, a preset,
decides which network of the family it is, see `repot.hub_backbone`.

Importing this module does not import TensorFlow.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repot.errors import CheckpointError, UsageError, unknown_name

if TYPE_CHECKING:  # importing it would import the storage, and this table is read by every command
    from repot.hub_backbone import HubArchitecture


@dataclass(frozen=True, kw_only=True, slots=True)
class Backbone:
    """A network without its classification head.

    It maps float32 [batch, height, width, 3], RGB, in the network's own value range, to float32
    [batch, features]: the global average of its last feature map.

    Attributes:
        name: Value of the parameter `backbone`.
        summary: One line for reports: name, parameters without the head, strength.
        image_size: Height and width in pixels that it was pre-trained with.
        min_image_size: Smallest height and width that it can be built for.
        keras_name: Its function in `keras.applications`; "" for a network that repot defines.
        imagenet_path: Path of its ImageNet weights on the server of `keras.applications`; "" if
            Keras does not publish any.
        default_checkpoint: Checkpoint that it starts from by default, see `repot.checkpoints`.
        scale, offset: Its input is `scale * x + offset` for pictures x in [0, 1].
        hub_class: Its class in `keras_hub.models`; "" for a network that is not of KerasHub.
        pooling: How the class's output becomes features: "token" for the first token, "mean" over
            tokens or places, "none" for a network that pools by itself.
        training_speed: Pictures per second when the whole network is trained at `image_size`,
            relative to inception_v3; a rough figure for cost estimates.
    """

    name: str
    summary: str
    image_size: int
    min_image_size: int
    keras_name: str = ""
    imagenet_path: str = ""
    default_checkpoint: str = "imagenet"
    scale: float = 2.0
    offset: float = -1.0
    hub_class: str = ""
    pooling: str = ""
    training_speed: float = 3.0


_TABLE = (
    Backbone(
        name="inception_v3",
        summary="Inception-v3, 22 M parameters: the 2016 tutorial's network",
        image_size=299,
        min_image_size=75,
        keras_name="InceptionV3",
        imagenet_path="inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        default_checkpoint="inception-v3-2016-03-01",
        training_speed=1.0,
    ),
    Backbone(
        name="efficientnet_lite0",
        summary="EfficientNet-Lite0, 3.4 M parameters: fast on a CPU, weights installed with repot",
        image_size=224,
        min_image_size=32,
        default_checkpoint="efficientnet-lite0",
        # (pixel - 127) / 128 for pixels in 0..255. Source: the README of the Lite models.
        scale=255 / 128,
        offset=-127 / 128,
    ),
    Backbone(
        name="mobilenet_v2",
        summary="MobileNetV2, 2.3 M parameters: small and fast",
        image_size=224,
        min_image_size=32,
        keras_name="MobileNetV2",
        imagenet_path="mobilenet_v2/"
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    ),
    Backbone(
        name="mobilenet_v3_small",
        summary="MobileNetV3 small, 0.9 M parameters: the smallest",
        image_size=224,
        min_image_size=32,
        keras_name="MobileNetV3Small",
        imagenet_path="mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        scale=255.0,
        offset=0.0,
    ),
    Backbone(
        name="mobilenet_v3_large",
        summary="MobileNetV3 large, 3.0 M parameters: small and fast",
        image_size=224,
        min_image_size=32,
        keras_name="MobileNetV3Large",
        imagenet_path="mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        scale=255.0,
        offset=0.0,
    ),
    Backbone(
        name="efficientnet_v2_b0",
        summary="EfficientNetV2-B0, 5.9 M parameters: accurate for its size",
        image_size=224,
        min_image_size=32,
        keras_name="EfficientNetV2B0",
        imagenet_path="efficientnet_v2/efficientnetv2-b0_notop.h5",
        scale=255.0,
        offset=0.0,
    ),
    Backbone(
        name="resnet50_v2",
        summary="ResNet50-V2, 24 M parameters",
        image_size=224,
        min_image_size=32,
        keras_name="ResNet50V2",
        imagenet_path="resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        training_speed=1.5,
    ),
    Backbone(
        name="convnext_tiny",
        summary="ConvNeXt-Tiny, 28 M parameters: accurate, slow without a GPU",
        image_size=224,
        min_image_size=32,
        keras_name="ConvNeXtTiny",
        imagenet_path="convnext/convnext_tiny_notop.h5",
        scale=255.0,
        offset=0.0,
        training_speed=1.0,
    ),
    Backbone(
        name="xception",
        summary="Xception, 21 M parameters",
        image_size=299,
        min_image_size=71,
        keras_name="Xception",
        imagenet_path="xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
        training_speed=0.7,
    ),
    Backbone(
        name="inception_resnet_v2",
        summary="Inception-ResNet-v2, 54 M parameters: the largest",
        image_size=299,
        min_image_size=75,
        keras_name="InceptionResNetV2",
        imagenet_path="inception_resnet_v2/"
        "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        training_speed=0.45,
    ),
    # The networks of KerasHub have their presets' own scaling inside.
    Backbone(
        name="vit",
        summary="ViT-B/16 pre-trained on ImageNet-21k, 86 M parameters, or another ViT of KerasHub",
        image_size=224,
        min_image_size=32,
        default_checkpoint="vit_base_patch16_224_imagenet21k",
        scale=1.0,
        offset=0.0,
        hub_class="ViTBackbone",
        pooling="token",
        training_speed=0.9,
    ),
    Backbone(
        name="deit",
        summary="DeiT-S/16, 22 M parameters, or another DeiT of KerasHub",
        image_size=224,
        min_image_size=32,
        default_checkpoint="deit_small_distilled_patch16_224_imagenet",
        scale=1.0,
        offset=0.0,
        hub_class="DeiTBackbone",
        pooling="token",
        training_speed=2.0,
    ),
    Backbone(
        name="dinov2",
        summary="DINOv2 ViT-S/14, 22 M parameters, or another DINOv2 of KerasHub",
        image_size=224,
        min_image_size=42,
        default_checkpoint="dinov2_small",
        scale=1.0,
        offset=0.0,
        hub_class="DINOV2Backbone",
        pooling="token",
        training_speed=1.7,
    ),
    Backbone(
        name="siglip2",
        summary="SigLIP2 ViT-B/16, 93 M parameters, or another SigLIP of KerasHub",
        image_size=224,
        min_image_size=32,
        default_checkpoint="siglip2_base_patch16_224",
        scale=1.0,
        offset=0.0,
        hub_class="SigLIPVisionEncoder",
        pooling="none",
        training_speed=0.9,
    ),
    Backbone(
        name="swin",
        summary="Swin-T, 28 M parameters, or another Swin Transformer of KerasHub",
        image_size=224,
        min_image_size=32,
        default_checkpoint="swin_tiny_patch4_window7_224",
        scale=1.0,
        offset=0.0,
        hub_class="SwinTransformerBackbone",
        pooling="mean",
        training_speed=1.0,
    ),
    Backbone(
        name="resnet_vd",
        summary="ResNet-vd-50 with distilled weights, 24 M parameters, or another ResNet of "
        "KerasHub",
        image_size=224,
        min_image_size=32,
        default_checkpoint="resnet_vd_50_ssld_v2_imagenet",
        scale=1.0,
        offset=0.0,
        hub_class="ResNetBackbone",
        pooling="mean",
        training_speed=1.5,
    ),
)

BACKBONES = {backbone.name: backbone for backbone in _TABLE}


MAX_IMAGE_SIZE = 4096
"""Largest height and width of a model's input, in pixels."""


def find_backbone(name: str) -> Backbone:
    """Return the backbone called `name`.

    Raises:
        UsageError: The name is unknown.
    """
    if name not in BACKBONES:
        raise UsageError(unknown_name("backbone", name, BACKBONES))
    return BACKBONES[name]


def build_backbone(
    name: str,
    *,
    image_size: int,
    weights_path: Path | None = None,
    architecture: "HubArchitecture | None" = None,
) -> Any:
    """Build a backbone with random weights.

    Args:
        name: A key of BACKBONES.
        image_size: Height and width of its input in pixels.
        weights_path: File of its weights; only for the architecture of a network of KerasHub, which
            needs it.
        architecture: That architecture, if there are no weights.

    Returns:
        A keras.Model: float32 [batch, image_size, image_size, 3] in the network's own value range
        -> float32 [batch, features].

    Raises:
        UsageError: The name is unknown, the image size does not suit the network, or KerasHub is
            needed and missing.
        CheckpointError: The weights file has no valid architecture, or one of another class.
    """
    backbone = find_backbone(name)
    if image_size < backbone.min_image_size:
        rule = f"be at least {backbone.min_image_size} for {name}"
        raise UsageError(f"image_size must {rule}; got image_size={image_size}.")
    if backbone.hub_class:
        from repot.hub_backbone import build_hub_backbone, load_architecture

        if architecture is None:
            if weights_path is None:
                raise UsageError(
                    f"backbone {name} must be built from the weights of a checkpoint; got none. "
                    "Name a preset of KerasHub as the checkpoint."
                )
            architecture = load_architecture(weights_path)
        if architecture.class_name != backbone.hub_class:
            raise CheckpointError(
                f"backbone {name} must be a {backbone.hub_class} of KerasHub; its architecture "
                f"names {architecture.class_name!r}. Use a preset of that class."
            )
        return build_hub_backbone(
            architecture,
            image_size=image_size,
            pooling=backbone.pooling,
            backbone=name,
        )
    shape = (image_size, image_size, 3)
    if not backbone.keras_name:
        from repot.efficientnet_lite import build_efficientnet_lite0

        return build_efficientnet_lite0(shape)
    import keras

    application = getattr(keras.applications, backbone.keras_name)
    return application(include_top=False, weights=None, input_shape=shape, pooling="avg")
