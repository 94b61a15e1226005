"""Read a backbone's weights from a Keras HDF5 file, whatever model they were saved in.

The file may hold the backbone alone, with a head, or inside another model, saved by any version of
Keras in any process. Layouts, and how an array is matched to the backbone:
    repot           `conv2d_7/kernel`: by name
    .weights.h5     `.../layers/conv2d_7/vars/0` (also in .keras): the subtree with the most arrays
                    that match the backbone
    .h5 (Keras 2)   attributes `layer_names` and `weight_names`: by name, or by order, skipping
                    layers before and after the backbone
An array is read only if its shape matches, and never through a link to another file.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from repot.backbone_weights import (
    Array,
    array_shapes,
    automatic_bases,
    check_shapes,
    find_datasets,
    renumber,
    stable_names,
)
from repot.errors import CheckpointError

_LEGACY_ROOT = "model_weights"
# Keras 2 wrote `_layer_checkpoint_dependencies` where Keras 3 writes `layers`.
_OLD_LAYERS, _LAYERS = "_layer_checkpoint_dependencies/", "layers/"

_Datasets = dict[str, h5py.Dataset]
_Shapes = Mapping[str, tuple[int, ...]]


def read_keras_file(path: Path, model: Any, *, backbone: str, scratch: Path) -> dict[str, Array]:
    """Return a backbone's arrays by stable name.

    Args:
        path: An HDF5 file.
        model: The keras.Model of the backbone; its weights are overwritten.
        backbone: Its name, for messages.
        scratch: Folder for temporary files.

    Raises:
        CheckpointError: The file is damaged, or does not hold this backbone.
    """
    try:
        with h5py.File(path, "r") as file:
            found = find_datasets(file)
            if any("/vars/" in name for name in found):
                return _read_tree(
                    found, model, source=path.name, backbone=backbone, scratch=scratch
                )
            has_root = isinstance(file.get(_LEGACY_ROOT, getlink=True), h5py.HardLink)
            root = file[_LEGACY_ROOT] if has_root else file
            if "layer_names" in root.attrs or "layer_names0" in root.attrs:
                found = _match_legacy(root, model)
            expected = dict(zip(stable_names(model), model.weights, strict=True))
            check_shapes(
                array_shapes(found), array_shapes(expected), source=path.name, backbone=backbone
            )
            return {name: found[name][()] for name in expected}
    except CheckpointError:
        raise
    # h5py raises any of these for a damaged HDF5 file.
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as err:
        raise CheckpointError(
            f"{path.name} must be an intact Keras file; it cannot be read: {err}. "
            "Copy or fetch it again."
        ) from err


def _read_tree(
    found: _Datasets, model: Any, *, source: str, backbone: str, scratch: Path
) -> dict[str, Array]:
    """Read the layout of Keras 3: copy the backbone's subtree to a file that Keras can load."""
    found = {name.replace(_OLD_LAYERS, _LAYERS): dataset for name, dataset in found.items()}
    backbone_path = scratch / "backbone.weights.h5"
    model.save_weights(backbone_path)
    with h5py.File(backbone_path, "r+") as file:
        expected = array_shapes(find_datasets(file))
        prefix = _find_prefix(array_shapes(found), expected)
        subtree = {
            name: found[f"{prefix}{name}"] for name in expected if f"{prefix}{name}" in found
        }
        check_shapes(array_shapes(subtree), expected, source=source, backbone=backbone)
        for name, dataset in subtree.items():
            file[name][...] = dataset[()]
    model.load_weights(backbone_path)
    return dict(zip(stable_names(model), model.get_weights(), strict=True))


def _find_prefix(found: _Shapes, expected: _Shapes) -> str:
    """Return the path of the backbone's subtree: "" if the file holds the backbone alone."""
    first = min(expected)
    prefixes = [name.removesuffix(first) for name in found if f"/{name}".endswith(f"/{first}")]
    return max(["", *prefixes], key=lambda prefix: _num_matches(found, expected, prefix))


def _num_matches(found: _Shapes, expected: _Shapes, prefix: str = "") -> int:
    return sum(found.get(f"{prefix}{name}") == shape for name, shape in expected.items())


def _match_legacy(root: h5py.Group, model: Any) -> _Datasets:
    """Match the arrays of a Keras 2 file with the backbone, by name or by order."""
    entries = list(_legacy_entries(root))
    names = dict(zip((weight.path for weight in model.weights), stable_names(model), strict=True))
    # Keras 2 writes layer by layer, trainable weights first.
    weights = [
        weight
        for layer in model.layers
        for weight in (*layer.trainable_weights, *layer.non_trainable_weights)
    ]
    expected = {names[weight.path]: tuple(weight.shape) for weight in weights}
    by_name = _match_by_name(entries, expected, automatic_bases(model))
    by_order = _match_by_order([dataset for _, _, dataset in entries], expected)
    return max(by_name, by_order, key=lambda found: _num_matches(array_shapes(found), expected))


def _match_by_name(
    entries: list[tuple[str, str, h5py.Dataset]], expected: _Shapes, bases: set[str]
) -> _Datasets:
    """Match by names of layer and variable; automatically named layers match by rank."""
    ranks = renumber((layer for layer, _, _ in entries), bases=bases)
    by_name = {
        f"{ranks.get(layer, layer)}/{variable}": dataset for layer, variable, dataset in entries
    }
    ends = {name: "/".join(name.split("/")[-2:]) for name in expected}
    return {name: by_name[end] for name, end in ends.items() if end in by_name}


def _match_by_order(found: list[h5py.Dataset], expected: _Shapes) -> _Datasets:
    """Match consecutive arrays, starting at the position where most shapes agree."""
    found_shapes = [tuple(dataset.shape) for dataset in found]

    def num_matches(start: int) -> int:
        pairs = zip(found_shapes[start:], expected.values(), strict=False)
        return sum(found_shape == shape for found_shape, shape in pairs)

    start = max(range(max(1, len(found) - len(expected) + 1)), key=num_matches)
    return dict(zip(expected, found[start:], strict=False))


def _legacy_entries(root: h5py.Group) -> Iterator[tuple[str, str, h5py.Dataset]]:
    """Yield (layer, variable, dataset) in file order, such as (conv2d_7, kernel, ...)."""
    datasets, groups = find_datasets(root), _find_groups(root)
    for group in _read_names(root, "layer_names"):
        for weight_name in _read_names(groups[group], "weight_names"):
            parts = f"{group}/{weight_name}".split("/")
            yield parts[-2], parts[-1].split(":")[0], datasets[f"{group}/{weight_name}"]


def _find_groups(root: h5py.Group) -> dict[str, h5py.Group]:
    """Return every group below a group by path; skip links, which can lead to other files."""
    found = {}

    def collect(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Group):
            found[name] = item

    root.visititems(collect)
    return found


def _read_names(group: h5py.Group, name: str) -> list[str]:
    """Return an attribute that lists names; Keras splits long lists into name0, name1, ..."""
    numbered = itertools.takewhile(
        group.attrs.__contains__, (f"{name}{index}" for index in itertools.count())
    )
    attributes = [name] if name in group.attrs else numbered
    return [
        item.decode() if isinstance(item, bytes) else str(item)
        for attribute in attributes
        for item in group.attrs[attribute]
    ]
