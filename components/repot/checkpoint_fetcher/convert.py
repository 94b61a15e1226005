"""Convert the original files of any checkpoint to the weights file of one backbone."""

import tempfile
from pathlib import Path

import numpy as np

from repot.backbone_weights import Array, array_shapes, save_weights, stable_names
from repot.checkpoint_fetcher.efficientnet_checkpoint import read_efficientnet_lite0
from repot.checkpoint_fetcher.inception_checkpoint import read_inception
from repot.checkpoint_fetcher.keras_file import read_keras_file
from repot.checkpoint_fetcher.originals import Original
from repot.checkpoint_fetcher.weights_files import WeightsFile, find_weights
from repot.checkpoint_record import CheckpointRecord
from repot.checkpoints import CheckpointSource
from repot.errors import CheckpointError, join_names
from repot.hub_backbone import (
    PRESET_WEIGHTS_NAME,
    HubArchitecture,
    build_network,
    read_preset,
    save_architecture,
)
from repot.zoo import build_backbone, find_backbone

_NUM_SHOWN = 3


def convert(
    original: Original,
    source: CheckpointSource,
    *,
    backbone: str,
    values: str,
    weights_path: Path,
) -> CheckpointRecord:
    """Write the weights file of a backbone.

    Args:
        original: The checkpoint's files.
        source: Where they come from.
        backbone: A key of `repot.zoo.BACKBONES`.
        values: "auto", "ema" or "raw".
        weights_path: File to write, in the format of `repot.backbone_weights`.

    Raises:
        CheckpointError: The files are damaged, of an unknown format, or do not fit the backbone.
    """
    # Only TensorFlow checkpoints can hold averages or the training step.
    chosen = "raw"
    available_values: tuple[str, ...] = ("raw",)
    step: int | None = None
    auxiliary_arrays: dict[str, Array] = {}
    architecture: HubArchitecture | None = None
    with tempfile.TemporaryDirectory(prefix="repot-") as folder:
        scratch = Path(folder)
        file = find_weights(original.paths, scratch)
        spec = find_backbone(backbone)
        if (file.kind == "preset") != bool(spec.hub_class):
            raise CheckpointError(
                f"backbone {backbone} must be used with "
                f"{'a preset of KerasHub' if spec.hub_class else 'a checkpoint of its own network'}"
                f"; {file.path.name} is {'one' if file.kind == 'preset' else 'none'}. "
                f"Use checkpoint={spec.default_checkpoint}, or another backbone."
            )
        if file.kind == "preset":
            architecture = read_preset(file.path, class_name=spec.hub_class, backbone=backbone)
            model = build_network(
                architecture, image_size=architecture.image_size, backbone=backbone
            )
        else:
            model = build_backbone(backbone, image_size=spec.image_size)
        shapes = array_shapes(dict(zip(stable_names(model), model.weights, strict=True)))
        if file.kind != "tensorflow":
            _check_values(file, values)
        if file.kind in ("keras", "preset"):
            path = file.path / PRESET_WEIGHTS_NAME if file.kind == "preset" else file.path
            arrays = read_keras_file(path, model, backbone=backbone, scratch=scratch)
        elif file.kind == "pytorch":
            _check_backbone(file, "a PyTorch file", backbone, "efficientnet_lite0")
            arrays = read_efficientnet_lite0(file.path, shapes=shapes)
        else:
            _check_backbone(file, "a TensorFlow checkpoint", backbone, "inception_v3")
            weights = read_inception(
                file.path, values=values, is_averaged=source.is_averaged, shapes=shapes
            )
            arrays, chosen, step = weights.arrays, weights.values, weights.step
            available_values = weights.available_values
            auxiliary_arrays = weights.auxiliary_arrays
    stored = arrays | auxiliary_arrays
    _check_finite(file, stored)
    save_weights(weights_path, stored)
    if architecture is not None:
        save_architecture(weights_path, architecture)
    return CheckpointRecord(
        source=source.name,
        sha256=original.sha256,
        backbone=backbone,
        kind=file.kind,
        values=chosen,
        available_values=available_values,
        num_arrays=len(arrays),
        num_parameters=sum(array.size for array in arrays.values()),
        step=step,
        num_auxiliary_arrays=len(auxiliary_arrays),
        licence=source.licence,
    )


def _check_backbone(file: WeightsFile, format_name: str, backbone: str, only: str) -> None:
    if backbone != only:
        raise CheckpointError(
            f"{file.path.name} is {format_name} and must be used with backbone={only}; "
            f"got backbone={backbone!r}. Use a Keras file for {backbone}."
        )


def _check_values(file: WeightsFile, values: str) -> None:
    if values == "ema":
        raise CheckpointError(
            f"{file.path.name} must be a TensorFlow checkpoint for checkpoint_values=ema; "
            "this format holds one set of values only. Use checkpoint_values=auto."
        )


def _check_finite(file: WeightsFile, arrays: dict[str, Array]) -> None:
    foreign = [name for name, array in arrays.items() if array.dtype.kind not in "fiub"]
    if foreign:
        raise CheckpointError(
            f"{file.path.name} must hold numbers; {len(foreign)} arrays have none: "
            f"{join_names(foreign, _NUM_SHOWN)}. Use another checkpoint."
        )
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise CheckpointError(
            f"{file.path.name} must hold finite numbers; {len(bad)} arrays do not: "
            f"{join_names(bad, _NUM_SHOWN)}. Use a checkpoint of an earlier step."
        )
