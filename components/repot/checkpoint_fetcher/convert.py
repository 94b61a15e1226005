"""Turn any checkpoint into a weights file of one backbone."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repot import checkpoint_files, zoo
from repot.backbone_weights import Array, check_shapes, save_weights, shapes, stable_names
from repot.checkpoint_fetcher import (
    efficientnet_names,
    keras_file,
    tensorflow_checkpoint,
    torch_file,
    weights_files,
)
from repot.errors import CheckpointError

RAW = "raw"


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A weights file and what is known about it.

    Attributes:
        weights_path: A file of `repot.backbone_weights.save_weights`.
        kind: Who wrote the checkpoint: tensorflow, keras or pytorch.
        values: "ema" or "raw".
        available_values: All that the checkpoint has.
        num_arrays, num_parameters: How many there are, BatchNorm statistics included.
        step: The training step, None if it is not known.
    """

    weights_path: Path
    kind: str
    values: str
    available_values: tuple[str, ...]
    num_arrays: int
    num_parameters: int
    step: int | None


def convert(
    paths: Sequence[Path], *, backbone: str, values: str, is_averaged: bool, folder: Path
) -> Converted:
    """Write the weights file of a backbone.

    Args:
        paths: The checkpoint's files.
        backbone: A key of `repot.zoo.BACKBONES`.
        values: "auto", "ema" or "raw".
        is_averaged: Whether the plain names of a TensorFlow checkpoint hold averaged values.
        folder: Where the weights file goes.

    Raises:
        CheckpointError: The checkpoint is damaged, unknown, or does not fit the backbone.
    """
    with tempfile.TemporaryDirectory(prefix="repot-") as scratch:
        found = weights_files.find_weights(paths, Path(scratch))
        model = zoo.build_backbone(backbone, image_size=zoo.find_backbone(backbone).image_size)
        available: tuple[str, ...] = (RAW,)
        chosen, step = RAW, None
        if found.kind == "tensorflow":
            weights = _read_tensorflow(
                found.path, model, backbone, values=values, is_averaged=is_averaged
            )
            arrays, chosen, available, step = (
                weights.arrays,
                weights.values,
                weights.available_values,
                weights.step,
            )
        else:
            _check_raw(found.path, values)
            arrays = _read_plain(found, model, backbone, Path(scratch))
    _check_finite(found.path, arrays)
    weights_path = folder / checkpoint_files.WEIGHTS_NAME
    save_weights(weights_path, arrays)
    return Converted(
        weights_path=weights_path,
        kind=found.kind,
        values=chosen,
        available_values=available,
        num_arrays=len(arrays),
        num_parameters=sum(array.size for array in arrays.values()),
        step=step,
    )


def _read_tensorflow(
    path: Path, model: Any, backbone: str, *, values: str, is_averaged: bool
) -> tensorflow_checkpoint.InceptionWeights:
    if backbone != "inception_v3":
        raise CheckpointError(
            f"{path.name} is a TensorFlow checkpoint and must be used with backbone=inception_v3; "
            f"got backbone={backbone!r}. Use a Keras file for {backbone}."
        )
    wanted = shapes(dict(zip(stable_names(model), model.weights, strict=True)))
    return tensorflow_checkpoint.read_inception(
        path, values=values, is_averaged=is_averaged, shapes=wanted
    )


def _read_plain(
    found: weights_files.WeightsFile, model: Any, backbone: str, scratch: Path
) -> dict[str, Array]:
    if found.kind == "keras":
        return keras_file.read_keras_file(found.path, model, backbone=backbone, scratch=scratch)
    if backbone != "efficientnet_lite0":
        raise CheckpointError(
            f"{found.path.name} is a PyTorch file and must be used with backbone=efficientnet_lite0; "
            f"got backbone={backbone!r}. Use a Keras file for {backbone}."
        )
    arrays = efficientnet_names.keras_arrays(torch_file.read_torch_file(found.path))
    wanted = dict(zip(stable_names(model), model.weights, strict=True))
    check_shapes(shapes(arrays), shapes(wanted), source=found.path.name, backbone=backbone)
    return {name: arrays[name] for name in wanted}


def _check_raw(path: Path, values: str) -> None:
    if values == "ema":
        raise CheckpointError(
            f"{path.name} must be a TensorFlow checkpoint for checkpoint_values=ema; it has one set of values only. "
            "Use checkpoint_values=auto."
        )


def _check_finite(path: Path, arrays: dict[str, Array]) -> None:
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise CheckpointError(
            f"{path.name} must hold finite numbers; {len(bad)} arrays do not: {', '.join(bad[:3])}. "
            "Use a checkpoint of an earlier step."
        )
