"""Exports a published model as a SavedModel, which TensorFlow and its server can load."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from repot.model_spec import ModelSpec
from repot.picture_ops.normalise import normalise
from repot.preprocessing import decode_jpeg, view_picture

CLASSIFY = "classify"
"""Name of a SavedModel's signature for TensorFlow Serving's Classify API."""

_ENCODED = "image/encoded"  # Feature of the records of 2016, which shards have.


def export_saved_model(
    model: Any, labels: Sequence[str], folder: Path, *, spec: ModelSpec | None = None
) -> Callable[..., dict[str, Any]]:
    """Export a published model as a SavedModel, which needs neither Keras nor repot.

    All signatures take a batch and return `probabilities`, float32 [batch, N]; `class_names`,
    string [batch, N], where every row holds the labels in the order of the probabilities; and
    `unlike`, float32 [batch], if the model does:

    - `serving_default` takes `image_bytes`, string [batch]: the bytes of picture files that
      `repot.serving_client.ACCEPTED_FILES` describes. It sees the pixels that `repot predict` sees,
      and rejects other files; `repot.serving_client` makes every file acceptable.
    - `pictures` takes one input per view, named like the view: float32 [batch, image_size,
      image_size, 3], RGB in [0, 1].
    - `classify` is for TensorFlow Serving's Classify API: `inputs`, string [batch], are serialised
      tf.train.Example messages with `image/encoded`, such as the records of a shard. There the
      outputs have that API's names, `scores` and `classes`, and there are no others.

    Args:
        model: A model made by `published_model` or `published_linear_model`.
        labels: N label names, in the order of the model's outputs.
        folder: Folder to write.
        spec: The model's views; None is the central crop.

    Returns:
        The function behind the signature `pictures`.
    """
    spec = spec or ModelSpec(backbone="", image_size=model.inputs[0].shape[1])
    side = spec.image_size

    def answer(*views: Any) -> dict[str, Any]:
        answers = model(list(views) if len(views) > 1 else views[0], training=False)
        outputs = answers if isinstance(answers, dict) else {"probabilities": answers}
        shape = tf.shape(outputs["probabilities"])
        names = tf.broadcast_to(tf.constant(list(labels))[tf.newaxis], shape)
        return {"class_names": names, **outputs}

    # Each is traced once, and called by the next.
    pictures = _trace(
        answer,
        *(tf.TensorSpec([None, side, side, 3], tf.float32, name=view) for view in spec.views),
    )
    files = _trace(
        lambda image_bytes: pictures(*_read_views(image_bytes, spec)),
        tf.TensorSpec([None], tf.string, name="image_bytes"),
    )

    def answer_examples(inputs: Any) -> dict[str, Any]:
        parsed = tf.io.parse_example(inputs, {_ENCODED: tf.io.FixedLenFeature([], tf.string)})
        outputs = files(parsed[_ENCODED])
        return {"classes": outputs["class_names"], "scores": outputs["probabilities"]}

    examples = _trace(answer_examples, tf.TensorSpec([None], tf.string, name="inputs"))

    module = tf.Module()
    # The variables alone: TensorFlow would trace and save the functions of a Keras model, and
    # trace a tf.function again, which is most of the time and of no use to a server.
    module.model_variables = [variable.value for variable in model.variables]
    signatures = {"serving_default": files, "pictures": pictures, CLASSIFY: examples}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    _name_classify_method(folder)
    served: Callable[..., dict[str, Any]] = pictures
    return served


def _trace(function: Callable[..., Any], *specs: Any) -> Any:
    # Without autograph, whose copies of the code make errors long.
    return tf.function(function, autograph=False, input_signature=specs).get_concrete_function()


def _read_views(image_bytes: Any, spec: ModelSpec) -> list[Any]:
    """Return the views of picture files: float32 [batch, image_size, image_size, 3] each."""
    picture_spec = tf.TensorSpec([spec.image_size, spec.image_size, 3], tf.float32)

    def prepare(encoded: Any) -> list[Any]:
        picture = decode_jpeg(normalise(encoded))
        return [view_picture(picture, spec.image_size, view) for view in spec.views]

    views: list[Any] = tf.map_fn(
        prepare, image_bytes, fn_output_signature=[picture_spec] * len(spec.views)
    )
    return views


def _name_classify_method(folder: Path) -> None:
    """Mark the signature for TensorFlow Serving's Classify API, which accepts no other.

    TensorFlow 2 marks every signature for Predict.
    Source: tensorflow_serving/servables/tensorflow/classifier.cc, PreProcessClassification.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = folder / "saved_model.pb"
    saved_model = SavedModel.FromString(path.read_bytes())
    signature = saved_model.meta_graphs[0].signature_def[CLASSIFY]
    signature.method_name = tf.compat.v1.saved_model.signature_constants.CLASSIFY_METHOD_NAME
    path.write_bytes(saved_model.SerializeToString(deterministic=True))
