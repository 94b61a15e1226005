"""Take a backbone's weights out of a Keras HDF5 file, whatever head, wrapper or process it was saved with.

Layouts, and how an array finds its place:
    repot           `conv2d_7/kernel`: by name
    .weights.h5     `.../layers/conv2d_7/vars/0` (also inside .keras): the part of the tree that has the backbone's form
    .h5 (Keras 2)   attributes `layer_names` and `weight_names`: by name, else by order, without what comes before and
                    after the backbone
An array is read only once its shape fits, and only from the file itself, never through a link to another one.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from repot.backbone_weights import (
    Array,
    automatic_bases,
    check_shapes,
    data_sets,
    renumber,
    shapes,
    stable_names,
)
from repot.errors import CheckpointError

_LEGACY_ROOT = "model_weights"
# Keras 2 wrote `_layer_checkpoint_dependencies` where Keras 3 writes `layers`.
_OLD_LAYERS, _LAYERS = "_layer_checkpoint_dependencies/", "layers/"

_Found = dict[str, h5py.Dataset]
_Shapes = Mapping[str, tuple[int, ...]]


def read_keras_file(path: Path, model: Any, *, backbone: str, scratch: Path) -> dict[str, Array]:
    """Return a backbone's arrays by stable name.

    Args:
        path: An HDF5 file.
        model: The keras.Model of the backbone; its weights are overwritten.
        backbone: Its name, for messages.
        scratch: A folder for temporary files.

    Raises:
        CheckpointError: The file is damaged, or does not hold this backbone.
    """
    try:
        with h5py.File(path, "r") as file:
            found = data_sets(file)
            if any("/vars/" in name for name in found):
                return _read_tree(
                    found, model, source=path.name, backbone=backbone, scratch=scratch
                )
            legacy = (
                file[_LEGACY_ROOT]
                if isinstance(file.get(_LEGACY_ROOT, getlink=True), h5py.HardLink)
                else file
            )
            if "layer_names" in legacy.attrs or "layer_names0" in legacy.attrs:
                found = _find_legacy(legacy, model)
            wanted = dict(zip(stable_names(model), model.weights, strict=True))
            check_shapes(shapes(found), shapes(wanted), source=path.name, backbone=backbone)
            return {name: found[name][()] for name in wanted}
    except CheckpointError:
        raise
    # A damaged HDF5 file can fail in any of these ways.
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as err:
        raise CheckpointError(
            f"{path.name} must be a whole Keras file; it cannot be read: {err}. Copy or fetch it again."
        ) from err


def _read_tree(
    found: _Found, model: Any, *, source: str, backbone: str, scratch: Path
) -> dict[str, Array]:
    """Read a Keras 3 tree: find the branch of the backbone's own form, and let Keras load that branch."""
    found = {name.replace(_OLD_LAYERS, _LAYERS): data_set for name, data_set in found.items()}
    own_path = scratch / "backbone.weights.h5"
    model.save_weights(own_path)
    with h5py.File(own_path, "r+") as own:
        wanted = shapes(data_sets(own))
        prefix = _best_prefix(shapes(found), wanted)
        branch = {name: found[f"{prefix}{name}"] for name in wanted if f"{prefix}{name}" in found}
        check_shapes(shapes(branch), wanted, source=source, backbone=backbone)
        for name, data_set in branch.items():
            own[name][...] = data_set[()]
    model.load_weights(own_path)
    return dict(zip(stable_names(model), model.get_weights(), strict=True))


def _best_prefix(found: _Shapes, wanted: _Shapes) -> str:
    """Return what stands before the backbone's paths: "" for the backbone itself, or the path of a wrapped one."""
    first = min(wanted)
    prefixes = [name.removesuffix(first) for name in found if f"/{name}".endswith(f"/{first}")]
    return max(["", *prefixes], key=lambda prefix: _num_fitting(found, wanted, prefix))


def _num_fitting(found: _Shapes, wanted: _Shapes, prefix: str = "") -> int:
    return sum(found.get(f"{prefix}{name}") == shape for name, shape in wanted.items())


def _find_legacy(root: h5py.Group, model: Any) -> _Found:
    """Return the best match of a Keras 2 file's arrays with the backbone, by name or by order."""
    entries = list(_legacy_entries(root))
    names = dict(zip((weight.path for weight in model.weights), stable_names(model), strict=True))
    # Keras 2 writes layer by layer, what is trainable first.
    order = [
        weight
        for layer in model.layers
        for weight in (*layer.trainable_weights, *layer.non_trainable_weights)
    ]
    wanted = {names[weight.path]: tuple(weight.shape) for weight in order}
    by_name = _by_name(entries, wanted, automatic_bases(model))
    by_order = _by_order([data_set for _, _, data_set in entries], wanted)
    return max(by_name, by_order, key=lambda found: _num_fitting(shapes(found), wanted))


def _by_name(
    entries: list[tuple[str, str, h5py.Dataset]], wanted: _Shapes, bases: set[str]
) -> _Found:
    """Match layer and variable names, where unnamed layers count by rank."""
    ranks = renumber((layer for layer, _, _ in entries), bases=bases)
    by_name = {
        f"{ranks.get(layer, layer)}/{variable}": data_set for layer, variable, data_set in entries
    }
    ends = {name: "/".join(name.split("/")[-2:]) for name in wanted}
    return {name: by_name[end] for name, end in ends.items() if end in by_name}


def _by_order(found: list[h5py.Dataset], wanted: _Shapes) -> _Found:
    """Match one array after the other, from where most shapes fit."""
    found_shapes = [tuple(data_set.shape) for data_set in found]

    def num_fitting(start: int) -> int:
        pairs = zip(found_shapes[start:], wanted.values(), strict=False)
        return sum(found_shape == shape for found_shape, shape in pairs)

    start = max(range(max(1, len(found) - len(wanted) + 1)), key=num_fitting)
    return dict(zip(wanted, found[start:], strict=False))


def _legacy_entries(root: h5py.Group) -> Iterator[tuple[str, str, h5py.Dataset]]:
    """Yield (layer, variable, data set) in the order of the file: `conv2d_7/kernel:0` -> (conv2d_7, kernel, ...)."""
    inside = data_sets(root)
    for group in _attribute(root, "layer_names"):
        for weight_name in _attribute(root[group], "weight_names"):
            parts = f"{group}/{weight_name}".split("/")
            yield parts[-2], parts[-1].split(":")[0], inside[f"{group}/{weight_name}"]


def _attribute(group: h5py.Group, name: str) -> list[str]:
    """Return a list of names; Keras cuts one that is too long for an attribute into name0, name1, ..."""
    numbered = itertools.takewhile(
        group.attrs.__contains__, (f"{name}{index}" for index in itertools.count())
    )
    pieces = [name] if name in group.attrs else numbered
    return [
        item.decode() if isinstance(item, bytes) else str(item)
        for piece in pieces
        for item in group.attrs[piece]
    ]
