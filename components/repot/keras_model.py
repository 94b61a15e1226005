"""Load a model file of Keras as data: numbers for a network that repot builds, never code.

A .keras file is a zip archive of a configuration, which names the classes that Keras imports and
calls, and of weights in HDF5. For a model whose network repot can build, the weights alone are
read, see `repot.classifier.rebuild_published_network`. The configuration is needed for a model of
an earlier version: there, only classes that published models consist of are accepted, and they are
checked before Keras sees them. A layer with Python code (Lambda), one that reads other files
(StringLookup, TFSMLayer) or one of another package is refused by name.

The weights must be plain arrays of numbers that lie in the file, as HDF5 can also refer to other
files, and describe arrays of any size in a few bytes. They are compared with the network before
memory is taken for either.
"""

import json
import shutil
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from repot.errors import ModelError, RepotError, convert_disk_errors, join_names, printable
from repot.hub_backbone import import_keras_hub
from repot.zoo import BACKBONES

_CONFIG_NAME, _WEIGHTS_NAME = "config.json", "model.weights.h5"
_MEMBERS = ("metadata.json", _CONFIG_NAME, _WEIGHTS_NAME)
_MAX_CONFIG_BYTES = 64 << 20
"""Read of a configuration; that of the largest network of the zoo takes 1 MiB."""
_MAX_DEPTH, _MAX_ARRAYS = 64, 100_000
"""Groups within groups, and arrays, of a weights file; larger ones are not read."""
_NUM_SHOWN = 3

_LAYERS = frozenset(
    {
        *("Activation", "ReLU", "Rescaling", "Normalization", "Dropout", "Dense"),
        *("InputLayer", "Flatten", "Reshape", "Cropping1D", "ZeroPadding2D"),
        *("Add", "Average", "Concatenate", "Multiply"),
        *("Conv2D", "DepthwiseConv2D", "SeparableConv2D"),
        *("BatchNormalization", "LayerNormalization", "UnitNormalization"),
        *("AveragePooling2D", "MaxPooling2D"),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D"),
    }
)
_CLASSES: dict[str, frozenset[str]] = {
    "": frozenset({"__keras_tensor__"}),
    "keras": frozenset({"DTypePolicy", "Sequential"}),
    "keras.initializers": frozenset({"GlorotUniform", "Ones", "VarianceScaling", "Zeros"}),
    "keras.layers": _LAYERS,
    "keras.src.applications.convnext": frozenset({"LayerScale"}),
    "keras.src.applications.inception_resnet_v2": frozenset({"CustomScaleLayer"}),
    "keras.src.models.functional": frozenset({"Functional"}),
    "keras.src.ops.core": frozenset({"Cast"}),
    "keras.src.ops.numpy": frozenset(
        {
            "Absolute",
            "Add",
            "Concatenate",
            "Flip",
            "Mean",
            "Multiply",
            "Reshape",
            "Sign",
            "Sqrt",
            "Square",
            "Subtract",
            "Sum",
            "Var",
        }
    ),
}
"""Classes by module, as a model file names them; tests build every network of the zoo."""
_HUB_MODULES = "keras_hub.src.models."
_HUB_CLASSES = frozenset(each.hub_class for each in BACKBONES.values() if each.hub_class)


_Shape = tuple[int, ...]
Shapes = Mapping[str, _Shape]
Build = Callable[[Callable[[Shapes], None]], Any]
"""Builds a network without weights. It passes the shapes of weights whose size a file decides, by
name, to the function that it gets, before it creates them."""


def load_keras_model(path: Path, *, uri: str, build: Build | None = None) -> Any:
    """Load the network of a model file.

    Args:
        path: A local .keras file.
        uri: Where it comes from, for messages.
        build: Builds the network; None builds the one that the file describes.

    Returns:
        A keras.Model.

    Raises:
        ModelError: The file is damaged, has a class that no published model has, or its weights
            are not those of the network.
        UsageError: It has a network of KerasHub, which is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="repot-model-") as scratch:
        weights_path = Path(scratch, _WEIGHTS_NAME)
        config_text = _unpack(path, weights_path, uri=uri)
        if build is None:
            config = _parse_config(config_text, uri)
            check_classes(config, uri=uri)
            build = _describe(config)
        found = _stored_shapes(weights_path, uri=uri)
        try:
            network = build(partial(_check_stored, found, uri))
            _check_fit(weight_shapes(network), found, uri=uri)
            _load_weights(network, weights_path, found, uri=uri)
        except RepotError:
            raise
        except Exception as err:  # whatever a wrong configuration leads to
            lines = str(err).splitlines()
            reason = printable(lines[0]) if lines else type(err).__name__
            raise ModelError(
                f"{uri} must be a Keras model; loading failed: {reason}. Train again."
            ) from err
    return network


def weight_shapes(network: Any) -> dict[str, _Shape]:
    """Return the shapes of a network's weights by name, see `Build`."""
    # Keras does not tell layers of the same name in different networks apart.
    return {
        f"{weight.path}#{number}": tuple(weight.shape)
        for number, weight in enumerate(network.weights)
    }


def shapes_without_memory(build: Callable[[], Any]) -> dict[str, _Shape]:
    """Return the shapes of the weights of a network that takes no memory for them."""
    import keras

    def read() -> dict[str, _Shape]:
        with keras.StatelessScope(initialize_variables=False):
            return weight_shapes(build())

    # In a thread of its own, because Keras keeps the variables without values in one.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(read).result()


def check_classes(config: Any, *, uri: str) -> None:
    """Check that a network consists of known classes; import KerasHub if it has one of its own.

    Args:
        config: The configuration of a network, as Keras serialises it.
        uri: Where it comes from, for messages.

    Raises:
        ModelError, UsageError: See `load_keras_model`.
    """
    for module, name, registered in _classes(config):
        is_hub = module.startswith(_HUB_MODULES) and name in _HUB_CLASSES
        is_known = is_hub or name in _CLASSES.get(module, frozenset())
        # Keras prefers a class that was registered by this name to the one of the module.
        is_own = registered in ("", name, f"keras_hub>{name}" if is_hub else name)
        if not (is_known and is_own):
            found = name if is_own else registered
            raise ModelError(
                "A model must consist of layers that `repot` publishes; it was not loaded, because "
                f"it could run foreign code: {uri} has {printable(found)!r} of "
                f"{printable(module)!r}. Use a model that `repot` has trained, unchanged."
            )
        if is_hub:
            import_keras_hub("of this model")


def _unpack(path: Path, weights_path: Path, *, uri: str) -> bytes:
    """Copy the weights to a file, and return the configuration."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = sorted(member.filename for member in members)
            # Stored members cannot be larger than the archive.
            is_stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            if names != sorted(_MEMBERS) or not is_stored:
                raise ModelError(
                    f"{uri} must consist of {join_names(_MEMBERS)}, uncompressed; it has "
                    f"{join_names(map(printable, names)) or 'nothing'}"
                    f"{'' if is_stored else ', compressed'}. Use a model that `repot` has trained, "
                    "unchanged."
                )
            with archive.open(_CONFIG_NAME) as file:
                config = file.read(_MAX_CONFIG_BYTES)
            with (
                archive.open(_WEIGHTS_NAME) as source,
                convert_disk_errors(weights_path.parent),
                weights_path.open("wb") as target,
            ):
                shutil.copyfileobj(source, target, length=1 << 20)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError) as err:
        raise _damaged(uri, err) from err
    return config


def _parse_config(text: bytes, uri: str) -> Any:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise _damaged(uri, err) from err
    if isinstance(config, dict):
        config["compile_config"] = None  # The loss and the optimizer, which nothing needs.
    return config


def _damaged(uri: str, err: Exception) -> ModelError:
    return ModelError(f"{uri} must be a Keras model; it is damaged: {err}. Train again.")


def _describe(config: Any) -> Build:
    """Return the function that builds the network of a configuration."""

    def build_alone() -> Any:
        import keras

        return keras.models.model_from_json(json.dumps(config))

    def build(check: Callable[[Shapes], None]) -> Any:
        check(shapes_without_memory(build_alone))
        return build_alone()

    return build


def _check_stored(found: Shapes, uri: str, shapes: Shapes) -> None:
    """Check that a file has arrays of some shapes."""
    counts = Counter(found.values())
    if missing := Counter(shapes.values()) - counts:
        raise _misfit(uri, _list_by_shape(missing, shapes), [], num_found=len(found))


def _check_fit(expected: Shapes, found: Shapes, *, uri: str) -> None:
    """Check that the arrays of a file have the shapes of a network's weights, in any order."""
    missing = Counter(expected.values()) - Counter(found.values())
    added = Counter(found.values()) - Counter(expected.values())
    if missing or added:
        lists = _list_by_shape(missing, expected), _list_by_shape(added, found)
        raise _misfit(uri, *lists, num_found=len(found))


def _load_weights(network: Any, path: Path, found: Shapes, *, uri: str) -> None:
    """Set the weights of a network from a file whose arrays have their shapes.

    Raises:
        ModelError: They have other names.
    """
    with warnings.catch_warnings():
        # Keras also looks for weights where there are none.
        warnings.filterwarnings("ignore", message="Skipping nested container", category=UserWarning)
        try:
            network.load_weights(path)
        except ValueError as err:
            own_path = path.with_name(f"own.{_WEIGHTS_NAME}")
            network.save_weights(own_path)
            own = _stored_shapes(own_path, uri=uri)
            if own.keys() == found.keys():
                raise
            raise _misfit(
                uri,
                [_array_text(name, own[name]) for name in own if name not in found],
                [_array_text(name, found[name]) for name in found if name not in own],
                num_found=len(found),
            ) from err


def _list_by_shape(counts: Mapping[_Shape, int], arrays: Shapes) -> list[str]:
    """Return the arrays of some shapes; only their number, where not all of a shape are meant."""
    texts = []
    for shape, count in counts.items():
        names = [name for name, each in arrays.items() if each == shape]
        if len(names) == count:
            texts += [_array_text(name, shape) for name in names]
        else:
            texts.append(f"{count} of {len(names)} such as {_array_text(names[0], shape)}")
    return texts


def _array_text(name: str, shape: _Shape) -> str:
    return f"{printable(name.partition('#')[0])} {'x'.join(map(str, shape)) or 'scalar'}"


def _misfit(
    uri: str, missing: Sequence[str], added: Sequence[str], *, num_found: int
) -> ModelError:
    return ModelError(
        f"{uri} must have the weights of its network; it has {num_found} arrays. Missing: "
        f"{join_names(missing, _NUM_SHOWN) or 'none'}. Of no use: "
        f"{join_names(added, _NUM_SHOWN) or 'none'}. Use a model that `repot` has trained, "
        "unchanged."
    )


def _stored_shapes(path: Path, *, uri: str) -> dict[str, _Shape]:
    """Return the shapes of all arrays of a weights file by name.

    Raises:
        ModelError: It is no HDF5 file, or has anything but arrays of numbers that lie in it.
    """
    import h5py

    shapes: dict[str, _Shape] = {}
    free_bytes = path.stat().st_size
    try:
        with h5py.File(path, "r") as file:
            pending = [("", file)]
            while pending:
                parent, group = pending.pop()
                for part in group:
                    name = f"{parent}{part}"
                    link = group.get(part, getlink=True)
                    if not isinstance(link, h5py.HardLink):
                        raise _foreign(uri, name, "is a link")
                    item = group[part]
                    if isinstance(item, h5py.Group) and name.count("/") < _MAX_DEPTH:
                        pending.append((f"{name}/", item))
                    elif isinstance(item, h5py.Dataset) and len(shapes) < _MAX_ARRAYS:
                        free_bytes -= _check_array(item, free_bytes, name=name, uri=uri)
                        shapes[name] = tuple(item.shape)
                    else:
                        raise _foreign(uri, name, "is not an array")
    # h5py raises any of these for a damaged HDF5 file.
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as err:
        raise _damaged(uri, err) from err
    return shapes


def _check_array(array: Any, free_bytes: int, *, name: str, uri: str) -> int:
    """Check that an array consists of numbers in its file, and return its size in bytes."""
    import h5py

    if array.shape is None or array.dtype.kind not in "fiub":
        raise _foreign(uri, name, "does not consist of numbers")
    storage = array.id.get_create_plist()
    is_plain = storage.get_layout() in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS)
    if not is_plain or storage.get_external_count() or storage.get_nfilters():
        raise _foreign(uri, name, "lies in another file, or is compressed")
    size_bytes = int(array.nbytes)
    if size_bytes > min(free_bytes, array.id.get_storage_size()):
        raise _foreign(uri, name, f"has {size_bytes} bytes, more than the file has for it")
    return size_bytes


def _foreign(uri: str, name: str, problem: str) -> ModelError:
    return ModelError(
        f"The weights of a model must be arrays of numbers in {uri}; {printable(name)!r} "
        f"{problem}. Use a model that `repot` has trained, unchanged."
    )


def _classes(config: Any) -> Iterator[tuple[str, str, str]]:
    """Yield module, name and registered name of every class in a configuration."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                parts = (
                    value.get(key) or "" for key in ("module", "class_name", "registered_name")
                )
                module, name, registered = map(str, parts)
                yield module, name, registered
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
