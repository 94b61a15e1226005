"""EfficientNet-Lite0 as PyTorch names it, and as `repot.efficientnet_lite` does.

    _conv_stem.weight              stem_conv/kernel              out,in,height,width -> height,width,in,out
    _bn0.running_var               stem_bn/moving_variance
    _blocks.3._expand_conv.weight  block3_expand_conv/kernel
    _blocks.3._depthwise_conv.weight  block3_depthwise_conv/kernel  channel,1,height,width -> height,width,channel,1
    _fc.weight, num_batches_tracked   left out

Source: names of lukemelas/EfficientNet-PyTorch, model.py, which the published Lite weights keep.
"""

import re
from collections.abc import Mapping

import numpy as np

from repot.backbone_weights import Array

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


def keras_arrays(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors that belong to the backbone, named and laid out as in Keras; the rest is left out."""
    arrays = {}
    for torch_name, tensor in tensors.items():
        torch_layer, _, torch_variable = torch_name.rpartition(".")
        layer = _layer(torch_layer)
        if layer.endswith("_conv") and torch_variable == "weight" and tensor.ndim == 4:
            axes = (2, 3, 0, 1) if layer.endswith("_depthwise_conv") else (2, 3, 1, 0)
            arrays[f"{layer}/kernel"] = np.transpose(tensor, axes)
        elif layer.endswith("_bn") and torch_variable in _BN_VARIABLES:
            arrays[f"{layer}/{_BN_VARIABLES[torch_variable]}"] = tensor
    return arrays


def _layer(torch_layer: str) -> str:
    """Return the Keras layer, "" for one that the backbone does not have."""
    match = _BLOCK.fullmatch(torch_layer)
    if match is None:
        return _LAYERS.get(torch_layer, "")
    kind = _BLOCK_LAYERS.get(match[2], "")
    return kind and f"block{match[1]}_{kind}"
