"""EfficientNet-Lite0 in Keras: EfficientNet-B0 with ReLU6 for swish, without squeeze-and-excite.

Every layer has a name that depends only on its position (`block3_depthwise_conv`), so stored
weights can be matched by name.

Source: Tan and Le, EfficientNet, ICML 2019, table 1; the Lite changes: tensorflow/tpu,
models/official/efficientnet/lite/README.md (2020).
"""

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

# The authors' values; momentum matters only when the statistics are updated.
_BN_EPSILON = 1e-3
_BN_MOMENTUM = 0.99


@dataclass(frozen=True, slots=True)
class _Stage:
    """A row of table 1: `repeats` blocks, where only the first has the stage's stride."""

    repeats: int
    kernel_size: int
    stride: int
    expansion: int
    filters: int


_STEM_FILTERS = 32
_HEAD_FILTERS = 1280
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def build_efficientnet_lite0(input_shape: tuple[int, int, int]) -> keras.Model:
    """Build the network up to its global average pool, with random weights.

    Args:
        input_shape: (height, width, 3) in pixels.

    Returns:
        A model: float32 [batch, height, width, 3], (pixel - 127) / 128 -> float32 [batch, 1280].
    """
    inputs = keras.Input(input_shape)
    x = _convolution(inputs, "stem", filters=_STEM_FILTERS, kernel_size=3, stride=2)
    index = 0
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            x = _block(x, f"block{index}", stage, stride=stage.stride if repeat == 0 else 1)
            index += 1
    x = _convolution(x, "head", filters=_HEAD_FILTERS, kernel_size=1)
    features = layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(inputs, features, name="efficientnet_lite0")


def _block(inputs: Any, name: str, stage: _Stage, *, stride: int) -> Any:
    """Apply an inverted residual block: expand, depthwise convolution, linear projection."""
    num_channels = inputs.shape[-1]
    x = inputs
    if stage.expansion != 1:
        x = _convolution(x, f"{name}_expand", filters=stage.expansion * num_channels, kernel_size=1)
    depthwise = f"{name}_depthwise"
    x = layers.DepthwiseConv2D(
        stage.kernel_size, strides=stride, padding="same", use_bias=False, name=f"{depthwise}_conv"
    )(x)
    x = _normalize(x, depthwise)
    x = _convolution(x, f"{name}_project", filters=stage.filters, kernel_size=1, activation=False)
    if stride == 1 and num_channels == stage.filters:
        x = layers.Add(name=f"{name}_add")([x, inputs])
    return x


def _convolution(
    inputs: Any,
    name: str,
    *,
    filters: int,
    kernel_size: int,
    stride: int = 1,
    activation: bool = True,
) -> Any:
    x = layers.Conv2D(
        filters, kernel_size, strides=stride, padding="same", use_bias=False, name=f"{name}_conv"
    )(inputs)
    return _normalize(x, name, activation=activation)


def _normalize(inputs: Any, name: str, *, activation: bool = True) -> Any:
    x = layers.BatchNormalization(epsilon=_BN_EPSILON, momentum=_BN_MOMENTUM, name=f"{name}_bn")(
        inputs
    )
    return layers.ReLU(max_value=6.0, name=f"{name}_relu6")(x) if activation else x
