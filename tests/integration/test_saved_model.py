"""The published model: the SavedModel without Keras and repot, and the model card's examples."""

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from repot import saved_model
from repot.classifier import (
    UnlikeScore,
    build_classifier,
    feature_network,
    normalise_features,
    published_linear_model,
    published_model,
)
from repot.evaluator.report.model_card import render_model_card
from repot.json_record import write_record
from repot.model_spec import ModelSpec, View
from repot.picture_ops.normalise import normalise
from repot.pictures import normalise_picture
from repot.predictor import load_model
from repot.preprocessing import central_crop, decode_jpeg, view_picture
from repot.records import encode_example
from repot.saved_model import export_saved_model
from tests.unit.evaluator.samples import make_outcome, make_report_data

DATA = Path(__file__).parent.parent / "golden"
PICTURES = [
    DATA / "build_image_data/data/train/daisy/img_00.jpg",
    DATA / "build_image_data/data/train/daisy/picture.png",
    DATA / "build_image_data/data/validation/sunflowers/progressive.jpeg",
    DATA / "build_image_data_dirty/data/train/b/anim.gif",
    DATA / "build_image_data_dirty/data/train/b/bitmap.bmp",
]
LABELS = ["daisy", "dandelion", "ein Gänseblümchen"]
SIZE = 64
SERVE = """
import json, sys
sys.modules.update(keras=None, repot=None)  # importing either raises ImportError
import tensorflow as tf
from pathlib import Path
model = tf.saved_model.load(sys.argv[1])
image_bytes = tf.constant([Path(path).read_bytes() for path in sys.argv[2:]])
outputs = model.signatures["serving_default"](image_bytes)
print(json.dumps({
    "names": sorted(outputs),
    "class_names": [[n.decode() for n in row] for row in outputs["class_names"].numpy()],
    "probabilities": outputs["probabilities"].numpy().tolist(),
}))
"""


@pytest.fixture(scope="module")
def model(lite0_weights_uri: str) -> Any:
    path = Path(lite0_weights_uri, "weights.h5")
    built = build_classifier(
        "efficientnet_lite0",
        num_classes=len(LABELS) + 1,
        image_size=SIZE,
        seed=0,
        weights_path=path,
    )
    kernel = built.get_layer("logits").kernel
    kernel.assign(np.random.default_rng(1).normal(size=kernel.shape, scale=0.1))
    return published_model(built)


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder, and picture.jpg in it."""
    folder = tmp_path_factory.mktemp("model")
    model.save(folder / "model.keras")
    export_saved_model(model, LABELS, folder / "saved_model")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    shutil.copy(PICTURES[0], folder / "picture.jpg")
    return folder


@pytest.fixture(scope="module")
def outputs(folder: Path) -> Any:
    """Return the outputs of the exported model in another process, and their names."""
    command = [sys.executable, "-c", SERVE, str(folder / "saved_model"), *map(str, PICTURES)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    return json.loads(done.stdout)


def test_exported_model_returns_labels_and_probabilities(outputs: Any) -> None:
    assert outputs["names"] == ["class_names", "probabilities"]
    assert outputs["class_names"] == [LABELS] * len(PICTURES)
    np.testing.assert_allclose(np.sum(outputs["probabilities"], axis=1), 1, rtol=1e-5)


def test_probabilities_of_the_exported_model_equal_those_of_the_model(
    outputs: Any, model: Any
) -> None:
    jpegs = [normalise_picture(path.read_bytes()).jpeg for path in PICTURES]
    pictures = np.stack([central_crop(decode_jpeg(jpeg), SIZE) for jpeg in jpegs])
    expected = np.asarray(model(pictures, training=False))

    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)


def test_every_signature_gives_the_same_probabilities(folder: Path, outputs: Any) -> None:
    saved = tf.saved_model.load(str(folder / "saved_model"))
    jpegs = [normalise_picture(path.read_bytes()).jpeg for path in PICTURES]
    records = [encode_example({"image/encoded": [jpeg], "image/width": [1]}) for jpeg in jpegs]

    pictures = np.stack([central_crop(decode_jpeg(jpeg), SIZE) for jpeg in jpegs])
    from_pixels = saved.signatures["pictures"](central=tf.constant(pictures))
    from_records = saved.signatures["classify"](inputs=tf.constant(records))

    np.testing.assert_allclose(from_pixels["probabilities"], outputs["probabilities"], atol=1e-6)
    np.testing.assert_array_equal(from_pixels["class_names"].numpy(), encode(LABELS))
    # The names that TensorFlow Serving's Classify API requires.
    np.testing.assert_allclose(from_records["scores"], outputs["probabilities"], atol=1e-6)
    np.testing.assert_array_equal(from_records["classes"].numpy(), encode(LABELS))


def encode(labels: list[str]) -> list[list[bytes]]:
    return [[label.encode() for label in labels]] * len(PICTURES)


def test_classify_signature_is_marked_for_the_classify_api(folder: Path) -> None:
    saved = SavedModel.FromString((folder / "saved_model" / "saved_model.pb").read_bytes())
    signatures = saved.meta_graphs[0].signature_def

    assert {name: each.method_name for name, each in signatures.items()} == {
        "__saved_model_init_op": "",
        "classify": "tensorflow/serving/classify",
        "pictures": "tensorflow/serving/predict",
        "serving_default": "tensorflow/serving/predict",
    }


def test_model_of_several_views_predicts_and_serves_the_same(tmp_path: Path) -> None:
    built = build_classifier("efficientnet_lite0", num_classes=3, image_size=SIZE, seed=0)
    network = feature_network(built, use_depths=True)
    kernel = np.random.default_rng(1).normal(size=(sum(network.sizes), len(LABELS)), scale=30)
    jpegs = [normalise_picture(path.read_bytes()).jpeg for path in PICTURES]
    pictures = np.stack([central_crop(decode_jpeg(jpeg), SIZE) for jpeg in jpegs])
    features = normalise_features(np.asarray(network.extractor(pictures)), network.sizes)
    bias = -np.mean(features @ kernel, axis=0)  # so that the labels differ between pictures
    views: tuple[View, ...] = ("central", "whole", "padded")
    spec = ModelSpec(
        backbone="efficientnet_lite0", image_size=SIZE, views=views, mirrored=True, temperature=0.7
    )
    unlike = UnlikeScore(mean=features.mean(axis=0), axes=features[:2].T / 2, threshold=0.01)
    model = published_linear_model(network, kernel, bias, spec=spec, unlike=unlike)
    model.save(tmp_path / "model.keras")
    export_saved_model(model, LABELS, tmp_path / "saved_model", spec=spec)
    (tmp_path / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    write_record(str(tmp_path / "model_spec.json"), spec)

    predicted, predicted_unlike = load_model(str(tmp_path)).predict(jpegs)
    serve = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    answers = serve(tf.constant(jpegs))
    served = answers["probabilities"].numpy()

    inputs = [
        np.stack([view_picture(decode_jpeg(jpeg), SIZE, view) for jpeg in jpegs]) for view in views
    ]
    assert np.ptp(predicted, axis=0).max() > 0.1
    np.testing.assert_allclose(predicted, np.asarray(model(inputs)["probabilities"]), atol=1e-6)
    np.testing.assert_allclose(served, predicted, atol=1e-6)
    assert np.ptp(predicted_unlike) > 0.1
    np.testing.assert_allclose(predicted_unlike, np.asarray(model(inputs)["unlike"]), atol=1e-3)
    np.testing.assert_allclose(answers["unlike"].numpy(), predicted_unlike, atol=1e-3)


def test_export_traces_the_model_once_and_saves_nothing_else(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = []

    def normalise_and_note(encoded: Any) -> Any:
        traced.append(encoded)
        return normalise(encoded)

    monkeypatch.setattr(saved_model, "normalise", normalise_and_note)
    export_saved_model(model, LABELS, tmp_path)

    loaded = tf.saved_model.load(str(tmp_path))
    assert len(traced) == 1
    assert sorted(loaded.signatures) == ["classify", "pictures", "serving_default"]
    assert len(loaded.model_variables) == len(model.variables)


def card_examples(language: str) -> list[str]:
    """Return the model card's code blocks of a language."""
    data = make_report_data([make_outcome(0, label, label) for label in LABELS], LABELS)
    card = render_model_card(data, model_name="flowers", version="v1")
    return re.findall(rf"^```{language}\n(.*?)^```", card, re.DOTALL | re.MULTILINE)


def test_examples_of_the_model_card_equal_repot_predict(folder: Path) -> None:
    picture = (folder / "picture.jpg").read_bytes()
    (expected,) = load_model(str(folder)).predict([picture]).probabilities
    (python,) = card_examples("python")
    predict, request = card_examples("sh")
    body, curl = request.split("|\n")

    done = subprocess.run(
        [sys.executable, "-c", python], check=True, stdout=subprocess.PIPE, cwd=folder
    )
    printed = subprocess.run(["bash", "-c", body], check=True, stdout=subprocess.PIPE, cwd=folder)
    (instance,) = json.loads(printed.stdout)["instances"]

    assert len(python.splitlines()) == 5
    label, probability = done.stdout.decode().rsplit(maxsplit=1)
    assert label == LABELS[expected.argmax()]
    assert float(probability) == pytest.approx(expected.max(), abs=1e-5)
    serve = tf.saved_model.load(str(folder / "saved_model")).signatures["serving_default"]
    assert list(serve.structured_input_signature[1]) == ["image_bytes"]  # _bytes: base64 in JSON
    served = serve(tf.constant([base64.b64decode(instance["b64"])]))
    np.testing.assert_allclose(served["probabilities"].numpy(), [expected], atol=1e-5)
    assert "http://localhost:8501/v1/models/flowers:predict" in curl
    assert predict == "repot predict . picture.jpg\n"
