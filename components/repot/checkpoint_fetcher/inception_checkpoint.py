"""Read Inception-v3 from the TensorFlow checkpoints that the 2016 programs wrote, V1 or V2.

A checkpoint holds raw values, moving averages (EMA) of them, or both. The convolutions of the
auxiliary head are read too, if the checkpoint has them; other variables, such as optimizer slots,
are ignored.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from repot.auxiliary_head import ARRAY_SHAPES
from repot.backbone_weights import Array, check_shapes
from repot.checkpoint_fetcher.inception_names import (
    EMA_SUFFIX,
    auxiliary_names,
    keras_names,
    scopes_2016_03_01,
    scopes_2016_08_28,
)
from repot.errors import CheckpointError, join_names

_GLOBAL_STEP = "global_step"
_STEP_IN_NAME = re.compile(r"-(\d+)$")

_Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class InceptionWeights:
    """The backbone's weights at one training step.

    Attributes:
        arrays: Arrays of the backbone by stable Keras name.
        auxiliary_arrays: Arrays of the auxiliary head by name, see `repot.auxiliary_head`; empty if
            the checkpoint has none.
        values: "ema" or "raw".
        available_values: Every kind of values in the checkpoint.
        step: The training step; None if it is unknown.
    """

    arrays: dict[str, Array]
    auxiliary_arrays: dict[str, Array]
    values: str
    available_values: tuple[str, ...]
    step: int | None


def read_inception(
    path: Path, *, values: str, is_averaged: bool, shapes: _Shapes
) -> InceptionWeights:
    """Return the backbone's weights.

    Args:
        path: The file of a V1 checkpoint, or the prefix of a V2 checkpoint.
        values: "ema", "raw", or "auto" for averages if the checkpoint has them.
        is_averaged: Whether variables under their plain names are averages.
        shapes: Expected shapes by stable Keras name.

    Raises:
        CheckpointError: The checkpoint is damaged, is not an Inception-v3, or lacks the values.
    """
    try:
        reader = tf.train.load_checkpoint(str(path))
        found: _Shapes = reader.get_variable_to_shape_map()
        scopes = _release_scopes(path, found)
        names = keras_names(scopes)
        suffixes = _available_suffixes(names, found, is_averaged=is_averaged)
        chosen = _choose_values(path, values, suffixes)
        suffix = suffixes[chosen]
        backbone = {keras: f"{name}{suffix}" for name, keras in names.items()}
        auxiliary = {keras: f"{name}{suffix}" for name, keras in auxiliary_names(scopes).items()}
        if not any(variable in found for variable in auxiliary.values()):
            auxiliary = {}
        check_shapes(
            found,
            {variable: shapes[keras] for keras, variable in backbone.items()}
            | {variable: ARRAY_SHAPES[keras] for keras, variable in auxiliary.items()},
            source=path.name,
            backbone="inception_v3",
        )
        return InceptionWeights(
            arrays={keras: reader.get_tensor(name) for keras, name in backbone.items()},
            auxiliary_arrays={keras: reader.get_tensor(name) for keras, name in auxiliary.items()},
            values=chosen,
            available_values=tuple(sorted(suffixes)),
            step=_read_step(reader, found, path),
        )
    except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise CheckpointError(
            f"{path.name} must be an intact TensorFlow checkpoint; it cannot be read: {reason}. "
            "Copy or fetch it again."
        ) from err


def _release_scopes(path: Path, found: _Shapes) -> list[str]:
    """Return the scopes of the release that wrote the checkpoint."""
    for scopes in (scopes_2016_03_01(), scopes_2016_08_28()):
        if any(name in found for name in keras_names(scopes)):
            return scopes
    raise CheckpointError(
        f"{path.name} must hold an Inception-v3 of 2016 "
        "(conv0/weights or InceptionV3/Conv2d_1a_3x3/weights); "
        f"it holds {join_names(sorted(found), 3) or 'nothing'}. "
        "Use a Keras file for other networks."
    )


def _available_suffixes(
    names: Mapping[str, str], found: _Shapes, *, is_averaged: bool
) -> dict[str, str]:
    """Return the suffix after plain names, by kind of values that the checkpoint has."""
    available = {
        kind: suffix
        for kind, suffix in (("ema", EMA_SUFFIX), ("raw", ""))
        if any(f"{name}{suffix}" in found for name in names)
    }
    return {"ema": ""} if is_averaged and "ema" not in available else available


def _choose_values(path: Path, values: str, suffixes: Mapping[str, str]) -> str:
    if values == "auto":
        return "ema" if "ema" in suffixes else "raw"
    if values not in suffixes:
        raise CheckpointError(
            f"{path.name} must hold {values} values for checkpoint_values={values}; "
            f"it holds {' and '.join(sorted(suffixes))} only. Use checkpoint_values=auto."
        )
    return values


def _read_step(reader: Any, found: _Shapes, path: Path) -> int | None:
    """Return the scalar global_step, or else the number at the end of the file name."""
    if _GLOBAL_STEP in found and not found[_GLOBAL_STEP]:
        return int(reader.get_tensor(_GLOBAL_STEP))
    match = _STEP_IN_NAME.search(path.name)
    return int(match[1]) if match else None
