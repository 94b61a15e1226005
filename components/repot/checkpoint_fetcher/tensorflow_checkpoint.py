"""Read Inception-v3 from a TensorFlow checkpoint, as the 2016 programs wrote it: V1 or V2, raw or averaged values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from repot.backbone_weights import Array, check_shapes
from repot.checkpoint_fetcher.inception_names import (
    EMA_SUFFIX,
    keras_names,
    names_2016_03_01,
    names_2016_08_28,
)
from repot.errors import CheckpointError

_GLOBAL_STEP = "global_step"
_STEP_IN_NAME = re.compile(r"-(\d+)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class InceptionWeights:
    """The weights of one training step.

    Attributes:
        arrays: By stable Keras name.
        values: "ema" or "raw".
        available_values: All that the checkpoint has.
        step: The training step, None if it is not known.
    """

    arrays: dict[str, Array]
    values: str
    available_values: tuple[str, ...]
    step: int | None


def read_inception(
    path: Path, *, values: str, is_averaged: bool, shapes: Mapping[str, Sequence[int]]
) -> InceptionWeights:
    """Return the backbone's part of an Inception-v3 checkpoint; variables that nobody wants are ignored.

    Args:
        path: The file of a V1 checkpoint, or the prefix of a V2 checkpoint.
        values: "ema", "raw", or "auto" for the averaged ones where there are any.
        is_averaged: Whether the plain names hold averaged values.
        shapes: Wanted shapes by stable Keras name.

    Raises:
        CheckpointError: It cannot be read, is not an Inception-v3, or lacks the values.
    """
    try:
        reader = tf.train.load_checkpoint(str(path))
        found: dict[str, Sequence[int]] = reader.get_variable_to_shape_map()
        names = _release_names(path, found)
        suffixes = _suffixes(names, found, is_averaged=is_averaged)
        chosen = _chosen(path, values, suffixes)
        wanted = {f"{name}{suffixes[chosen]}": keras_name for name, keras_name in names.items()}
        check_shapes(
            found,
            {name: shapes[keras_name] for name, keras_name in wanted.items()},
            source=path.name,
            backbone="inception_v3",
        )
        return InceptionWeights(
            arrays={keras_name: reader.get_tensor(name) for name, keras_name in wanted.items()},
            values=chosen,
            available_values=tuple(sorted(suffixes)),
            step=_step(reader, found, path),
        )
    except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise CheckpointError(
            f"{path.name} must be a whole TensorFlow checkpoint; it cannot be read: {reason}. Copy or fetch it again."
        ) from err


def _release_names(path: Path, found: Mapping[str, Any]) -> dict[str, str]:
    """Return the Keras name by the plain name of the release that the checkpoint is of."""
    for scopes in (names_2016_03_01(), names_2016_08_28()):
        names = keras_names(scopes)
        if any(name in found for name in names):
            return names
    raise CheckpointError(
        f"{path.name} must hold an Inception-v3 of 2016 (conv0/weights or InceptionV3/Conv2d_1a_3x3/weights); "
        f"it holds {', '.join(sorted(found)[:3]) or 'nothing'}. Use a Keras file for other networks."
    )


def _suffixes(
    names: Mapping[str, str], found: Mapping[str, Any], *, is_averaged: bool
) -> dict[str, str]:
    """Return what follows the plain names, for each kind of values that the checkpoint has at all."""
    present = {
        kind: suffix
        for kind, suffix in (("ema", EMA_SUFFIX), ("raw", ""))
        if any(f"{name}{suffix}" in found for name in names)
    }
    return {"ema": ""} if is_averaged and "ema" not in present else present


def _chosen(path: Path, values: str, suffixes: Mapping[str, str]) -> str:
    if values == "auto":
        return "ema" if "ema" in suffixes else "raw"
    if values not in suffixes:
        raise CheckpointError(
            f"{path.name} must hold {values} values for checkpoint_values={values}; "
            f"it holds {' and '.join(sorted(suffixes))} only. Use checkpoint_values=auto."
        )
    return values


def _step(reader: Any, found: Mapping[str, Any], path: Path) -> int | None:
    if _GLOBAL_STEP in found and not found[_GLOBAL_STEP]:
        return int(reader.get_tensor(_GLOBAL_STEP))
    match = _STEP_IN_NAME.search(path.name)
    return int(match[1]) if match else None
