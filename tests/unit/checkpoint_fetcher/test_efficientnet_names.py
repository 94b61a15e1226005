import numpy as np

from repot.checkpoint_fetcher.efficientnet_names import keras_arrays


def test_kernels_are_laid_out_as_keras_wants_them() -> None:
    convolution = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    depthwise = np.arange(4 * 1 * 3 * 3).reshape(4, 1, 3, 3)

    arrays = keras_arrays(
        {
            "_blocks.12._expand_conv.weight": convolution,
            "_blocks.0._depthwise_conv.weight": depthwise,
        }
    )

    assert arrays["block12_expand_conv/kernel"].shape == (5, 7, 3, 2)
    assert arrays["block12_expand_conv/kernel"][4, 6, 2, 1] == convolution[1, 2, 4, 6]
    assert arrays["block0_depthwise_conv/kernel"].shape == (3, 3, 4, 1)
    assert arrays["block0_depthwise_conv/kernel"][1, 2, 3, 0] == depthwise[3, 0, 1, 2]


def test_batch_norms_are_told_apart_by_where_they_stand() -> None:
    tensors = {
        "_bn0.weight": np.zeros(1),
        "_bn1.running_var": np.zeros(2),
        "_blocks.3._bn0.bias": np.zeros(3),
        "_blocks.3._bn1.running_mean": np.zeros(4),
        "_blocks.3._bn2.weight": np.zeros(5),
    }

    assert {name: array.size for name, array in keras_arrays(tensors).items()} == {
        "stem_bn/gamma": 1,
        "head_bn/moving_variance": 2,
        "block3_expand_bn/beta": 3,
        "block3_depthwise_bn/moving_mean": 4,
        "block3_project_bn/gamma": 5,
    }


def test_the_classifier_and_counters_are_left_out() -> None:
    tensors = {
        name: np.zeros(1)
        for name in ("_fc.weight", "_fc.bias", "_bn0.num_batches_tracked", "other")
    }

    assert keras_arrays(tensors) == {}
