"""A model file is data: foreign code and foreign files are refused by name, in bounded memory."""

import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from repot.errors import ModelError
from repot.keras_model import Build, Shapes, load_keras_model
from tests.rebuilt_models import without_config


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


def change_weights(path: Path, target: Path, edit: Callable[[Any], object]) -> Path:
    """Write a copy of a model file with other weights."""
    weights_path = target.with_suffix(".h5")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        weights_path.write_bytes(source.read("model.weights.h5"))
        with h5py.File(weights_path, "r+") as file:
            edit(file)
        for name in source.namelist():
            is_weights = name == "model.weights.h5"
            copy.writestr(name, weights_path.read_bytes() if is_weights else source.read(name))
    return target


def build(_check: Callable[[Shapes], None]) -> Any:
    """Return the network of `model_path`, as repot builds the networks of its own models."""
    pictures = keras.Input([8, 8, 3], name="pictures")
    features = keras.layers.GlobalAveragePooling2D(name="mean")(pictures)
    return keras.Model(pictures, keras.layers.Dense(2, name="head")(features))


# Of an earlier version, and of this one.
BUILDERS = [pytest.param(None, id="described"), pytest.param(build, id="rebuilt")]
both = pytest.mark.parametrize("builder", BUILDERS)


@both
def test_unchanged_model_is_loaded(model_path: Path, builder: Build | None) -> None:
    loaded = load_keras_model(model_path, uri="model.keras", build=builder)

    assert loaded.output_shape == (None, 2)
    expected = keras.models.load_model(model_path).get_weights()
    for weight, same in zip(loaded.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(weight, same)


def test_configuration_of_a_rebuilt_model_is_not_read(model_path: Path, tmp_path: Path) -> None:
    without_config(model_path, tmp_path / "model.keras")

    assert load_keras_model(tmp_path / "model.keras", uri="model.keras", build=build)
    with pytest.raises(ModelError, match=r"model\.keras must be a Keras model; it is damaged"):
        load_keras_model(tmp_path / "model.keras", uri="model.keras")


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


def test_class_under_another_registered_name_is_refused(model_path: Path, tmp_path: Path) -> None:
    """Keras prefers the class of the registered name: every package may register one."""

    @keras.saving.register_keras_serializable("evil")
    class Layer(keras.layers.Dense):  # type: ignore[misc]
        pass

    path = change(
        model_path,
        tmp_path / "model.keras",
        lambda layer: layer.update(registered_name="evil>Layer"),
    )
    with zipfile.ZipFile(path) as archive:
        built = keras.models.model_from_json(archive.read("config.json").decode())
    assert isinstance(built.layers[-1], Layer)

    with pytest.raises(ModelError, match=r"model\.keras has 'evil>Layer' of 'keras\.layers'"):
        load_keras_model(path, uri="model.keras")


@pytest.mark.parametrize("units", [10**10, 10**18])
def test_network_larger_than_its_file_is_not_built(
    model_path: Path, tmp_path: Path, units: int
) -> None:
    path = change(
        model_path, tmp_path / "model.keras", lambda layer: layer["config"].update(units=units)
    )

    with pytest.raises(ModelError, match=rf"Missing: head/kernel 3x{units}, head/bias {units}\."):
        load_keras_model(path, uri="model.keras")


KERNEL = "layers/dense/vars/0"
HUGE = 10**12


def replace_kernel(make: Callable[[Any], object]) -> Callable[[Any], None]:
    """Return the edit that deletes the kernel and makes another one in its group."""

    def edit(file: Any) -> None:
        del file[KERNEL]
        make(file[KERNEL.rpartition("/")[0]])

    return edit


def write_virtual(group: Any) -> None:
    layout = h5py.VirtualLayout((3, 2), np.float32)
    layout[:] = h5py.VirtualSource("/etc/hostname", "kernel", (3, 2))
    group.create_virtual_dataset("0", layout)


def write_declared(group: Any) -> None:
    """Declare an array that was never written: it takes no space in the file."""
    space = h5py.h5s.create_simple((HUGE,))
    h5py.h5d.create(group.id, b"0", h5py.h5t.NATIVE_FLOAT, space)


def nest(file: Any) -> None:
    group = file
    for _ in range(200):
        group = group.create_group("a")


WEIGHTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "external link": (
        replace_kernel(lambda group: group.update({"0": h5py.ExternalLink("x.h5", "/k")})),
        rf"'{KERNEL}' is a link",
    ),
    "external link to a group": (
        lambda file: file.update({"linked": h5py.ExternalLink("/etc/hostname", "/")}),
        "'linked' is a link",
    ),
    "soft link": (
        replace_kernel(lambda group: group.update({"0": h5py.SoftLink("/layers/dense/vars/1")})),
        rf"'{KERNEL}' is a link",
    ),
    "external storage": (
        replace_kernel(
            lambda group: group.create_dataset(
                "0", (3, 2), np.float32, external=[("/etc/passwd", 0, 24)]
            )
        ),
        rf"'{KERNEL}' lies in another file",
    ),
    "virtual": (replace_kernel(write_virtual), rf"'{KERNEL}' lies in another file"),
    "compressed": (
        replace_kernel(
            lambda group: group.create_dataset("0", (3, 2), np.float32, compression="gzip")
        ),
        rf"'{KERNEL}' lies in another file, or is compressed",
    ),
    "chunks of a huge array": (
        replace_kernel(
            lambda group: group.create_dataset("0", (HUGE,), np.float32, chunks=(1024,))
        ),
        rf"'{KERNEL}' lies in another file, or is compressed",
    ),
    "huge array": (
        replace_kernel(write_declared),
        rf"'{KERNEL}' has {4 * HUGE} bytes, more than the file has",
    ),
    "empty": (
        replace_kernel(lambda group: group.create_dataset("0", data=h5py.Empty(np.float32))),
        rf"'{KERNEL}' does not consist of numbers",
    ),
    "texts": (
        replace_kernel(lambda group: group.create_dataset("0", data=["a", "b"])),
        rf"'{KERNEL}' does not consist of numbers",
    ),
    "references": (
        replace_kernel(
            lambda group: group.create_dataset("0", data=group.ref, dtype=h5py.ref_dtype)
        ),
        rf"'{KERNEL}' does not consist of numbers",
    ),
    "group in itself": (
        lambda file: file["layers"].update({"again": file["layers"]}),
        "is not an array",
    ),
    "nested groups": (nest, "is not an array"),
    "name that a terminal obeys": (
        lambda file: file.update({"\x1b[31mred": h5py.SoftLink("/")}),
        r"'\\\\u001b\[31mred' is a link",
    ),
    "missing": (
        lambda file: file["layers/dense/vars"].pop("1"),
        r"it has 1 arrays\. Missing: head/bias 2\. Of no use: none\.",
    ),
    "added": (
        lambda file: file.create_dataset("more", data=np.zeros((4, 4), np.float32)),
        r"it has 3 arrays\. Missing: none\. Of no use: more 4x4\.",
    ),
    "other shape": (
        replace_kernel(lambda group: group.create_dataset("0", data=np.zeros((4, 2), np.float32))),
        r"Missing: head/kernel 3x2\. Of no use: ",
    ),
    "other name": (
        lambda file: file.move("layers/dense", "layers/dense_1"),
        r"Missing: layers/dense/vars/0 3x2, .*Of no use: layers/dense_1/vars/0 3x2, ",
    ),
}


@both
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_are_not_the_network_s_own_numbers_are_refused(
    kind: str, builder: Build | None, model_path: Path, tmp_path: Path
) -> None:
    edit, message = WEIGHTS[kind]
    path = change_weights(model_path, tmp_path / "model.keras", edit)

    with pytest.raises(ModelError, match=message) as raised:
        load_keras_model(path, uri="gs://b/model.keras", build=builder)

    assert "gs://b/model.keras" in str(raised.value)
    assert str(raised.value).isprintable()


MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
ARCHIVES = {
    "path outside": (*MEMBERS, "../evil"),
    "absolute path": (*MEMBERS, "/tmp/evil"),
    "assets": (*MEMBERS, "assets/vocabulary.txt"),
    "twice": (*MEMBERS, "config.json"),
    "without weights": MEMBERS[:2],
    "compressed": MEMBERS,
}


@both
@pytest.mark.parametrize("kind", ARCHIVES)
def test_archive_of_other_members_is_refused(
    kind: str, builder: Build | None, model_path: Path, tmp_path: Path
) -> None:
    path, method = tmp_path / "model.keras", zipfile.ZIP_STORED
    if kind == "compressed":  # at most a thousandfold: a bomb
        method = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(model_path) as source, zipfile.ZipFile(path, "w", method) as copy:
        for name in ARCHIVES[kind]:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Duplicate name", category=UserWarning)
                copy.writestr(name, source.read(name) if name in MEMBERS else b"")

    with pytest.raises(ModelError, match=r"model\.keras must consist of metadata\.json, config"):
        load_keras_model(path, uri="model.keras", build=builder)


@both
def test_member_that_declares_more_than_the_archive_has_is_refused(
    builder: Build | None, model_path: Path, tmp_path: Path
) -> None:
    data = bytearray(model_path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # that of the weights, the last one
    for place in (entry + 20, entry + 24):  # compressed and uncompressed size
        data[place : place + 4] = struct.pack("<I", 2**32 - 2)
    (tmp_path / "model.keras").write_bytes(data)

    with pytest.raises(ModelError, match=r"model\.keras must be a Keras model; it is damaged"):
        load_keras_model(tmp_path / "model.keras", uri="model.keras", build=builder)


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
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, "[" * 100_000)

    with pytest.raises(ModelError, match=r"model\.keras must be a Keras model; it is damaged"):
        load_keras_model(tmp_path / "model.keras", uri="model.keras")
