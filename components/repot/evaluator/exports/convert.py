"""Write a model in a format; each writer runs in a process of its own, so that bytes repeat.

TensorFlow counts the functions that a process has made, and their numbers become names in files.
"""

import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from repot import storage
from repot.dataset import open_examples
from repot.evaluator.export_record import (
    INTEGER_FORMATS,
    PROBABILITIES,
    UNLIKE,
    Conversion,
    ExportedTensor,
    arithmetics_of,
)
from repot.json_record import write_record
from repot.layout import (
    KERAS_NAME,
    LABELS_NAME,
    LITERT_NAME,
    MODEL_SPEC_NAME,
    ONNX_NAME,
    SAVED_MODEL_FOLDER,
    SERVED_VERSION_FOLDER,
)
from repot.manifest import read_manifest
from repot.model_files import make_saved_model_reproducible
from repot.model_spec import View
from repot.predictor import Model, load_model
from repot.saved_model import export_saved_model

NUM_REPRESENTATIVE = 100
"""Training pictures from which the ranges of an integer export are measured.

Source: LiteRT's guide to full integer quantisation asks for a few hundred. On 412 photographs of
food, 50, 200 and 410 pictures gave the same: a mean largest difference of a probability of .015.
"""

_MADE_UP = re.compile(r"(?P<base>.*)__\d+(?P<port>(:\d+)?)")  # Names that tf2onnx makes up.
_OPSET = 18  # The newest that tf2onnx 1.17 writes.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_SIGNATURE = "serving_default"
_KEEPS_CALLS = ("_noinline", "_XlaMustCompile")
"""Attributes of a function that keep its calls from being replaced by its content."""

_VIEWS: dict[View, str] = {
    "central": "keep the central 0.875 of each side (cut int((side - 0.875 * side) / 2) pixels on "
    "both ends) and resize that",
    "whole": "resize the whole picture, without keeping its aspect ratio",
    "padded": "resize so that the longer side fills the square and the aspect ratio is kept, and "
    "fill the rest with 0.5 on both sides",
}


class _Source(NamedTuple):
    """What is exported: a loaded model, its folder and its dataset; and how it shall compute."""

    model: Model
    model_uri: str
    dataset_uri: str
    arithmetic: str


def convert(
    export_format: str,
    model_uri: str,
    dataset_uri: str,
    folder: Path,
    *,
    arithmetic: str = "",
) -> Conversion:
    """Write an export to a folder.

    Args:
        export_format: A key of `repot.extras.EXPORT_FORMATS`.
        model_uri: Folder of the model.
        dataset_uri: Its dataset, with the training pictures that calibrate an integer export.
        folder: An empty local folder.
        arithmetic: One of `repot.evaluator.export_record.arithmetics_of` the format; "" for the
            first one.

    Raises:
        ModelError: The model cannot be loaded.
    """
    model = load_model(model_uri)
    arithmetic = arithmetic or arithmetics_of(export_format)[0]
    inputs, outputs, float_operations = _WRITERS[export_format](
        _Source(model, model_uri, dataset_uri, arithmetic), folder
    )
    (folder / LABELS_NAME).write_text(_label_lines(model), encoding="utf-8")
    return Conversion(
        labels=model.labels,
        spec=model.spec,
        preprocessing=_describe_preprocessing(model, export_format),
        arithmetic=arithmetic,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        float_operations=tuple(float_operations),
        libraries=_library_versions(export_format),
    )


def _label_lines(model: Model) -> str:
    return "".join(f"{label}\n" for label in model.labels)


def _library_versions(export_format: str) -> dict[str, str]:
    """Return the versions of the packages that write and run a format."""
    packages = {"litert": ["ai-edge-litert"], "onnx": ["onnx", "onnxruntime", "tf2onnx"]}
    names = ["keras", "tensorflow", *packages.get(export_format.partition("-")[0], [])]
    # A CPU image has TensorFlow under another name.
    return {name: tf.__version__ if name == "tensorflow" else version(name) for name in names}


def _describe_preprocessing(model: Model, export_format: str) -> tuple[str, ...]:
    """Return how a picture becomes the inputs of an export."""
    if export_format == "saved_model":
        return (
            (
                "image_bytes takes the bytes of picture files; the model decodes, crops and "
                "resizes them itself. repot.serving_client.encode_picture returns the bytes for "
                "every file that `repot predict` reads."
            ),
        )
    size = model.spec.image_size
    decode = (
        "Decode the picture, turn it upright (EXIF) and convert it to RGB: height x width x 3, "
        "float32, in [0, 1], which is the 8-bit value / 255."
    )
    resize = (
        "Resizing is bilinear with the sampling of TensorFlow 1: output pixel i samples input "
        "position i * input size / output size (no half-pixel centres, no antialiasing); beyond "
        "the last pixel, the last pixel counts."
    )
    integers = (
        "A tensor with a scale holds integers of its dtype: an input is round(value / scale) + "
        "zero_point, a probability is (output - zero_point) * scale."
    )
    return (
        decode,
        f"Each input is a square of {size} x {size} pixels, which is one view of the picture.",
        *(f"{view}: {_VIEWS[view]}." for view in model.spec.views),
        resize,
        *((integers,) if export_format in INTEGER_FORMATS else ()),
    )


_Written = tuple[list[ExportedTensor], list[ExportedTensor], list[str]]
"""Inputs, outputs, and the kinds of operations that an integer export computes in float32."""


def _write_saved_model(source: _Source, folder: Path) -> _Written:
    model = source.model
    saved = folder / SERVED_VERSION_FOLDER
    export_saved_model(model.network, model.labels, saved, spec=model.spec)
    make_saved_model_reproducible(saved)
    signature = tf.saved_model.load(str(saved)).signatures[_SIGNATURE]
    inputs = [_tensor(name, spec) for name, spec in signature.structured_input_signature[1].items()]
    return inputs, [_tensor(n, s) for n, s in sorted(signature.structured_outputs.items())], []


def _write_keras(source: _Source, folder: Path) -> _Written:
    model = source.model
    storage.download(storage.join(source.model_uri, KERAS_NAME), folder / KERAS_NAME)
    write_record(str(folder / MODEL_SPEC_NAME), model.spec)
    return _float_inputs(model, -1), _float_outputs(model, -1), []


def _write_litert(source: _Source, folder: Path) -> _Written:
    model = source.model
    converter = _converter(model, folder, has_unlike=_has_unlike(model))
    _save_litert(converter.convert(), model, folder)
    return _float_inputs(model, 1), _float_outputs(model, 1), []


def _write_integers(source: _Source, folder: Path) -> _Written:
    """Write a LiteRT model with weights of 8 bits, one scale per output channel."""
    from tensorflow.lite.python.convert import mlir_quantize

    model, arithmetic = source.model, source.arithmetic
    head = _head_nodes(model, folder) if arithmetic == "int8-float-head" else []
    # The ranges of training pictures do not reach the values of unlike ones.
    converter = _converter(model, folder, has_unlike=False)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: _representative_pictures(model, source.dataset_uri)
    with warnings.catch_warnings():
        # TensorFlow's own interpreter, which measures ranges, says that it will be removed.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        if arithmetic == "int8-float-head":
            # What TensorFlow's QuantizationDebugger does; that fails without a quantised operation.
            converter._experimental_calibrate_only = True
            content = mlir_quantize(
                converter.convert(), input_data_type=tf.uint8, denylisted_nodes=head
            )
        elif arithmetic == "int16":
            sets = tf.lite.OpsSet
            converter.target_spec.supported_ops = [
                sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
                sets.TFLITE_BUILTINS,  # in float32, what has no other form
            ]
            content = converter.convert()
        else:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
            content = converter.convert()
    _save_litert(content, model, folder)
    return _describe_integers(folder / LITERT_NAME)


def _head_nodes(model: Model, folder: Path) -> list[str]:
    """Return the operations of a LiteRT model from the backbone's features to the probabilities.

    These are those that lead to an output without passing a tensor of more than two dimensions:
    maps and tokens of the backbone have more.
    """
    from ai_edge_litert.interpreter import Interpreter

    content = _converter(model, folder, has_unlike=False).convert()
    shutil.rmtree(folder / SAVED_MODEL_FOLDER)
    interpreter = Interpreter(model_content=content)
    tensors = {each["index"]: each for each in interpreter.get_tensor_details()}
    makers = {
        index: operation
        for operation in interpreter._get_ops_details()
        for index in operation["outputs"]
    }
    pending = [each["index"] for each in interpreter.get_output_details()]
    head: set[int] = set()
    while pending:
        index = pending.pop()
        # Neither inputs and constants, nor an optional input that is left out.
        if index in makers and index not in head and len(tensors[index]["shape"]) <= 2:
            head.add(index)
            pending.extend(makers[index]["inputs"])
    return sorted(tensors[index]["name"] for index in head)


def _converter(model: Model, folder: Path, *, has_unlike: bool) -> Any:
    """Return a converter of the network for one picture at a time."""
    scratch = folder / SAVED_MODEL_FOLDER
    module = tf.Module()
    function = _network(model, batch_size=1, has_unlike=has_unlike).get_concrete_function()
    module.model_variables = list(function.variables)
    tf.saved_model.save(module, str(scratch), signatures={_SIGNATURE: function})
    return tf.lite.TFLiteConverter.from_saved_model(str(scratch), signature_keys=[_SIGNATURE])


def _network(model: Model, *, batch_size: int | None, has_unlike: bool) -> Any:
    """Return the network as a function of one tensor per view, named like the view."""
    side = model.spec.image_size

    def answer(*views: Any) -> dict[str, Any]:
        probabilities, unlike = model.call(views)
        return {PROBABILITIES: probabilities, **({UNLIKE: unlike} if has_unlike else {})}

    return tf.function(
        answer,
        autograph=False,
        input_signature=[
            tf.TensorSpec([batch_size, side, side, 3], tf.float32, name=view)
            for view in model.spec.views
        ],
    )


def _save_litert(content: bytes, model: Model, folder: Path) -> None:
    path = folder / LITERT_NAME
    path.write_bytes(content)
    shutil.rmtree(folder / SAVED_MODEL_FOLDER)
    # LiteRT's metadata: files that belong to a model are a zip archive at its end.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(LABELS_NAME, _ZIP_TIME), _label_lines(model))


def _representative_pictures(model: Model, dataset_uri: str) -> Iterator[dict[str, Any]]:
    """Yield training pictures, evenly spaced over the shards, in which they are shuffled."""
    manifest = read_manifest(dataset_uri)
    total = manifest.num_examples("train")
    numbers = np.unique(np.linspace(0, total - 1, min(total, NUM_REPRESENTATIVE)).astype(np.int64))
    with open_examples(dataset_uri, manifest) as examples:
        for example in examples["train"].read(numbers):
            views = model.prepare(example["encoded"])
            yield {
                name: view[tf.newaxis] for name, view in zip(model.spec.views, views, strict=True)
            }


def _describe_integers(path: Path) -> _Written:
    """Return inputs, outputs and the operations in float32 of an integer model."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    runner = interpreter.get_signature_runner()
    types = {each["index"]: each["dtype"] for each in interpreter.get_tensor_details()}
    operations = {
        operation["op_name"]
        for operation in interpreter._get_ops_details()
        if any(types.get(index) is np.float32 for index in operation["outputs"])
    }

    def describe(details: dict[str, Any]) -> list[ExportedTensor]:
        return [
            ExportedTensor(
                name=name,
                dtype=np.dtype(each["dtype"]).name,
                shape=tuple(int(side) for side in each["shape"]),
                scale=float(each["quantization"][0]) or None,
                zero_point=int(each["quantization"][1]) if each["quantization"][0] else None,
            )
            for name, each in sorted(details.items())
        ]

    # DEQUANTIZE only leads to the others.
    return (
        describe(runner.get_input_details()),
        describe(runner.get_output_details()),
        sorted(operations - {"DEQUANTIZE"}),
    )


def _write_onnx(source: _Source, folder: Path) -> _Written:
    import onnx
    import tf2onnx

    model = source.model
    network = _network(model, batch_size=None, has_unlike=_has_unlike(model))
    graph, outputs = _freeze(network.get_concrete_function())
    inputs = {f"{view}:0": view for view in model.spec.views}
    proto, _ = tf2onnx.convert.from_graph_def(
        graph,
        input_names=list(inputs),
        output_names=list(outputs),
        opset=_OPSET,
        tensors_to_rename={**inputs, **outputs},
        custom_op_handlers={"Erfc": (_write_erfc, [])},
    )
    onnx.helper.set_model_props(
        proto,
        {
            "labels": "\n".join(model.labels),
            "preprocessing": "\n".join(_describe_preprocessing(model, "onnx")),
        },
    )
    _number_names(proto.graph)
    onnx.checker.check_model(proto)
    (folder / ONNX_NAME).write_bytes(proto.SerializeToString(deterministic=True))
    return _float_inputs(model, -1), _float_outputs(model, -1), []


def _number_names(graph: Any) -> None:
    """Number constants, and other names that tf2onnx makes up, in the order of their use.

    The first dimension of inputs and outputs is called batch.

    TensorFlow's optimizer orders independent operations by chance. tf2onnx counts all names that it
    makes up, and gives equal constants the name of whichever comes first: equal models would give
    files with other names.

    Args:
        graph: The onnx.GraphProto to change. One with subgraphs is left as it is.
    """
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return
    constants = {constant.name for constant in graph.initializer}
    tensors: dict[str, str] = {}
    nodes: dict[str, str] = {}

    def number(name: str, names: dict[str, str]) -> str:
        if name in constants:
            return names.setdefault(name, f"constant__{len(names)}")
        found = _MADE_UP.fullmatch(name)
        if found is None:
            return name
        return names.setdefault(name, f"{found['base']}__{len(names)}{found['port']}")

    for node in graph.node:
        node.name = number(node.name, nodes)
        node.input[:] = [number(name, tensors) for name in node.input]
        node.output[:] = [number(name, tensors) for name in node.output]
    for named in (*graph.initializer, *graph.value_info):
        named.name = number(named.name, tensors)
    graph.initializer.sort(key=lambda constant: constant.name)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _write_erfc(graph: Any, node: Any, _name: str, _arguments: Any) -> None:
    """Write erfc(x), which ONNX does not have and Keras uses for GELU, as 1 - erf(x)."""
    (output,) = node.output
    shape, dtype = graph.get_shape(output), graph.get_dtype(output)
    erf = graph.make_node("Erf", node.input, shapes=[shape], dtypes=[dtype])
    one = graph.make_const(f"{node.name}/one", np.array(1, np.float32))
    graph.remove_node(node.name)
    graph.make_node(
        "Sub",
        [one.output[0], erf.output[0]],
        name=node.name,
        outputs=[output],
        shapes=[shape],
        dtypes=[dtype],
    )


def _freeze(function: Any) -> tuple[Any, dict[str, str]]:
    """Return a function's graph with constants for variables, and the names of its outputs.

    tf2onnx could do this itself, but takes a constant that Keras has computed in advance, such as
    the mean of a Normalization layer, for an input, and does not look into a function that Keras
    compiles with XLA, such as a convolution in groups.

    Args:
        function: A concrete function that returns tensors by name.

    Returns:
        A GraphDef, and the name of each output by the name of its tensor.
    """
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    graph = frozen.graph.as_graph_def()
    constants = {
        placeholder.op.name: tf.make_tensor_proto(value.numpy())
        for value, placeholder in function.graph.captures
        if value.dtype != tf.resource
    }
    for node in graph.node:
        if node.op == "Placeholder" and node.name in constants:
            node.op = "Const"
            node.attr["value"].tensor.CopyFrom(constants[node.name])
            del node.attr["shape"]
    for attributes in (each.attr for each in (*graph.node, *graph.library.function)):
        for name in _KEEPS_CALLS:
            attributes.pop(name, None)
    outputs = zip(sorted(function.structured_outputs), frozen.outputs, strict=True)
    return graph, {tensor.name: name for name, tensor in outputs}


def _has_unlike(model: Model) -> bool:
    return isinstance(model.network.output, dict)


def _float_inputs(model: Model, batch_size: int) -> list[ExportedTensor]:
    side = model.spec.image_size
    return [
        ExportedTensor(name=view, dtype="float32", shape=(batch_size, side, side, 3))
        for view in model.spec.views
    ]


def _float_outputs(model: Model, batch_size: int) -> list[ExportedTensor]:
    shapes: dict[str, tuple[int, ...]] = {PROBABILITIES: (batch_size, len(model.labels))}
    if _has_unlike(model):
        shapes[UNLIKE] = (batch_size,)
    return [
        ExportedTensor(name=name, dtype="float32", shape=shape) for name, shape in shapes.items()
    ]


def _tensor(name: str, spec: Any) -> ExportedTensor:
    shape = tuple(-1 if side is None else side for side in spec.shape)
    return ExportedTensor(name=name, dtype=spec.dtype.name, shape=shape)


_WRITERS: dict[str, Callable[[_Source, Path], _Written]] = {
    "saved_model": _write_saved_model,
    "litert": _write_litert,
    "litert-int8": _write_integers,
    "onnx": _write_onnx,
    "keras": _write_keras,
}
