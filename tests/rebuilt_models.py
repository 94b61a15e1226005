"""Check that repot rebuilds a published model exactly, from its own code and the weights alone."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from repot.predictor import load_model

FILES = ("labels.txt", "model_spec.json")


def assert_rebuilt_exactly(folder: Path, scratch: Path) -> None:
    """Compare what `load_model` loads with what Keras reads from the file, bit by bit.

    Args:
        folder: A published model.
        scratch: A new folder, for a copy whose configuration is unreadable.
    """
    scratch.mkdir()
    for name in FILES:
        shutil.copy(folder / name, scratch / name)
    without_config(folder / "model.keras", scratch / "model.keras")
    expected = keras.models.load_model(folder / "model.keras", compile=False)

    rebuilt = load_model(str(scratch)).network

    assert [tuple(each.shape) for each in rebuilt.inputs] == [
        tuple(each.shape) for each in expected.inputs
    ]
    draw = np.random.default_rng(0)
    pictures = [draw.random((3, *each.shape[1:]), np.float32) for each in expected.inputs]
    answers, expected_answers = (outputs(each, pictures) for each in (rebuilt, expected))
    assert len(answers) == len(expected_answers)
    for answer, expected_answer in zip(answers, expected_answers, strict=True):
        assert np.ptp(expected_answer) > 0
        np.testing.assert_array_equal(answer, expected_answer)
    for weight, same in zip(expected.weights, rebuilt.weights, strict=True):
        np.testing.assert_array_equal(same.numpy(), weight.numpy())


def without_config(path: Path, target: Path) -> None:
    """Copy a model file, with a configuration that nobody can read."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, b"{" if name == "config.json" else source.read(name))


def outputs(model: Any, pictures: list[Any]) -> list[Any]:
    answers = model(pictures if len(pictures) > 1 else pictures[0], training=False)
    values = answers.values() if isinstance(answers, dict) else [answers]
    return [np.asarray(value) for value in values]
