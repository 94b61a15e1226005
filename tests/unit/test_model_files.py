"""Saved models: equal models give equal bytes."""

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from repot.model_files import make_reproducible


def build_model() -> Any:
    """Return a model in which two layers share an activation, as those of MobileNetV2 do."""
    shared = keras.layers.ReLU(6.0, name="shared")
    pictures = keras.Input([4], name="pictures")
    hidden = keras.layers.Dense(3, kernel_initializer="ones", activation=shared, name="a")(pictures)
    outputs = keras.layers.Dense(2, kernel_initializer="ones", activation=shared, name="b")(hidden)
    return keras.Model(pictures, outputs, name="model")


def save(folder: Path) -> Path:
    folder.mkdir()
    model = build_model()
    model.save(folder / "model.keras")
    tf.saved_model.save(model, str(folder / "saved_model"))
    return folder


def entry(folder: Path, name: str) -> bytes:
    with zipfile.ZipFile(folder / "model.keras") as archive:
        return archive.read(name)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return two folders with an equal model, saved at different times."""
    first = save(tmp_path / "first")
    monkeypatch.setattr("time.time", lambda: 1_000_000_000.0)
    return first, save(tmp_path / "second")


def test_equal_models_give_equal_bytes(folders: tuple[Path, Path]) -> None:
    names = [f"{path.relative_to(folders[0])}" for path in folders[0].rglob("*") if path.is_file()]
    different = ["model.keras", "saved_model/fingerprint.pb", "saved_model/saved_model.pb"]
    assert set(different) < set(names)
    for name in different:
        assert len({(folder / name).read_bytes() for folder in folders}) == 2

    for folder in folders:
        make_reproducible(folder)

    for name in names:
        assert len({(folder / name).read_bytes() for folder in folders}) == 1, name
    assert "date_saved" not in json.loads(entry(folders[0], "metadata.json"))


def test_repeated_rewrite_changes_nothing(folders: tuple[Path, Path]) -> None:
    make_reproducible(folders[0])
    before = {path: path.read_bytes() for path in folders[0].rglob("*") if path.is_file()}

    make_reproducible(folders[0])

    assert {path: path.read_bytes() for path in folders[0].rglob("*") if path.is_file()} == before


def test_rewritten_model_loads_with_its_weights(
    folders: tuple[Path, Path],
) -> None:
    inputs = np.full((1, 4), 0.25, np.float32)
    make_reproducible(folders[0])

    model = keras.models.load_model(folders[0] / "model.keras")

    assert model(inputs).numpy().tolist() == [[3.0, 3.0]]
    served = tf.saved_model.load(str(folders[0] / "saved_model"))
    assert served.signatures["serving_default"](inputs=inputs)
    fingerprint = tf.saved_model.experimental.read_fingerprint(str(folders[0] / "saved_model"))
    assert fingerprint.saved_model_checksum


def test_different_weights_give_different_bytes(folders: tuple[Path, Path]) -> None:
    model = keras.models.load_model(folders[1] / "model.keras")
    model.get_layer("a").set_weights([np.zeros((4, 3)), np.zeros(3)])
    model.save(folders[1] / "model.keras")

    for folder in folders:
        make_reproducible(folder)

    assert len({(folder / "model.keras").read_bytes() for folder in folders}) == 2
