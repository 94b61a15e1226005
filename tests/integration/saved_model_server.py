"""A small server with the API of TensorFlow Serving, whose own program no package registry has.

    python tests/integration/saved_model_server.py MODEL_BASE_PATH NAME REST_PORT GRPC_PORT

It serves the SavedModel in the folder with the largest number, without Keras and repot. gRPC uses
the service of the package tensorflow-serving-api, which is built from TensorFlow Serving's own
definitions. REST follows https://www.tensorflow.org/tfx/serving/api_rest: instances in rows or
inputs in columns, {"b64": text} for bytes. What it checks of a signature for Classify is what
servables/tensorflow/classifier.cc checks.
"""

import base64
import json
import sys
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.classification_pb2 import ClassificationResponse
from tensorflow_serving.apis.predict_pb2 import PredictResponse

CLASSIFY_METHOD = "tensorflow/serving/classify"


class Served:
    """The signatures of a SavedModel."""

    def __init__(self, base_path: Path) -> None:
        folders = [path for path in base_path.iterdir() if path.name.isdigit()]
        folder = max(folders, key=lambda path: int(path.name))
        self.version = int(folder.name)
        self._signatures = tf.saved_model.load(str(folder)).signatures
        saved = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        self._methods = {
            name: each.method_name for name, each in saved.meta_graphs[0].signature_def.items()
        }

    def run(self, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs of a signature as NumPy arrays."""
        signature = self._signatures[name or "serving_default"]
        specs = signature.structured_input_signature[1]
        if set(inputs) != set(specs):
            raise ValueError(f"input names are {sorted(inputs)}, expected {sorted(specs)}")
        tensors = {key: tf.constant(value, specs[key].dtype) for key, value in inputs.items()}
        return {key: value.numpy() for key, value in signature(**tensors).items()}

    def classify(self, name: str, examples: list[bytes]) -> list[list[tuple[str, float]]]:
        """Return labels and scores of each example."""
        method = self._methods[name or "serving_default"]
        if method != CLASSIFY_METHOD:
            raise ValueError(f"Expected classification signature method_name; got {method}")
        outputs = self.run(name, {"inputs": examples})
        return [
            [(label.decode(), float(score)) for label, score in zip(*row, strict=True)]
            for row in zip(outputs["classes"], outputs["scores"], strict=True)
        ]


def from_json(value: Any) -> Any:
    """Return a JSON value with bytes for {"b64": text}."""
    if isinstance(value, dict) and set(value) == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, dict):
        return {key: from_json(each) for key, each in value.items()}
    return [from_json(each) for each in value] if isinstance(value, list) else value


def to_json(value: Any) -> Any:
    """Return a NumPy array as JSON, strings as text."""
    if value.dtype == object:
        return [each.decode() if isinstance(each, bytes) else to_json(each) for each in value]
    return value.tolist()


def predict(served: Served, body: dict[str, Any]) -> dict[str, Any]:
    """Answer POST :predict."""
    name = body.get("signature_name", "serving_default")
    inputs = served._signatures[name].structured_input_signature[1]
    if "inputs" in body:
        columns = from_json(body["inputs"])
        columns = columns if isinstance(columns, dict) else {next(iter(inputs)): columns}
        outputs = {key: to_json(each) for key, each in served.run(name, columns).items()}
        return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
    rows = from_json(body["instances"])
    rows = [row if isinstance(row, dict) else {next(iter(inputs)): row} for row in rows]
    outputs = served.run(name, {key: [row[key] for row in rows] for key in rows[0]})
    answers = [
        {key: to_json(each[i : i + 1])[0] for key, each in outputs.items()}
        for i in range(len(rows))
    ]
    return {"predictions": answers}


def classify(served: Served, body: dict[str, Any]) -> dict[str, Any]:
    """Answer POST :classify."""
    examples = []
    for fields in from_json(body["examples"]):
        example = tf.train.Example()
        for key, value in fields.items():
            example.features.feature[key].bytes_list.value.append(value)
        examples.append(example.SerializeToString())
    return {"results": served.classify(body.get("signature_name", ""), examples)}


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """Predict and Classify over gRPC."""

    def __init__(self, served: Served, name: str) -> None:
        self._served, self._name = served, name

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        """Answer Predict."""
        self._check(request, context)
        inputs = {key: tf.make_ndarray(each) for key, each in request.inputs.items()}
        outputs = self._served.run(request.model_spec.signature_name, inputs)
        response = PredictResponse()
        for key, value in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response

    def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer Classify."""
        self._check(request, context)
        examples = [each.SerializeToString() for each in request.input.example_list.examples]
        response = ClassificationResponse()
        for row in self._served.classify(request.model_spec.signature_name, examples):
            classes = response.result.classifications.add()
            for label, score in row:
                classes.classes.add(label=label, score=score)
        return response

    def _check(self, request: Any, context: Any) -> None:
        if request.model_spec.name != self._name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.model_spec.name}")


def make_handler(served: Served, name: str) -> type[BaseHTTPRequestHandler]:
    """Return the handler of REST requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = {"version": str(served.version), "state": "AVAILABLE"}
            found = self.path == f"/v1/models/{name}"
            self._answer({"model_version_status": [status]} if found else {}, found=found)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            actions = {
                f"/v1/models/{name}:predict": predict,
                f"/v1/models/{name}:classify": classify,
            }
            try:
                answer = actions[self.path](served, body)
            except Exception as err:  # noqa: BLE001 - as the real server, any error is an answer
                self._answer({"error": str(err)}, found=False)
            else:
                self._answer(answer)

        def _answer(self, value: Any, *, found: bool = True) -> None:
            data = json.dumps(value).encode()
            self.send_response(200 if found else 400)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def main() -> None:
    """Serve until the process is ended."""
    for module in ("keras", "repot"):
        sys.modules[module] = None  # type: ignore[assignment]  # importing it fails
    base_path, name, rest_port, grpc_port = sys.argv[1:]
    served = Served(Path(base_path))
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(served, name), server
    )
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    server.start()
    address = ("127.0.0.1", int(rest_port))
    ThreadingHTTPServer(address, make_handler(served, name)).serve_forever()


if __name__ == "__main__":
    main()
