"""Serve an exported SavedModel with the Open Inference Protocol, also called KServe V2.

    python -m pip install 'kserve>=0.15' 'tensorflow>=2.21'
    python kserve_v2.py --model_name flowers --model_dir flowers/1 --http_port 8080

KServe's runtime for TensorFlow speaks the older protocol V1 only. In a custom predictor of an
InferenceService, this script speaks V2. A request has either the input image_bytes, BYTES [n], or
one FP32 input per view, see export.json. In JSON, which cannot hold bytes, the values of
image_bytes are base64 texts and the input has the parameter "content_type": "base64".
"""

import argparse
import base64
import uuid
from typing import Any

import kserve
import numpy as np
import tensorflow as tf


class SavedModel(kserve.Model):
    """The signatures `serving_default` and `pictures` of a SavedModel."""

    def __init__(self, name: str, folder: str) -> None:
        super().__init__(name)
        self._signatures = tf.saved_model.load(folder).signatures
        self.ready = True

    def predict(
        self,
        payload: kserve.InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> kserve.InferResponse:
        """Answer a request."""
        inputs = {each.name: tf.constant(_read(each)) for each in payload.inputs}
        name = "serving_default" if "image_bytes" in inputs else "pictures"
        outputs = self._signatures[name](**inputs)
        return kserve.InferResponse(
            response_id=payload.id or str(uuid.uuid4()),
            model_name=self.name,
            infer_outputs=[_write(key, value.numpy()) for key, value in sorted(outputs.items())],
        )


def _read(tensor: kserve.InferInput) -> Any:
    values = tensor.as_numpy()
    if tensor.parameters and tensor.parameters.get("content_type") == "base64":
        decoded = [base64.b64decode(value, validate=True) for value in values.ravel()]
        return np.array(decoded, object).reshape(values.shape)
    return values


def _write(name: str, values: Any) -> kserve.InferOutput:
    is_text = values.dtype == object
    output = kserve.InferOutput(
        name=name, shape=list(values.shape), datatype="BYTES" if is_text else "FP32"
    )
    output.set_data_from_numpy(values, binary_data=False)
    return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--model_dir", required=True)
    arguments, _ = parser.parse_known_args()
    kserve.ModelServer().start([SavedModel(arguments.model_name, arguments.model_dir)])
