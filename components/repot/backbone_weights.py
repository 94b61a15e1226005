"""A backbone's weights in a file: one HDF5 data set for each array, under a name that never changes.

Keras numbers unnamed layers through a whole process (`conv2d_94` in the second model). Here such a layer has the
number that a fresh process would give it, so that weights find their layer in any process: `conv2d_17/kernel`,
`batch_normalization_17/beta`, `block_3_expand/kernel`. The same arrays give the same bytes.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from repot.errors import CheckpointError

Array = npt.NDArray[Any]

_UNNAMED_VARIABLE = re.compile(r"\bvariable_\d+$")
_NUM_SHOWN = 3


def stable_names(model: Any) -> list[str]:
    """Return the name of each of a keras.Model's weights, in the order of `model.weights`."""
    renamed = renumber((layer.name for layer in model.layers), bases=automatic_bases(model))
    paths = [weight.path.split("/", 1) for weight in model.weights]
    # ConvNeXt's LayerScale does not name its variable, and Keras numbers that too.
    return [
        f"{renamed.get(layer, layer)}/{_UNNAMED_VARIABLE.sub('variable', rest)}"
        for layer, rest in paths
    ]


def automatic_bases(model: Any) -> set[str]:
    """Return what Keras calls unnamed layers of the model's kinds, before the number: conv2d, batch_normalization."""
    return {_snake_case(type(layer).__name__) for layer in model.layers}


def renumber(names: Iterable[str], *, bases: Collection[str]) -> dict[str, str]:
    """Return ranks for the numbers in automatic names: conv2d_94, conv2d_96 -> conv2d, conv2d_1.

    Names that are not one of `bases` with a number are left out.
    """
    numbers = defaultdict(list)
    for name in dict.fromkeys(names):
        base, _, number = name.rpartition("_")
        if name in bases:
            numbers[name].append((0, name))
        elif base in bases and number.isdigit():
            numbers[base].append((int(number), name))
    return {
        name: f"{base}_{rank}" if rank else base
        for base, numbered in numbers.items()
        for rank, (_, name) in enumerate(sorted(numbered))
    }


def save_weights(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by stable name, the same bytes for the same arrays."""
    with h5py.File(path, "w", track_order=False) as file:
        for name in sorted(arrays):
            file.create_dataset(name, data=np.asarray(arrays[name], np.float32), track_times=False)


def load_weights(model: Any, path: Path | str) -> None:
    """Set every weight of a backbone from a file of `save_weights`.

    Args:
        model: A keras.Model of `repot.zoo.build_backbone`.
        path: The file.

    Raises:
        CheckpointError: The file cannot be read, or holds another backbone's weights.
    """
    wanted = dict(zip(stable_names(model), model.weights, strict=True))
    try:
        with h5py.File(path, "r") as file:
            found = data_sets(file)
            check_shapes(shapes(found), shapes(wanted), source=str(path))
            for name, weight in wanted.items():
                weight.assign(found[name][()])
    except OSError as err:
        raise CheckpointError(
            f"{path} must be a weights file of repot; it cannot be read: {err}."
        ) from err


def data_sets(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Return every array below a group by path; links are not followed, nor arrays kept in other files."""
    found = {}

    def collect(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and not item.external:
            found[name] = item

    group.visititems(collect)
    return found


def shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of arrays, HDF5 data sets or Keras variables by name."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def check_shapes(
    found: Mapping[str, Sequence[int]],
    wanted: Mapping[str, Sequence[int]],
    *,
    source: str,
    backbone: str = "backbone",
) -> None:
    """Check that every wanted array is there with the right shape; arrays that nobody wants are ignored.

    Args:
        found: Shapes by name in the source.
        wanted: Shapes by name in the network.
        source: Name of the source, for the message.
        backbone: Name of the network, for the message.

    Raises:
        CheckpointError: Names the first arrays that are missing or have another shape.
    """
    problems = [
        f"{name} has shape {_text(found[name])}, wanted {_text(shape)}"
        if name in found
        else f"{name} {_text(shape)} is missing"
        for name, shape in wanted.items()
        if name not in found or tuple(found[name]) != tuple(shape)
    ]
    if problems:
        shown = "; ".join(problems[:_NUM_SHOWN])
        more = f"; and {len(problems) - _NUM_SHOWN} more" if len(problems) > _NUM_SHOWN else ""
        raise CheckpointError(
            f"{source} must fit the {backbone}; {len(problems)} of {len(wanted)} arrays do not: {shown}{more}. "
            "Choose the backbone that the checkpoint was made for, or another checkpoint."
        )


def _text(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape) or "scalar"


def _snake_case(name: str) -> str:
    """Return the base of Keras' automatic layer names: BatchNormalization -> batch_normalization."""
    words = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
