from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from repot import zoo
from repot.backbone_weights import save_weights, stable_names
from repot.checkpoint_fetcher import weights_files
from repot.checkpoint_fetcher.fetch import convert_to_folder
from repot.checkpoint_fetcher.keras_file import read_keras_file
from repot.errors import CheckpointError

BACKBONE, SIZE = "mobilenet_v3_small", 32


def build(name: str = BACKBONE, size: int = SIZE, seed: int = 1) -> Any:
    """Return a backbone with random weights, so all arrays differ."""
    model = zoo.build_backbone(name, image_size=size)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.random(weight.shape, np.float32) for weight in model.weights])
    return model


def with_head(backbone: Any) -> Any:
    outputs = keras.layers.Dense(7)(keras.layers.BatchNormalization()(backbone.output))
    return keras.Model(backbone.input, outputs)


def wrapped(backbone: Any) -> Any:
    rescaling = keras.layers.Normalization(mean=[0.5] * 3, variance=[0.25] * 3)
    return keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), rescaling, backbone, keras.layers.Dense(7)]
    )


def plain(backbone: Any) -> Any:
    return backbone


def read(path: Path, scratch: Path, name: str = BACKBONE, size: int = SIZE) -> dict[str, Any]:
    found = weights_files.find_weights([path], scratch)
    assert found.kind == "keras"
    return read_keras_file(found.path, build(name, size, seed=2), backbone=name, scratch=scratch)


@pytest.mark.parametrize("shape", [plain, with_head, wrapped])
@pytest.mark.parametrize("file_name", ["model.weights.h5", "model.h5", "model.keras"])
def test_backbone_is_found_in_every_kind_of_keras_file(
    tmp_path: Path, file_name: str, shape: Callable[[Any], Any]
) -> None:
    backbone = build()
    model = shape(backbone)
    path = tmp_path / file_name
    model.save_weights(path) if ".weights." in file_name else model.save(path)

    arrays = read(path, tmp_path)

    assert list(arrays) == stable_names(backbone)
    for ours, theirs in zip(arrays.values(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_file_of_repot_is_read_by_name(tmp_path: Path) -> None:
    backbone = build()
    save_weights(
        tmp_path / "weights.h5",
        dict(zip(stable_names(backbone), backbone.get_weights(), strict=True)),
    )

    arrays = read(tmp_path / "weights.h5", tmp_path)

    for ours, theirs in zip(arrays.values(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def write_legacy(
    path: Path, layers: list[tuple[str, list[tuple[str, Any]]]], *, chunked: bool = False
) -> None:
    """Write the layout of Keras 1 and 2, which keras.applications publishes."""
    with h5py.File(path, "w") as file:
        names = [name.encode() for name, _ in layers]
        if chunked:
            file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:10], names[10:]
        else:
            file.attrs["layer_names"] = names
        for name, weights in layers:
            group = file.create_group(name)
            group.attrs["weight_names"] = [weight_name.encode() for weight_name, _ in weights]
            for weight_name, array in weights:
                group[weight_name] = array


def legacy_layers(
    model: Any, rename: Callable[[str], str]
) -> list[tuple[str, list[tuple[str, Any]]]]:
    return [
        (
            rename(layer.name),
            [(f"{rename(layer.name)}/{weight.name}:0", weight.numpy()) for weight in layer.weights],
        )
        for layer in model.layers
    ]


@pytest.mark.parametrize("chunked", [False, True])
def test_layers_with_other_names_match_by_order(tmp_path: Path, chunked: bool) -> None:
    backbone = build()
    layers = legacy_layers(backbone, lambda name: f"old_{name}")
    before, after = (
        ("norm", [("norm/mean:0", np.zeros(3))]),
        ("top", [("top/kernel:0", np.zeros((576, 7)))]),
    )
    write_legacy(tmp_path / "w.h5", [before, *layers, after], chunked=chunked)

    arrays = read(tmp_path / "w.h5", tmp_path)

    for ours, theirs in zip(arrays.values(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_automatically_named_layers_match_by_rank(tmp_path: Path) -> None:
    for _ in range(2):
        backbone = build("xception", 71)
    first, *_ = [layer.name for layer in backbone.layers if layer.name.startswith("conv2d")]
    assert first != "conv2d"
    # Keras 1 and 2 count from 1.
    write_legacy(tmp_path / "w.h5", legacy_layers(backbone, lambda name: name))

    arrays = read(tmp_path / "w.h5", tmp_path, "xception", 71)

    for ours, theirs in zip(arrays.values(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_layers_out_of_order_match_by_name(tmp_path: Path) -> None:
    """Keras 2 stores a partly frozen nested model with its trainable weights first."""
    backbone = build()
    layers = legacy_layers(backbone, lambda name: name)
    weights = [weight for _, weights in [*layers[100:], *layers[:100]] for weight in weights]
    write_legacy(
        tmp_path / "w.h5", [("mobilenet", weights), ("dense", [("dense/bias:0", np.zeros(3))])]
    )

    arrays = read(tmp_path / "w.h5", tmp_path)

    for ours, theirs in zip(arrays.values(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("file_name", ["model.weights.h5", "model.h5", "model.keras"])
def test_another_architecture_is_rejected_and_differences_are_listed(
    tmp_path: Path, file_name: str
) -> None:
    model = build("mobilenet_v3_large")
    model.save_weights(tmp_path / file_name) if ".weights." in file_name else model.save(
        tmp_path / file_name
    )

    with pytest.raises(
        CheckpointError,
        match=r"must fit the mobilenet_v3_small; \d+ of 206 arrays do not: .*; and \d+ more",
    ):
        read(tmp_path / file_name, tmp_path)


def test_array_with_another_shape_is_reported_with_both_shapes(tmp_path: Path) -> None:
    backbone = build()
    layers = legacy_layers(backbone, lambda name: name)
    layers[2][1][0] = ("conv/kernel:0", np.zeros((3, 3, 3, 8)))
    write_legacy(tmp_path / "w.h5", layers)

    with pytest.raises(
        CheckpointError,
        match=r"1 of 206 arrays do not: conv/kernel has shape 3x3x3x8, expected 3x3x3x16",
    ):
        read(tmp_path / "w.h5", tmp_path)


@pytest.mark.parametrize("fraction", [0.01, 0.9])
def test_truncated_file_is_rejected(tmp_path: Path, fraction: float) -> None:
    build().save_weights(tmp_path / "w.weights.h5")
    data = (tmp_path / "w.weights.h5").read_bytes()
    (tmp_path / "w.weights.h5").write_bytes(data[: int(len(data) * fraction)])

    with pytest.raises(
        CheckpointError, match=r"w\.weights\.h5 must be an intact Keras file; it cannot be read"
    ):
        read(tmp_path / "w.weights.h5", tmp_path)


def test_external_link_to_the_root_group_is_not_followed(tmp_path: Path) -> None:
    backbone = build()
    write_legacy(tmp_path / "secret.h5", legacy_layers(backbone, lambda name: name))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["model_weights"] = h5py.ExternalLink("secret.h5", "/")

    with pytest.raises(CheckpointError, match="206 of 206 arrays do not"):
        read(tmp_path / "w.h5", tmp_path)


@pytest.fixture(scope="module")
def own_model() -> Any:
    return build()


def external(group: Any, name: str, shape: tuple[int, ...], secret: Path) -> None:
    size = 4 * int(np.prod(shape))
    group.create_dataset(name, shape, np.float32, external=[(str(secret), 0, size)])


def virtual(group: Any, name: str, shape: tuple[int, ...], secret: Path) -> None:
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[:] = h5py.VirtualSource(str(secret), name, shape)
    group.create_virtual_dataset(name, layout)


def linked(group: Any, name: str, shape: tuple[int, ...], secret: Path) -> None:
    group[name] = h5py.ExternalLink(str(secret), name)


def declared(group: Any, name: str, shape: tuple[int, ...], secret: Path) -> None:
    group.create_dataset(name, (10**12,), np.float32, chunks=(1024,))


def texts(group: Any, name: str, shape: tuple[int, ...], secret: Path) -> None:
    group.create_dataset(name, shape, h5py.string_dtype())


MISSING = r"1 of 206 arrays do not: conv/kernel 3x3x3x16 is missing"
HOSTILE: dict[str, tuple[Callable[[Any, str, tuple[int, ...], Path], None], str]] = {
    "external storage": (external, MISSING),
    "virtual": (virtual, MISSING),
    "external link": (linked, MISSING),
    "huge": (declared, "conv/kernel has shape 1000000000000, expected 3x3x3x16"),
    "texts": (texts, r"must hold numbers; 1 arrays have none: conv/kernel\."),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_array_that_is_not_in_the_file_is_not_read(
    kind: str, own_model: Any, tmp_path: Path
) -> None:
    secret, path = tmp_path / "secret.h5", tmp_path / "w.h5"
    arrays = dict(zip(stable_names(own_model), own_model.get_weights(), strict=True))
    for each in (secret, path):
        save_weights(each, arrays)
    make, message = HOSTILE[kind]
    with h5py.File(path, "r+") as file:
        shape = file["conv/kernel"].shape
        del file["conv/kernel"]
        make(file, "conv/kernel", shape, secret)

    with pytest.raises(CheckpointError, match=message):
        convert_to_folder(
            str(path), backbone=BACKBONE, values="auto", folder_uri=str(tmp_path / "folder")
        )

    assert not list(tmp_path.rglob("checkpoint.json"))


def test_group_of_another_file_is_not_read(own_model: Any, tmp_path: Path) -> None:
    layers = legacy_layers(own_model, lambda name: name)
    write_legacy(tmp_path / "secret.h5", layers)
    write_legacy(tmp_path / "w.h5", layers)
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        del file["conv"]
        file["conv"] = h5py.ExternalLink("secret.h5", "/conv")

    with pytest.raises(CheckpointError, match=r"w\.h5 must be an intact Keras file"):
        read_keras_file(tmp_path / "w.h5", own_model, backbone=BACKBONE, scratch=tmp_path)
