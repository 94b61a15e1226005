from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from repot.auxiliary_head import ARRAY_SHAPES
from repot.checkpoint_fetcher.inception_checkpoint import InceptionWeights, read_inception
from repot.checkpoint_fetcher.inception_names import (
    EMA_SUFFIX,
    auxiliary_names,
    keras_names,
    scopes_2016_03_01,
    scopes_2016_08_28,
)
from repot.errors import CheckpointError

MARCH, AUGUST = keras_names(scopes_2016_03_01()), keras_names(scopes_2016_08_28())
SHAPES = dict.fromkeys(MARCH.values(), (1,))


def numbered(names: dict[str, str], suffix: str = "", start: float = 0.0) -> dict[str, Any]:
    return {
        f"{name}{suffix}": np.full(1, start + index, np.float32) for index, name in enumerate(names)
    }


def write(prefix: Path, arrays: dict[str, Any], version: int = 1) -> Path:
    """Write a checkpoint of format V1 or V2."""
    names, tensors = list(arrays), [tf.constant(array) for array in arrays.values()]
    if version == 1:
        tf.raw_ops.Save(filename=str(prefix), tensor_names=names, data=tensors)
    else:
        slices = [""] * len(names)
        tf.raw_ops.SaveV2(
            prefix=str(prefix), tensor_names=names, shape_and_slices=slices, tensors=tensors
        )
    return prefix


def read(path: Path, values: str = "auto", *, is_averaged: bool = False) -> InceptionWeights:
    return read_inception(path, values=values, is_averaged=is_averaged, shapes=SHAPES)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a V1 checkpoint: raw values 0..375, averages 1000..1375, and other variables."""
    arrays = numbered(MARCH) | numbered(MARCH, EMA_SUFFIX, 1000)
    arrays |= {"conv0/weights/RMSProp": np.zeros(1), "global_step": np.asarray(7.0, np.float32)}
    return write(tmp_path_factory.mktemp("both") / "model.ckpt-157585", arrays)


@pytest.mark.parametrize(("values", "start"), [("raw", 0), ("ema", 1000), ("auto", 1000)])
def test_requested_values_are_read(both: Path, values: str, start: int) -> None:
    weights = read(both, values)

    assert {name: float(array[0]) for name, array in weights.arrays.items()} == {
        keras_name: start + index for index, keras_name in enumerate(MARCH.values())
    }
    assert weights.values == ("raw" if values == "raw" else "ema")
    assert weights.available_values == ("ema", "raw")
    assert weights.step == 7


@pytest.mark.parametrize("version", [1, 2])
def test_without_averages_auto_reads_raw_values_and_ema_is_an_error(
    tmp_path: Path, version: int
) -> None:
    path = write(tmp_path / "model.ckpt-12", numbered(MARCH), version)

    weights = read(path)
    assert (weights.values, weights.available_values, weights.step) == ("raw", ("raw",), 12)
    with pytest.raises(
        CheckpointError, match=r"must hold ema values for checkpoint_values=ema; it holds raw only"
    ):
        read(path, "ema")


def test_plain_names_of_2016_08_28_are_averages_only_if_is_averaged(tmp_path: Path) -> None:
    path = write(tmp_path / "inception_v3.ckpt", numbered(AUGUST))

    known, unknown = read(path, is_averaged=True), read(path)
    assert (known.values, known.available_values, known.step) == ("ema", ("ema",), None)
    assert (unknown.values, unknown.available_values) == ("raw", ("raw",))
    assert known.arrays.keys() == unknown.arrays.keys() == set(MARCH.values())
    with pytest.raises(CheckpointError, match="it holds ema only"):
        read(path, "raw", is_averaged=True)


def test_missing_and_misshapen_variables_are_listed(tmp_path: Path) -> None:
    arrays = numbered(MARCH)
    del arrays["conv0/BatchNorm/beta"]
    arrays["conv1/weights"] = np.zeros((2, 3))

    with pytest.raises(CheckpointError) as caught:
        read(write(tmp_path / "m", arrays))

    message = str(caught.value)
    assert "2 of 376 arrays do not" in message
    assert "conv0/BatchNorm/beta 1 is missing; conv1/weights has shape 2x3, expected 1" in message


def test_another_network_is_rejected_and_its_variables_are_listed(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"must hold an Inception-v3 of 2016 .*; it holds resnet/conv"
    ):
        read(write(tmp_path / "m", {"resnet/conv": np.zeros(1)}))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("position", [0.3, 0.6])
def test_damaged_checkpoint_is_rejected(tmp_path: Path, version: int, position: float) -> None:
    path = write(tmp_path / "m", numbered(MARCH), version)
    file_path = path if version == 1 else path.with_suffix(".index")
    data = bytearray(file_path.read_bytes())
    start = int(len(data) * position)
    data[start : start + 64] = bytes(64)
    file_path.write_bytes(data)

    with pytest.raises(
        CheckpointError, match="m must be an intact TensorFlow checkpoint; it cannot be read"
    ):
        read(path)


def test_v2_checkpoint_without_its_data_file_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "m", numbered(MARCH), 2)
    (tmp_path / "m.data-00000-of-00001").unlink()

    with pytest.raises(CheckpointError, match="m must be an intact TensorFlow checkpoint"):
        read(path)


def auxiliary_arrays(names: dict[str, str], suffix: str = "") -> dict[str, Any]:
    """Return zeros in the shapes of the auxiliary head."""
    return {
        f"{name}{suffix}": np.zeros(ARRAY_SHAPES[keras], np.float32)
        for name, keras in auxiliary_names(scopes_of(names)).items()
    }


def scopes_of(names: dict[str, str]) -> list[str]:
    return scopes_2016_03_01() if names is MARCH else scopes_2016_08_28()


@pytest.mark.parametrize("names", [MARCH, AUGUST])
def test_auxiliary_head_is_read_if_the_checkpoint_has_it(
    names: dict[str, str], tmp_path: Path
) -> None:
    without = write(tmp_path / "without.ckpt", numbered(names))
    path = write(tmp_path / "with.ckpt", numbered(names) | auxiliary_arrays(names))

    assert read(without).auxiliary_arrays == {}
    shapes = {name: array.shape for name, array in read(path).auxiliary_arrays.items()}
    assert shapes == ARRAY_SHAPES


def test_incomplete_auxiliary_head_is_refused(tmp_path: Path) -> None:
    arrays = numbered(MARCH) | auxiliary_arrays(MARCH)
    del arrays["aux_logits/Conv/BatchNorm/beta"]

    with pytest.raises(CheckpointError, match="aux_logits/Conv/BatchNorm/beta 768 is missing"):
        read(write(tmp_path / "model.ckpt-1", arrays))
