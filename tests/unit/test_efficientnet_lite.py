import numpy as np

from repot.efficientnet_lite import build_efficientnet_lite0


def test_number_of_parameters_is_the_published_one() -> None:
    model = build_efficientnet_lite0((224, 224, 3))

    # 4,652,008 trainable parameters, 1,281,000 of them in the 1000-class head.
    # Source: tensorflow/tpu, models/official/efficientnet/lite ("4.7M").
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert trainable == 4_652_008 - 1_281_000


def test_block_adds_its_input_only_if_shapes_agree() -> None:
    model = build_efficientnet_lite0((64, 64, 3))

    added = [layer.name for layer in model.layers if layer.name.endswith("_add")]
    assert added == [f"block{index}_add" for index in (2, 4, 6, 7, 9, 10, 12, 13, 14)]


def test_two_models_in_one_process_have_the_same_weight_names() -> None:
    first, second = (build_efficientnet_lite0((32, 32, 3)) for _ in range(2))

    assert [weight.path for weight in first.weights] == [weight.path for weight in second.weights]
