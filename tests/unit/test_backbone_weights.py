import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from repot import zoo
from repot.backbone_weights import (
    check_shapes,
    find_datasets,
    load_weights,
    renumber,
    save_weights,
    stable_names,
)
from repot.errors import CheckpointError
from repot.zoo import BACKBONES


@pytest.mark.parametrize("name", [name for name in BACKBONES if not BACKBONES[name].hub_class])
def test_weights_can_be_loaded_into_another_model_of_the_process(name: str, tmp_path: Path) -> None:
    first, second = (
        zoo.build_backbone(name, image_size=BACKBONES[name].min_image_size) for _ in range(2)
    )
    arrays = dict(zip(stable_names(first), first.get_weights(), strict=True))
    assert len(arrays) == len(first.weights)

    save_weights(tmp_path / "weights.h5", arrays)
    load_weights(second, tmp_path / "weights.h5")

    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_stable_names_of_a_third_model_are_those_of_a_fresh_process() -> None:
    for _ in range(2):
        zoo.build_backbone("inception_v3", image_size=75)
    names = stable_names(zoo.build_backbone("inception_v3", image_size=75))

    assert names[0] == "conv2d/kernel"
    assert {"conv2d_93/kernel", "batch_normalization_93/moving_variance"} < set(names)


def test_equal_arrays_give_identical_files_in_any_process(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from repot.backbone_weights import save_weights\n"
        "save_weights(Path(sys.argv[1]), {'b/kernel': np.ones((2, 3)), 'a/beta': np.arange(4.0)})"
    )
    paths = [tmp_path / name for name in ("one.h5", "two.h5")]
    for path in paths:
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)

    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_weights_of_another_backbone_are_rejected_and_differences_are_listed(
    tmp_path: Path,
) -> None:
    save_weights(tmp_path / "weights.h5", {"stem_conv/kernel": np.zeros((3, 3, 3, 16))})
    model = zoo.build_backbone("efficientnet_lite0", image_size=32)

    with pytest.raises(CheckpointError) as caught:
        load_weights(model, tmp_path / "weights.h5")

    message = str(caught.value)
    assert "245 of 245 arrays do not" in message
    assert (
        "stem_conv/kernel has shape 3x3x3x16, expected 3x3x3x32; stem_bn/gamma 32 is missing"
        in message
    )
    assert "and 242 more" in message


def test_damaged_weights_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"not HDF5")
    model = zoo.build_backbone("efficientnet_lite0", image_size=32)

    with pytest.raises(
        CheckpointError,
        match=r"weights\.h5 must be a weights file written by repot; it cannot be read",
    ):
        load_weights(model, tmp_path / "weights.h5")


def test_renumber_ranks_automatic_names_and_leaves_out_others() -> None:
    names = ["conv2d_94", "conv2d_104", "conv2d_99", "Conv_1", "conv2d_94", "stem_conv2d_7", "add"]

    assert renumber(names, bases={"conv2d", "add"}) == {
        "conv2d_94": "conv2d",
        "conv2d_99": "conv2d_1",
        "conv2d_104": "conv2d_2",
        "add": "add",
    }


def test_check_shapes_ignores_unexpected_arrays() -> None:
    check_shapes({"a": (1, 2), "head": (9,)}, {"a": (1, 2)}, source="file")


def test_arrays_in_other_files_are_not_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["a"] = np.ones(3)
    with h5py.File(tmp_path / "hostile.h5", "w") as file:
        file["linked"] = h5py.ExternalLink("secret.h5", "/a")
        file.create_dataset(
            "raw", (3,), np.float32, external=[(str(tmp_path / "secret.h5"), 0, 12)]
        )
        layout = h5py.VirtualLayout((3,), np.float64)
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "a", (3,))
        file.create_virtual_dataset("virtual", layout)
        file["own"] = np.ones(3)

        assert list(find_datasets(file)) == ["own"]


def test_position_embeddings_of_any_declared_size_are_not_read(tmp_path: Path) -> None:
    inputs = keras.Input([4, 8])
    network = keras.Model(inputs, keras.layers.Embedding(9, 8, name="position_embedding")(inputs))
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.create_dataset("position_embedding/embeddings", (10**8, 8), np.float32, chunks=(1, 8))

    with pytest.raises(CheckpointError, match=r"has shape 100000000x8, expected 9x8"):
        load_weights(network, tmp_path / "weights.h5")


@pytest.mark.parametrize("value", [["a", "b"], h5py.Empty(np.float32)])
def test_weights_that_are_no_numbers_are_an_error(tmp_path: Path, value: object) -> None:
    inputs = keras.Input([2])
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False, name="d")(inputs))
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["d/kernel"] = [value] * 2 if isinstance(value, list) else value

    with pytest.raises(CheckpointError, match=r"weights\.h5 must be a weights file written by"):
        load_weights(model, tmp_path / "weights.h5")
