"""Weights of a backbone in a file: one HDF5 dataset per array, under a stable name.

Keras numbers unnamed layers throughout a process: the first convolution of the second model can be
`conv2d_94`. A stable name has the number that a fresh process would use, so weights can be loaded
in any process: `conv2d_17/kernel`, `batch_normalization_17/beta`, `block_3_expand/kernel`. Equal
arrays give identical files.
"""

import math
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
# SigLIP's numbers 0, 1, 2, ... of its positions: they follow from the image size.
_POSITION_NUMBERS = "/position_ids"
_POSITIONS = "position_embedding"
_MAX_SIDE = 1024  # Patches per side; 37 in the largest preset.


def stable_names(model: Any) -> list[str]:
    """Return the stable name of each weight of a keras.Model, in the order of `model.weights`."""
    renamed = renumber((layer.name for layer in model.layers), bases=automatic_bases(model))
    paths = [weight.path.split("/", 1) for weight in model.weights]
    # ConvNeXt's LayerScale does not name its variable; Keras numbers that throughout a process too.
    return [
        f"{renamed.get(layer, layer)}/{_UNNAMED_VARIABLE.sub('variable', rest)}"
        for layer, rest in paths
    ]


def automatic_bases(model: Any) -> set[str]:
    """Return the automatic layer names in a model, without numbers: conv2d, batch_normalization."""
    return {_snake_case(type(layer).__name__) for layer in model.layers}


def renumber(names: Iterable[str], *, bases: Collection[str]) -> dict[str, str]:
    """Replace the numbers in automatic names by ranks: conv2d_94, conv2d_96 -> conv2d, conv2d_1.

    Args:
        names: Layer names, in any order.
        bases: Automatic names without numbers.

    Returns:
        The new name by name; names that do not consist of a base and a number are left out.
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
    """Write arrays by stable name; equal arrays give identical files."""
    with h5py.File(path, "w", track_order=False) as file:
        for name in sorted(arrays):
            file.create_dataset(name, data=np.asarray(arrays[name], np.float32), track_times=False)


def load_weights(model: Any, path: Path | str) -> None:
    """Set every weight of a backbone from a file written by `save_weights`.

    Position embeddings for another number of patches are resized: those of a network of KerasHub
    that is built for another image size than its preset.

    Args:
        model: A keras.Model built by `repot.zoo.build_backbone`.
        path: The file.

    Raises:
        CheckpointError: The file is damaged, or holds the weights of another backbone.
    """
    # A network of KerasHub is a layer of the backbone.
    network = next((each for each in model.layers if _is_of_keras_hub(each)), model)
    expected = {
        name: weight
        for name, weight in zip(stable_names(network), network.weights, strict=True)
        if not name.endswith(_POSITION_NUMBERS)
    }
    try:
        with h5py.File(path, "r") as file:
            found: dict[str, Any] = dict(find_datasets(file))
            for name, weight in expected.items():
                if _POSITIONS in name and name in found:
                    found[name] = _read_positions(found[name], tuple(weight.shape))
            check_shapes(array_shapes(found), array_shapes(expected), source=str(path))
            for name, weight in expected.items():
                weight.assign(found[name][()])
    # h5py raises any of these for a damaged HDF5 file, Keras the last for values of another type.
    except (LookupError, OSError, RuntimeError, TypeError, ValueError) as err:
        raise CheckpointError(
            f"{path} must be a weights file written by repot; it cannot be read: {err}. "
            "Convert the checkpoint again."
        ) from err


def _is_of_keras_hub(layer: Any) -> bool:
    return type(layer).__module__.startswith("keras_hub.")


def _read_positions(stored: h5py.Dataset, shape: tuple[int, ...]) -> Any:
    """Return position embeddings for a square of another number of patches.

    Interpolation is bicubic, as in the networks' own code. Tokens that come before the patches,
    such as the class token, keep theirs.

    Args:
        stored: [..., num_tokens, width].
        shape: Shape of the result; the dataset itself is returned if only that can fit.
    """
    import keras

    found = tuple(stored.shape)
    # Compared before anything is read: a few bytes can describe an array of any size.
    if found == shape or len(found) != len(shape) or found[-1:] != shape[-1:]:
        return stored
    source, target = math.isqrt(found[-2]), math.isqrt(shape[-2])
    num_first = found[-2] - source**2
    if found[:-2] != shape[:-2] or num_first != shape[-2] - target**2 or source > _MAX_SIDE:
        return stored
    array = stored[()]
    tokens = array.reshape(-1, array.shape[-1])
    grid = tokens[num_first:].reshape(source, source, -1)
    resized = np.asarray(
        keras.ops.image.resize(
            grid, (target, target), interpolation="bicubic", data_format="channels_last"
        )
    )
    patches = resized.reshape(target**2, -1)
    return np.concatenate([tokens[:num_first], patches]).reshape(shape)


def find_datasets(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Return every dataset below a group by path; skip links, and data stored in other files.

    HDF5 reads those without asking: a file of a stranger could name any file of this machine.
    """
    found = {}

    def collect(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual:
            found[name] = item

    # visititems does not follow soft or external links.
    group.visititems(collect)
    return found


def array_shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of arrays, HDF5 datasets or Keras variables by name."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def check_shapes(
    found: Mapping[str, Sequence[int]],
    expected: Mapping[str, Sequence[int]],
    *,
    source: str,
    backbone: str = "backbone",
) -> None:
    """Check that every expected array is present and has the right shape; ignore other arrays.

    Args:
        found: Shapes by name in the source.
        expected: Shapes by name in the network.
        source: Name of the source, for the message.
        backbone: Name of the network, for the message.

    Raises:
        CheckpointError: Lists the first arrays that are missing or have another shape.
    """
    problems = [
        f"{name} has shape {_shape_text(found[name])}, expected {_shape_text(shape)}"
        if name in found
        else f"{name} {_shape_text(shape)} is missing"
        for name, shape in expected.items()
        if name not in found or tuple(found[name]) != tuple(shape)
    ]
    if problems:
        shown = "; ".join(problems[:_NUM_SHOWN])
        more = f"; and {len(problems) - _NUM_SHOWN} more" if len(problems) > _NUM_SHOWN else ""
        raise CheckpointError(
            f"{source} must fit the {backbone}; {len(problems)} of {len(expected)} arrays do not: "
            f"{shown}{more}. "
            "Choose the backbone that the checkpoint was made for, or another checkpoint."
        )


def _shape_text(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape) or "scalar"


def _snake_case(name: str) -> str:
    """Return the automatic layer name of a class: BatchNormalization -> batch_normalization."""
    words = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
