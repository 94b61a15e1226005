"""Load an export and compute the probabilities of pictures, as a program that deploys it would."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from repot.evaluator.export_record import PROBABILITIES, UNLIKE
from repot.layout import LITERT_NAME, ONNX_NAME, SERVED_VERSION_FOLDER
from repot.metrics import FloatArray
from repot.model_spec import ModelSpec
from repot.predictor import Scores, load_model
from repot.preprocessing import decode_jpeg, view_picture

Predict = Callable[[Sequence[bytes]], Scores]
"""JPEGs as stored in shards -> scores; `unlike` is 0 if the export does not have it."""


def load_export(export_format: str, folder: Path, spec: ModelSpec) -> Predict:
    """Load an export.

    Args:
        export_format: A key of `repot.extras.EXPORT_FORMATS`.
        folder: Its folder.
        spec: The views that are its inputs.
    """
    return _LOADERS[export_format](folder, spec)


def _load_keras(folder: Path, _spec: ModelSpec) -> Predict:
    return load_model(str(folder)).predict


def _load_saved_model(folder: Path, _spec: ModelSpec) -> Predict:
    model = tf.saved_model.load(str(folder / SERVED_VERSION_FOLDER))
    serve = model.signatures["serving_default"]
    return lambda jpegs: _scores(serve(tf.constant(list(jpegs))))


def _scores(outputs: Mapping[str, Any]) -> Scores:
    probabilities = np.asarray(outputs[PROBABILITIES])
    nothing = np.zeros(len(probabilities), np.float32)
    return Scores(probabilities, np.asarray(outputs.get(UNLIKE, nothing)))


def _load_onnx(folder: Path, spec: ModelSpec) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / ONNX_NAME), providers=["CPUExecutionProvider"]
    )

    names = [output.name for output in session.get_outputs()]

    def predict(jpegs: Sequence[bytes]) -> Scores:
        pictures = [_read_views(jpeg, spec) for jpeg in jpegs]
        inputs = {
            view: np.stack([views[i] for views in pictures]) for i, view in enumerate(spec.views)
        }
        return _scores(dict(zip(names, session.run(names, inputs), strict=True)))

    return predict


def _load_litert(folder: Path, spec: ModelSpec) -> Predict:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(folder / LITERT_NAME)).get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()

    def predict_one(jpeg: bytes) -> dict[str, FloatArray]:
        views = zip(spec.views, _read_views(jpeg, spec), strict=True)
        answers = runner(**{view: _quantise(pixels[None], inputs[view]) for view, pixels in views})
        return {name: _dequantise(each, outputs[name]) for name, each in answers.items()}

    def predict(jpegs: Sequence[bytes]) -> Scores:
        answers = [predict_one(jpeg) for jpeg in jpegs]
        return _scores({name: np.concatenate([each[name] for each in answers]) for name in outputs})

    return predict


def _read_views(jpeg: bytes, spec: ModelSpec) -> list[FloatArray]:
    picture = decode_jpeg(tf.constant(jpeg))
    return [view_picture(picture, spec.image_size, view).numpy() for view in spec.views]


def _quantise(values: FloatArray, details: dict[str, Any]) -> Any:
    if details["dtype"] is np.float32:
        return values
    scale, zero_point = details["quantization"]
    limits = np.iinfo(details["dtype"])
    integers = np.clip(np.round(values / scale) + zero_point, limits.min, limits.max)
    return integers.astype(details["dtype"])


def _dequantise(values: Any, details: dict[str, Any]) -> FloatArray:
    if details["dtype"] is np.float32:
        return np.asarray(values)
    scale, zero_point = details["quantization"]
    return np.asarray((values.astype(np.float32) - zero_point) * np.float32(scale))


_LOADERS: dict[str, Callable[[Path, ModelSpec], Predict]] = {
    "saved_model": _load_saved_model,
    "litert": _load_litert,
    "litert-int8": _load_litert,
    "onnx": _load_onnx,
    "keras": _load_keras,
}
