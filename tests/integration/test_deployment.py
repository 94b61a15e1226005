"""Exports behind servers and in the examples of docs/deploy.md answer as `repot predict` does."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repot.evaluator.export_record import ExportRecord
from repot.evaluator.exports.convert import convert
from repot.json_record import write_record
from repot.model_spec import ModelSpec
from repot.pictures import normalise_picture
from repot.predictor import Scores, load_model
from repot.records import encode_example
from tests.conftest import free_port

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
PICTURE = ROOT / "tests/golden/build_image_data/data/train/daisy/img_00.jpg"
PNG = ROOT / "tests/golden/build_image_data/data/train/daisy/picture.png"
LABELS = ["daisy", "rose", "ein Gänseblümchen"]
SPEC = ModelSpec(backbone="", image_size=32, views=("central", "whole", "padded"))


def examples(language: str = "python") -> list[str]:
    """Return the page's code blocks: REST, gRPC, V2, V2 over gRPC, preprocessing, LiteRT, ONNX."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a published model of three views, whose answers depend on each of them."""
    import keras

    folder = tmp_path_factory.mktemp("model")
    views = [keras.Input([32, 32, 3], name=view) for view in SPEC.views]
    convolution = keras.layers.Conv2D(8, 5, strides=2, activation="relu", use_bias=False)
    parts = [keras.layers.GlobalAveragePooling2D()(convolution(view)) for view in views]
    features = keras.layers.Concatenate()(parts)
    head = keras.layers.Dense(3, activation="softmax", name="probabilities")
    score = keras.layers.Dense(1, name="unlike_distance")
    outputs = {
        "probabilities": head(features),
        "unlike": keras.ops.sum(score(features), axis=1),
    }
    model = keras.Model(views, outputs)
    rng = np.random.default_rng(0)
    for layer in (convolution, head, score):
        layer.set_weights([rng.normal(size=each.shape, scale=0.4) for each in layer.get_weights()])
    model.save(folder / "model.keras")
    write_record(str(folder / "model_spec.json"), SPEC)
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS), "utf-8")
    return folder


@pytest.fixture(scope="module")
def expected(model_folder: Path) -> Scores:
    """Return the scores of `repot predict` for the JPEG and the PNG."""
    jpegs = [normalise_picture(path.read_bytes()).jpeg for path in (PICTURE, PNG)]
    scores = load_model(str(model_folder)).predict(jpegs)
    assert np.ptp(scores.probabilities, axis=0).max() > 0.05
    return scores


@pytest.fixture(scope="module")
def served_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    convert("saved_model", str(model_folder), "", folder)
    shutil.copy(PICTURE, folder / "picture.jpg")
    return folder


def serving(command: list[str], ready_url: str) -> Iterator[None]:
    """Run a server until the generator is closed."""
    environment = {**os.environ, "PYTHONPATH": ""}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            while True:
                try:
                    urllib.request.urlopen(ready_url).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    if process.poll() is not None:
                        pytest.fail(process.stderr.read() if process.stderr else "")
                    time.sleep(0.1)
            yield
        finally:
            process.kill()


@pytest.fixture(scope="module")
def tensorflow_serving(served_folder: Path) -> Iterator[tuple[int, int]]:
    """Return the ports of a server of REST and gRPC."""
    pytest.importorskip("tensorflow_serving", reason="pip install tensorflow-serving-api")
    ports = free_port(), free_port()
    program = Path(__file__).with_name("saved_model_server.py")
    command = [sys.executable, str(program), str(served_folder), "flowers", *map(str, ports)]
    for _ in serving(command, f"http://127.0.0.1:{ports[0]}/v1/models/flowers"):
        yield ports


def run_example(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/deploy.md", "exec"), names)  # as a reader would
    return names


def test_rest_and_grpc_examples_answer_as_repot_predict(
    tensorflow_serving: tuple[int, int],
    served_folder: Path,
    expected: Scores,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rest_port, grpc_port = tensorflow_serving
    rest = examples()[0].replace("localhost:8501", f"localhost:{rest_port}")
    grpc = examples()[1].replace("localhost:8500", f"localhost:{grpc_port}")

    names = run_example(rest, served_folder, monkeypatch)
    from_grpc = run_example(grpc, served_folder, monkeypatch)

    answer = names["answer"]
    assert answer["class_names"] == LABELS
    np.testing.assert_allclose(answer["probabilities"], expected.probabilities[0], atol=1e-6)
    assert answer["unlike"] == pytest.approx(expected.unlike[0], abs=1e-5)
    assert [label for label, _ in names["scores"]] == LABELS
    np.testing.assert_allclose(
        [score for _, score in names["scores"]], expected.probabilities[0], atol=1e-6
    )
    np.testing.assert_allclose(from_grpc["probabilities"], expected.probabilities[0], atol=1e-6)


def post(url: str, body: object) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as response:
            return json.load(response)
    except urllib.error.HTTPError as err:
        return json.load(err)


def read_pictures() -> dict[str, Any]:
    """Return the views of both pictures: float32 [2, 32, 32, 3] each."""
    from repot.preprocessing import decode_jpeg, view_picture

    pictures = [decode_jpeg(normalise_picture(path.read_bytes()).jpeg) for path in (PICTURE, PNG)]
    return {
        view: np.stack([view_picture(picture, 32, view) for picture in pictures])
        for view in SPEC.views
    }


def test_rest_takes_batches_tensors_and_columns_and_refuses_the_rest(
    tensorflow_serving: tuple[int, int], expected: Scores
) -> None:
    url = f"http://127.0.0.1:{tensorflow_serving[0]}/v1/models/flowers"
    encoded = [{"b64": base64.b64encode(path.read_bytes()).decode()} for path in (PICTURE, PNG)]
    views = {view: pixels.tolist() for view, pixels in read_pictures().items()}

    in_rows = post(f"{url}:predict", {"instances": encoded})["predictions"]
    in_columns = post(f"{url}:predict", {"inputs": {"image_bytes": encoded}})["outputs"]
    tensors = post(f"{url}:predict", {"signature_name": "pictures", "inputs": views})["outputs"]

    for answer in ([row["probabilities"] for row in in_rows], in_columns["probabilities"]):
        np.testing.assert_allclose(answer, expected.probabilities, atol=1e-6)
    np.testing.assert_allclose(tensors["probabilities"], expected.probabilities, atol=1e-6)
    webp = {"b64": base64.b64encode(b"RIFF....WEBPVP8 ").decode()}
    refused = post(f"{url}:predict", {"instances": [webp]})["error"]
    assert "A picture in image_bytes must be accepted by the model" in refused
    wrong = post(f"{url}:classify", {"examples": [{"image/encoded": encoded[0]}]})["error"]
    assert "Expected classification signature method_name" in wrong


def test_grpc_classifies_the_records_of_a_shard(
    tensorflow_serving: tuple[int, int], expected: Scores
) -> None:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import classification_pb2, prediction_service_pb2_grpc

    jpeg = normalise_picture(PICTURE.read_bytes()).jpeg
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "flowers", "classify"
    record = encode_example({"image/encoded": [jpeg], "image/class/label": [1]})
    request.input.example_list.examples.append(tf.train.Example.FromString(record))
    channel = grpc.insecure_channel(f"127.0.0.1:{tensorflow_serving[1]}")

    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Classify(request)

    channel.close()
    (row,) = answer.result.classifications
    assert [each.label for each in row.classes] == LABELS
    scores = [each.score for each in row.classes]
    np.testing.assert_allclose(scores, expected.probabilities[0], atol=1e-6)


@pytest.mark.slow
def test_kserve_server_answers_v2_requests_as_repot_predict(
    served_folder: Path, expected: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kserve", reason="pip install kserve")
    port, grpc_port = free_port(), free_port()
    command = [
        *(sys.executable, str(ROOT / "examples" / "kserve_v2.py")),
        *("--model_name", "flowers", "--model_dir", str(served_folder / "1")),
        *("--http_port", str(port), "--grpc_port", str(grpc_port)),
    ]
    url = f"http://127.0.0.1:{port}/v2/models/flowers"
    code = examples()[2].replace("localhost:8080", f"localhost:{port}")
    grpc_code = examples()[3].replace("localhost:8081", f"localhost:{grpc_port}")
    views = read_pictures()
    tensors = [
        {"name": view, "datatype": "FP32", "shape": list(each.shape), "data": each.ravel().tolist()}
        for view, each in views.items()
    ]

    for _ in serving(command, f"{url}/ready"):
        names = run_example(code, served_folder, monkeypatch)
        over_grpc = run_example(grpc_code, served_folder, monkeypatch)
        from_tensors = post(f"{url}/infer", {"id": "7", "inputs": tensors})

    np.testing.assert_allclose(names["probabilities"], expected.probabilities[0], atol=1e-6)
    np.testing.assert_allclose(over_grpc["probabilities"], expected.probabilities[0], atol=1e-6)
    labels = over_grpc["outputs"]["class_names"].bytes_contents
    assert [label.decode() for label in labels] == LABELS == names["outputs"]["class_names"]
    assert names["outputs"]["unlike"] == pytest.approx([expected.unlike[0]], abs=1e-5)
    outputs = {each["name"]: each for each in from_tensors["outputs"]}
    assert (from_tensors["id"], outputs["probabilities"]["shape"]) == ("7", [2, 3])
    np.testing.assert_allclose(
        outputs["probabilities"]["data"], expected.probabilities.ravel(), atol=1e-6
    )


@pytest.mark.parametrize("export_format", ["litert", "litert-int8", "onnx"])
def test_examples_without_tensorflow_answer_as_repot_predict(
    export_format: str,
    model_folder: Path,
    sample_dataset_uri: str,
    expected: Scores,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules = {"litert": ["ai_edge_litert"], "onnx": ["onnxruntime", "tf2onnx"]}
    for module in modules[export_format.partition("-")[0]]:
        pytest.importorskip(module, reason="make venv EXTRAS=litert,onnx")
    folder = model_folder / export_format
    folder.mkdir()
    conversion = convert(export_format, str(model_folder), sample_dataset_uri, folder)
    record = ExportRecord(
        export_id="e1", format=export_format, dataset_id="d1", conversion=conversion
    )
    write_record(str(folder / "export.json"), record)
    shutil.copy(PICTURE, folder / "picture.jpg")

    code = examples()[4] + examples()[6 if export_format == "onnx" else 5]
    probabilities = run_example(code, folder, monkeypatch)["probabilities"]

    # Pillow decodes a JPEG a little differently from TensorFlow.
    tolerance = 0.03 if export_format == "litert-int8" else 0.01
    np.testing.assert_allclose(probabilities.reshape(3), expected.probabilities[0], atol=tolerance)


def test_example_makes_the_same_views_of_the_same_pixels(tmp_path: Path) -> None:
    import tensorflow as tf
    from PIL import Image

    from repot.preprocessing import to_unit_range, view_picture

    names: dict[str, Any] = {}
    exec(examples()[4].partition("export = ")[0], names)
    for width, height in ((97, 64), (31, 200), (5, 3), (33, 33)):
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "picture.png")
        picture = to_unit_range(tf.constant(pixels))
        for side in (32, 224):
            spec = {"image_size": side, "views": SPEC.views}
            made = names["read_views"](tmp_path / "picture.png", spec)
            for view in SPEC.views:
                np.testing.assert_allclose(
                    made[view], view_picture(picture, side, view), atol=2e-5, err_msg=view
                )
