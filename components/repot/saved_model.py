"""Exports a classifier as a SavedModel that takes encoded pictures and names them, without Keras or repot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from repot.classifier import probabilities
from repot.preprocessing import decode_picture, eval_image


def export_saved_model(classifier: Any, labels: Sequence[str], folder: Path) -> None:
    """Write the SavedModel of a classifier.

    Its default signature takes `image_bytes`, string [batch]: upright JPEG, PNG, GIF or BMP files as they are, for
    TensorFlow decodes no EXIF orientation and no WebP or TIFF; `repot predict` does both. It returns
    `class_names`, string [batch, N], every row the labels in the order of the classes, and `probabilities`,
    float32 [batch, N].

    Args:
        classifier: What `build_classifier` returned.
        labels: N label names; labels[i] has class id i + 1.
        folder: Where to write.
    """
    module = _Namer(classifier, labels)
    tf.saved_model.save(module, str(folder), signatures=module.serve)


class _Namer(tf.Module):  # type: ignore[misc]
    def __init__(self, classifier: Any, labels: Sequence[str]) -> None:
        super().__init__()
        self._classifier = classifier
        self._labels = tf.constant(list(labels))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])  # type: ignore[untyped-decorator]
    def serve(self, image_bytes: Any) -> dict[str, Any]:
        image_size = self._classifier.input_shape[1]
        pictures = tf.map_fn(
            lambda encoded: eval_image(decode_picture(encoded), image_size),
            image_bytes,
            fn_output_signature=tf.TensorSpec([image_size, image_size, 3], tf.float32),
        )
        scores = probabilities(self._classifier(pictures, training=False))
        names = tf.broadcast_to(self._labels[None, :], tf.shape(scores))
        return {"class_names": names, "probabilities": scores}
