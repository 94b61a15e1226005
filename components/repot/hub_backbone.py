"""Networks of KerasHub: read from a preset, built for any image size, with pooled features.

A preset is a folder of KerasHub: config.json is the architecture, image_converter.json how pixels
become inputs, model.weights.h5 the weights. Its class must be that of the backbone in the zoo's
table, and only plain numbers and texts of its configuration are used: a preset is data, not code.
The architecture is kept as an attribute of the backbone's weights file, see
`repot.backbone_weights`.

KerasHub is an optional package, the extra `hub`. Importing this module imports neither it nor
TensorFlow nor h5py.
"""

import json
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repot.errors import CheckpointError, UsageError, printable
from repot.extras import install_command
from repot.json_record import JsonRecord, RecordError

CONFIG_NAME = "config.json"
CONVERTER_NAME = "image_converter.json"
PREPROCESSOR_NAME = "preprocessor.json"
PRESET_WEIGHTS_NAME = "model.weights.h5"
PRESET_NAMES = (CONFIG_NAME, CONVERTER_NAME, PREPROCESSOR_NAME, PRESET_WEIGHTS_NAME)
"""The files of a preset that repot reads; the others are for texts and tasks."""

_ARCHITECTURE = "architecture"
# Not part of an architecture, or decided by repot: layers drop nothing, because their random
# numbers would not be repot's.
_IGNORED = ("dtype", "name", "trainable", "data_format", "image_shape")
_DROPOUTS = ("dropout", "dropout_rate", "attention_dropout", "drop_path", "drop_path_rate")
_DINOV3 = "DINOV3Backbone"
# The largest preset has 40 layers, and dimensions of 6144.
_MAX_NUMBER, _MAX_DEPTH, _MAX_ITEMS = 1 << 16, 512, 64
_DEPTH_WORDS = ("layers", "blocks", "depths")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubArchitecture(JsonRecord):
    """What the network of a preset is.

    Attributes:
        class_name: Its class in keras_hub.models.
        config: JSON of the class's arguments, image shape excluded.
        image_size: Height and width in pixels that the weights are for.
        scale, offset: An input is `scale * x + offset` for pictures x in [0, 1], per channel.
    """

    class_name: str
    config: str
    image_size: int
    scale: tuple[float, ...]
    offset: tuple[float, ...]


def is_preset(names: Iterable[str]) -> bool:
    """Return whether a folder with files of these names is a preset."""
    return {CONFIG_NAME, PRESET_WEIGHTS_NAME} <= set(names)


def import_keras_hub(backbone: str) -> types.ModuleType:
    """Import KerasHub.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import keras_hub
    except ImportError as err:
        raise UsageError(
            f"backbone {backbone} needs KerasHub; it cannot be imported ({err}). "
            f"Install it with {install_command('hub')}."
        ) from err
    module: types.ModuleType = keras_hub
    return module


def read_preset(folder: Path, *, class_name: str, backbone: str) -> HubArchitecture:
    """Read the architecture of a preset.

    Args:
        folder: Local folder of the preset.
        class_name: Class that the preset must have.
        backbone: Name of the backbone, for messages.

    Raises:
        CheckpointError: A file is missing or invalid, or the preset is of another class.
    """
    config = _class_config(folder, CONFIG_NAME)
    # A preset of SigLIP has two networks, for pictures and for texts.
    vision = config["config"].get("vision_encoder")
    if isinstance(vision, dict) and vision.get("class_name") == class_name:
        config = vision
    if config["class_name"] != class_name:
        hint = (
            "DINOv3 is not supported: its licence restricts what models may be used for"
            if config["class_name"] == _DINOV3
            else "Choose the backbone of that class"
        )
        raise CheckpointError(
            f"{folder}/{CONFIG_NAME} must describe a {class_name} for backbone={backbone}; got "
            f"{config['class_name']!r}. {hint}."
        )
    arguments = config["config"]
    size = arguments.get("image_shape", [0])[0]
    plain = {
        name: 0.0 if name in _DROPOUTS else value
        for name, value in arguments.items()
        if name not in _IGNORED
    }
    if not isinstance(size, int) or size < 1:
        raise CheckpointError(
            f"{folder}/{CONFIG_NAME} must have an image_shape of numbers; got {size!r}. Use a "
            "preset that KerasHub has saved."
        )
    _check_arguments(plain, source=f"{folder}/{CONFIG_NAME}")
    scale, offset = _read_scaling(folder)
    return HubArchitecture(
        class_name=class_name,
        config=json.dumps(plain, sort_keys=True),
        image_size=size,
        scale=scale,
        offset=offset,
    )


def build_network(architecture: HubArchitecture, *, image_size: int, backbone: str) -> Any:
    """Build the keras_hub network with random weights.

    Raises:
        UsageError: KerasHub is missing, or the image size does not suit the network.
        CheckpointError: The arguments are invalid.
    """
    models = import_keras_hub(backbone).models
    arguments = _read_arguments(architecture)
    patches = arguments.get("patch_size", 1)
    patch = patches[0] if isinstance(patches, list) and patches else patches
    if isinstance(patch, int) and patch > 0 and image_size % patch:
        raise UsageError(
            f"image_size must be a multiple of {patch}, the patch size of this {backbone}; got "
            f"image_size={image_size}. Use {max(1, round(image_size / patch)) * patch}."
        )
    try:
        network = getattr(models, architecture.class_name)(
            **arguments, image_shape=(image_size, image_size, 3), name=backbone
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as err:
        raise CheckpointError(
            f"The preset must describe a {architecture.class_name} for pictures of {image_size} "
            f"pixels; KerasHub refuses it: {err}. Use its own image size "
            f"({architecture.image_size}), or another preset."
        ) from err
    for layer in network._flatten_layers():
        if hasattr(layer, "seed_generator"):
            layer.seed_generator.state.assign([0, 0])
    for weight in network.weights:
        # Only pre-training uses it, so it would have no gradient.
        if weight.path.endswith("/mask_token"):
            weight.trainable = False
    return network


def build_hub_backbone(
    architecture: HubArchitecture, *, image_size: int, pooling: str, backbone: str
) -> Any:
    """Build the network with its input scaling and pooled features, with random weights.

    Args:
        architecture: See `read_preset`.
        image_size: Height and width of its input in pixels.
        pooling: "token" takes the first token, "mean" averages tokens or places, "none" is for a
            network that pools by itself.
        backbone: Name of the backbone.

    Returns:
        A keras.Model: float32 [batch, image_size, image_size, 3] in [0, 1] -> float32 [batch,
        features].

    Raises:
        UsageError, CheckpointError: See `build_network`.
    """
    import keras

    network = build_network(architecture, image_size=image_size, backbone=backbone)
    pictures = keras.Input([image_size, image_size, 3], name="pictures")
    scale, offset = list(architecture.scale), list(architecture.offset)
    scaled = keras.layers.Rescaling(scale, offset, name="hub_rescale")(pictures)
    outputs = network({"images": scaled} if isinstance(network.input, dict) else scaled)
    if outputs.shape.count(None) > 1:
        raise CheckpointError(
            f"The preset must give features of a known size; got {outputs.shape}."
        )
    if pooling == "token":
        first = keras.layers.Cropping1D((0, outputs.shape[1] - 1), name="first_token")(outputs)
        outputs = keras.layers.Flatten(name="features")(first)
    elif pooling == "mean":
        pool = "GlobalAveragePooling1D" if len(outputs.shape) == 3 else "GlobalAveragePooling2D"
        outputs = getattr(keras.layers, pool)(name="features")(outputs)
    return keras.Model(pictures, outputs, name=f"{backbone}_features")


def save_architecture(weights_path: Path, architecture: HubArchitecture) -> None:
    """Add the architecture to a weights file."""
    import h5py

    with h5py.File(weights_path, "r+") as file:
        file.attrs[_ARCHITECTURE] = architecture.to_text()


def load_architecture(weights_path: Path) -> HubArchitecture:
    """Return the architecture in a weights file.

    Raises:
        CheckpointError: It has none, or a damaged one.
    """
    import h5py

    try:
        with h5py.File(weights_path, "r") as file:
            text = file.attrs.get(_ARCHITECTURE)
        if not isinstance(text, str):
            raise RecordError("it has none")
        return HubArchitecture.from_text(text)
    # h5py raises several of these for a damaged file.
    except (OSError, RuntimeError, TypeError, ValueError) as err:
        raise CheckpointError(
            f"{weights_path} must hold the architecture of a KerasHub preset; {err}. "
            "Convert the checkpoint again."
        ) from err


def _class_config(folder: Path, name: str) -> dict[str, Any]:
    """Return the serialized class in a file of a preset: class_name, config and others."""
    path = folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise CheckpointError(
            f"A KerasHub preset must have a valid {name}; {path} cannot be read: {err}. "
            "Use a folder that KerasHub has saved."
        ) from err
    is_class = isinstance(value, dict) and isinstance(value.get("config"), dict)
    if not is_class or not isinstance(value.get("class_name"), str):
        raise CheckpointError(
            f"A KerasHub preset must have a valid {name}; {path} describes no class. "
            "Use a folder that KerasHub has saved."
        )
    found: dict[str, Any] = value
    return found


def _read_scaling(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return scale and offset for pictures in [0, 1]; the converter's are for 0..255."""
    if (folder / CONVERTER_NAME).is_file() or not (folder / PREPROCESSOR_NAME).is_file():
        converter: Mapping[str, Any] = _class_config(folder, CONVERTER_NAME)["config"]
    else:
        nested = _class_config(folder, PREPROCESSOR_NAME)["config"].get("image_converter")
        converter = nested.get("config", {}) if isinstance(nested, dict) else {}
    scale, offset = converter.get("scale"), converter.get("offset")
    # KerasHub takes None for "no change".
    scales = _three(1.0 if scale is None else scale)
    offsets = _three(0.0 if offset is None else offset)
    if not scales or not offsets:
        raise CheckpointError(
            f"{folder}/{CONVERTER_NAME} must have a scale and an offset of one or three numbers; "
            f"got {scale!r} and {offset!r}. Use a preset that KerasHub has saved."
        )
    return tuple(255 * each for each in scales), offsets


def _three(value: object) -> tuple[float, ...]:
    """Return a number for each channel; () if the value is neither one number nor three."""
    values = value if isinstance(value, list) else [value] * 3
    numbers = [
        float(each)
        for each in values
        if isinstance(each, int | float) and not isinstance(each, bool)
    ]
    return tuple(numbers) if len(numbers) == len(values) == 3 else ()


def _read_arguments(architecture: HubArchitecture) -> dict[str, Any]:
    """Return the arguments of the class, which a stranger may have written."""
    source = f"The architecture of the {architecture.class_name}"
    try:
        arguments = json.loads(architecture.config)
    except (ValueError, RecursionError) as err:
        raise CheckpointError(
            f"{source} must be JSON; {err}. Convert the checkpoint again."
        ) from err
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{source} must be a JSON object. Convert the checkpoint again.")
    _check_arguments(arguments, source=source)
    return arguments


def _check_arguments(arguments: Mapping[str, Any], *, source: str) -> None:
    """Check that arguments are data, and describe a network that can be built in bounded time."""
    for name, value in arguments.items():
        is_depth = any(word in name for word in _DEPTH_WORDS)
        largest = _MAX_DEPTH if is_depth else _MAX_NUMBER
        if not _is_plain(value, largest):
            raise CheckpointError(
                f"{source} must have arguments that are numbers, texts or lists of them, numbers "
                f"at most {largest}; got {printable(name)}={printable(repr(value)[:80])}. Use a "
                "preset that KerasHub has saved."
            )


def _is_plain(value: object, largest: int, max_nested: int = 2) -> bool:
    if isinstance(value, list):
        return (
            max_nested > 0
            and len(value) <= _MAX_ITEMS
            and all(_is_plain(each, largest, max_nested - 1) for each in value)
        )
    if isinstance(value, int | float):
        return abs(value) <= largest
    return value is None or isinstance(value, str)
