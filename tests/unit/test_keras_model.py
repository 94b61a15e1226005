"""A model file is data: one with foreign code is refused by name, before Keras sees it."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

from repot.errors import ModelError
from repot.keras_model import load_keras_model


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a small network."""
    pictures = keras.Input([8, 8, 3], name="pictures")
    features = keras.layers.GlobalAveragePooling2D(name="mean")(pictures)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    keras.Model(pictures, keras.layers.Dense(2, name="head")(features)).save(path)
    return path


def change(path: Path, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Write a copy of a model file with another configuration of its last layer."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            data = source.read(name)
            if name == "config.json":
                config = json.loads(data)
                edit(config["config"]["layers"][-1])
                data = json.dumps(config).encode()
            copy.writestr(name, data)
    return target


def test_unchanged_model_is_loaded(model_path: Path) -> None:
    assert load_keras_model(model_path, uri="model.keras").output_shape == (None, 2)


@pytest.mark.parametrize(
    ("module", "name", "config"),
    [
        ("keras.layers", "Lambda", {"function": {"class_name": "__lambda__", "config": {}}}),
        ("keras.layers", "TFSMLayer", {"filepath": "/tmp/foreign"}),
        ("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}),
        ("os", "system", "touch owned"),
        ("keras.src.utils.file_utils", "get_file", {"origin": "http://host.example"}),
        ("keras_hub.src.models.bert.bert_tokenizer", "BertTokenizer", {}),
        (None, "function", "relu"),
    ],
)
def test_foreign_class_is_refused_by_name(
    model_path: Path, tmp_path: Path, module: str | None, name: str, config: object
) -> None:
    def edit(layer: dict[str, Any]) -> None:
        layer["config"]["kernel_initializer"] = {
            "module": module,
            "class_name": name,
            "config": config,
        }

    path = change(model_path, tmp_path / "model.keras", edit)

    with pytest.raises(ModelError, match=rf"gs://b/model\.keras has .*{name}"):
        load_keras_model(path, uri="gs://b/model.keras")


@pytest.mark.parametrize(
    "edit",
    [
        lambda layer: layer.pop("config"),
        lambda layer: layer["config"].update(units="many"),
        lambda layer: layer["config"].update(foreign=[1]),
        lambda layer: layer.update(inbound_nodes=[{"args": 3}]),
        lambda layer: layer.update(name={}),
    ],
)
def test_wrong_configuration_is_one_message(
    model_path: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    path = change(model_path, tmp_path / "model.keras", edit)

    with pytest.raises(ModelError, match=r"model\.keras must be a Keras model; loading failed"):
        load_keras_model(path, uri="model.keras")


@pytest.mark.parametrize("size", [0, 100, -1])
def test_damaged_file_is_one_message(model_path: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(model_path.read_bytes()[:size])

    with pytest.raises(ModelError, match=r"model\.keras must be a Keras model; it is damaged"):
        load_keras_model(path, uri="model.keras")


def test_archive_without_a_configuration_is_one_message(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "[" * 100_000)

    with pytest.raises(ModelError, match=r"model\.keras must be a Keras model; it is damaged"):
        load_keras_model(tmp_path / "model.keras", uri="model.keras")
