"""The auxiliary head of Inception-v3: a second classifier on a middle layer, only for training.

    block `mixed7`, 17x17x768 at 299 pixels
    average pooling 5x5, stride 3           5x5x768
    auxiliary_proj   convolution 1x1        5x5x128   BatchNorm, ReLU
    auxiliary_conv   convolution 5x5        1x1x768   BatchNorm, ReLU
    auxiliary_logits dense                  N + 1

A checkpoint of 2016 has its convolutions; `repot checkpoint` keeps them beside the backbone.
Source: research/inception, slim/inception_model.py:inception_v3, scope aux_logits.
"""

from typing import Any

import keras
import numpy as np

LAYER = "mixed7"
"""Layer of keras.applications.InceptionV3 that the head reads."""

CHANNELS = 768
_KERNEL_SIZE = 5
_PROJECTION, _CONVOLUTION = "auxiliary_proj", "auxiliary_conv"
ARRAY_SHAPES = {
    f"{layer}{end}": shape
    for layer, kernel_shape in (
        (_PROJECTION, (1, 1, CHANNELS, 128)),
        (_CONVOLUTION, (_KERNEL_SIZE, _KERNEL_SIZE, 128, CHANNELS)),
    )
    for end, shape in (
        ("/kernel", kernel_shape),
        ("_norm/beta", kernel_shape[-1:]),
        ("_norm/moving_mean", kernel_shape[-1:]),
        ("_norm/moving_variance", kernel_shape[-1:]),
    )
}
"""Shape of each array of the convolutions, by name in the weights file of a backbone."""


def build_auxiliary_head(size: int, *, num_classes: int, seed: int) -> Any:
    """Return a keras.Model: float32 [batch, size, size, CHANNELS] -> float32 [batch, num_classes].

    For inputs smaller than 299 pixels, the 5x5 kernels see zeros beside the feature map, so that
    weights of a checkpoint fit at any size; for larger ones, the last feature map is averaged.

    Args:
        size: Height and width of the output of LAYER.
        num_classes: Number of logits, background class included.
        seed: Seed of the initial weights.
    """
    seeds = np.random.SeedSequence(seed).generate_state(3).tolist()
    features = keras.Input([size, size, CHANNELS], name="mixed")
    pooling = keras.layers.AveragePooling2D(min(_KERNEL_SIZE, size), strides=3, padding="valid")
    x = _convolve(pooling(features), _PROJECTION, 128, 1, stddev=0.1, seed=seeds[0])
    missing = max(0, _KERNEL_SIZE - x.shape[1])
    before = missing // 2
    if missing:
        x = keras.layers.ZeroPadding2D(((before, missing - before),) * 2)(x)
    x = _convolve(x, _CONVOLUTION, CHANNELS, _KERNEL_SIZE, stddev=0.01, seed=seeds[1])
    logits = keras.layers.Dense(
        num_classes,
        kernel_initializer=truncated_normal(0.001, seeds[2]),
        name="auxiliary_logits",
        dtype="float32",
    )
    outputs = logits(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(features, outputs, name="auxiliary_head")


def truncated_normal(stddev: float, seed: int) -> Any:
    """Return the initializer of 2016: normal, cut off at two standard deviations."""
    return keras.initializers.TruncatedNormal(stddev=stddev, seed=seed)


def _convolve(
    inputs: Any, name: str, filters: int, kernel_size: int, *, stddev: float, seed: int
) -> Any:
    convolution = keras.layers.Conv2D(
        filters,
        kernel_size,
        use_bias=False,
        kernel_initializer=truncated_normal(stddev, seed),
        name=name,
    )
    norm = keras.layers.BatchNormalization(scale=False, epsilon=1e-3, name=f"{name}_norm")
    return keras.layers.ReLU(name=f"{name}_relu")(norm(convolution(inputs)))
