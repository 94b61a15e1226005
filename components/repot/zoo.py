"""The backbones that repot fine-tunes: one table, and how to build one.

A backbone takes float32 [batch, height, width, 3], RGB, in its own range, and returns float32 [batch, features],
the global average of its last feature map. Its own range follows from pictures in [0, 1] as `scale * x + offset`.

Importing this module does not import TensorFlow.
"""

from dataclasses import dataclass
from typing import Any

from repot.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Backbone:
    """One network without its classification head.

    Attributes:
        name: What a user types.
        summary: One line for help texts and reports.
        image_size: Height and width in pixels that it was trained with.
        min_image_size: Smallest height and width that it can be built for.
        num_features: Length of its feature vector.
        scale, offset: Its input is `scale * x + offset` for pictures x in [0, 1].
        default_checkpoint: Name of the checkpoint that it starts from, see `repot.checkpoints`.
        keras_name: Its name in `keras.applications`; "" for an architecture of repot's own.
    """

    name: str
    summary: str
    image_size: int
    min_image_size: int
    num_features: int
    scale: float = 2.0
    offset: float = -1.0
    default_checkpoint: str = "imagenet"
    keras_name: str = ""


_TABLE = (
    Backbone(
        name="inception_v3",
        summary="Inception-v3, 22 M parameters: the 2016 tutorial's network",
        image_size=299,
        min_image_size=75,
        num_features=2048,
        default_checkpoint="inception-v3-2016-03-01",
        keras_name="InceptionV3",
    ),
    Backbone(
        name="efficientnet_lite0",
        summary="EfficientNet-Lite0, 3.4 M parameters: fast on a CPU, its weights come with the installation",
        image_size=224,
        min_image_size=32,
        num_features=1280,
        # (pixel - 127) / 128 for pixels in 0..255, as its authors trained it.
        scale=255 / 128,
        offset=-127 / 128,
        default_checkpoint="efficientnet-lite0",
    ),
    Backbone(
        name="mobilenet_v2",
        summary="MobileNetV2, 2.3 M parameters: small and fast",
        image_size=224,
        min_image_size=32,
        num_features=1280,
        keras_name="MobileNetV2",
    ),
    Backbone(
        name="mobilenet_v3_small",
        summary="MobileNetV3 small, 0.9 M parameters: the smallest",
        image_size=224,
        min_image_size=32,
        num_features=576,
        scale=255.0,
        offset=0.0,
        keras_name="MobileNetV3Small",
    ),
    Backbone(
        name="mobilenet_v3_large",
        summary="MobileNetV3 large, 3.0 M parameters: small and fast",
        image_size=224,
        min_image_size=32,
        num_features=960,
        scale=255.0,
        offset=0.0,
        keras_name="MobileNetV3Large",
    ),
    Backbone(
        name="efficientnet_v2_b0",
        summary="EfficientNetV2-B0, 5.9 M parameters: accurate for its size",
        image_size=224,
        min_image_size=32,
        num_features=1280,
        scale=255.0,
        offset=0.0,
        keras_name="EfficientNetV2B0",
    ),
    Backbone(
        name="resnet50_v2",
        summary="ResNet50-V2, 24 M parameters",
        image_size=224,
        min_image_size=32,
        num_features=2048,
        keras_name="ResNet50V2",
    ),
    Backbone(
        name="convnext_tiny",
        summary="ConvNeXt-Tiny, 28 M parameters: accurate, wants a GPU",
        image_size=224,
        min_image_size=32,
        num_features=768,
        scale=255.0,
        offset=0.0,
        keras_name="ConvNeXtTiny",
    ),
    Backbone(
        name="xception",
        summary="Xception, 21 M parameters",
        image_size=299,
        min_image_size=71,
        num_features=2048,
        keras_name="Xception",
    ),
    Backbone(
        name="inception_resnet_v2",
        summary="Inception-ResNet-v2, 54 M parameters: the largest",
        image_size=299,
        min_image_size=75,
        num_features=1536,
        keras_name="InceptionResNetV2",
    ),
)

BACKBONES = {backbone.name: backbone for backbone in _TABLE}


def find_backbone(name: str) -> Backbone:
    """Return the backbone called `name`.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in BACKBONES:
        raise UsageError(f"backbone must be one of {', '.join(BACKBONES)}; got backbone={name!r}.")
    return BACKBONES[name]


def build_backbone(name: str, *, image_size: int) -> Any:
    """Build a backbone with fresh random weights.

    Args:
        name: A key of BACKBONES.
        image_size: Height and width of its input in pixels.

    Returns:
        A keras.Model, float32 [batch, image_size, image_size, 3] in the network's own range -> float32
        [batch, num_features].

    Raises:
        UsageError: There is no such backbone, or the image size is too small for it.
    """
    backbone = find_backbone(name)
    if image_size < backbone.min_image_size:
        rule = f"be at least {backbone.min_image_size} for {name}"
        raise UsageError(f"image_size must {rule}; got image_size={image_size}.")
    shape = (image_size, image_size, 3)
    if not backbone.keras_name:
        from repot.efficientnet_lite import build_efficientnet_lite0

        return build_efficientnet_lite0(shape)
    import keras

    application = getattr(keras.applications, backbone.keras_name)
    return application(include_top=False, weights=None, input_shape=shape, pooling="avg")
