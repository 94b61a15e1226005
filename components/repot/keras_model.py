"""Load a model file of Keras as data: networks of Keras and KerasHub, never code.

The configuration in a .keras file names the classes that Keras imports and calls. Only classes that
published models consist of are accepted, and they are checked before Keras sees the file: a layer
with Python code (Lambda), one that reads other files (StringLookup, TFSMLayer) or one of another
package is refused by name.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repot.errors import ModelError, printable
from repot.hub_backbone import import_keras_hub
from repot.zoo import BACKBONES

_CONFIG_NAME = "config.json"
_MAX_CONFIG_BYTES = 64 << 20
"""Read of a configuration; that of the largest network of the zoo takes 1 MiB."""

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


def load_keras_model(path: Path, *, uri: str) -> Any:
    """Load the network of a model file.

    Args:
        path: A local .keras file.
        uri: Where it comes from, for messages.

    Returns:
        A keras.Model.

    Raises:
        ModelError: The file is damaged, or has a class that no published model has.
        UsageError: It has a network of KerasHub, which is not installed.
    """
    check_classes(_read_config(path, uri), uri=uri)
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except Exception as err:  # whatever a wrong configuration leads to
        lines = str(err).splitlines()
        reason = lines[0] if lines else type(err).__name__
        raise ModelError(
            f"{uri} must be a Keras model; loading failed: {reason}. Train again."
        ) from err


def check_classes(config: Any, *, uri: str) -> None:
    """Check that a network consists of known classes; import KerasHub if it has one of its own.

    Args:
        config: The configuration of a network, as Keras serialises it.
        uri: Where it comes from, for messages.

    Raises:
        ModelError, UsageError: See `load_keras_model`.
    """
    for module, name in _classes(config):
        if module.startswith(_HUB_MODULES) and name in _HUB_CLASSES:
            import_keras_hub("of this model")
        elif name not in _CLASSES.get(module, frozenset()):
            raise ModelError(
                "A model must consist of layers that `repot` publishes; it was not loaded, because "
                f"it could run foreign code: {uri} has {printable(name)!r} of "
                f"{printable(module)!r}. Use a model that `repot` has trained, unchanged."
            )


def _read_config(path: Path, uri: str) -> Any:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_CONFIG_NAME) as file:
            return json.loads(file.read(_MAX_CONFIG_BYTES))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RecursionError) as err:
        raise ModelError(
            f"{uri} must be a Keras model; it is damaged: {err}. Train again."
        ) from err


def _classes(config: Any) -> Iterator[tuple[str, str]]:
    """Yield module and name of every class in a configuration."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield str(value.get("module") or ""), str(value["class_name"])
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
