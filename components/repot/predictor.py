"""A trained model: find it, load it, and compute the probabilities of pictures.

Evaluation, the gate and `repot predict` all use this module, so pictures are cropped, resized and
scaled in the same way everywhere.
"""

import posixpath
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repot import quiet_tensorflow, storage
from repot.errors import ModelError, printable
from repot.layout import CHAMPION_NAME, KERAS_NAME, LABELS_NAME, MODEL_FOLDER
from repot.metrics import FloatArray
from repot.model_registry import read_champion

BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A loaded image classifier.

    Attributes:
        labels: N label names; column i of the probabilities belongs to labels[i].
        image_size: Height and width in pixels of the network's input.
        call: Maps a tensor, float32 [batch, image_size, image_size, 3] in [0, 1], to probabilities,
            float32 [batch, N].
    """

    labels: tuple[str, ...]
    image_size: int
    call: Callable[[Any], Any]

    def prepare(self, jpeg: Any) -> Any:
        """Return the network's input for a JPEG, string []: float32 [image_size, image_size, 3]."""
        from repot.preprocessing import central_crop, decode_jpeg

        return central_crop(decode_jpeg(jpeg), self.image_size)

    def predict(self, jpegs: Sequence[bytes]) -> FloatArray:
        """Return probabilities, float32 [len(jpegs), N].

        Args:
            jpegs: Pictures as stored in shards, see `repot.pictures`.
        """
        import tensorflow as tf

        parts = []
        for start in range(0, len(jpegs), BATCH_SIZE):
            batch = [self.prepare(jpeg) for jpeg in jpegs[start : start + BATCH_SIZE]]
            parts.append(self.call(tf.stack(batch)).numpy())
        return np.concatenate(parts) if parts else np.empty((0, len(self.labels)), np.float32)


def find_model(uri: str) -> str:
    """Return the folder that holds model.keras and labels.txt.

    Args:
        uri: A champion.json or its folder, the folder of a version or a run, its model folder, its
            model.keras, or an output folder of `repot run`.

    Raises:
        ModelError: There is no model; lists the locations that were checked.
    """
    name = posixpath.basename(uri)
    folder = storage.parent(uri) if name in (CHAMPION_NAME, KERAS_NAME) else uri
    candidates = [folder, storage.join(folder, MODEL_FOLDER)]
    champion = (
        read_champion(storage.join(folder, CHAMPION_NAME)).champion if name != KERAS_NAME else None
    )
    if champion is not None:
        candidates = [storage.join(folder, champion.version)]
    for candidate in candidates:
        if all(storage.exists(storage.join(candidate, part)) for part in (KERAS_NAME, LABELS_NAME)):
            return candidate
    if folder == uri and storage.exists(uri):
        raise ModelError(
            f"A model must be a folder, a {CHAMPION_NAME} or a {KERAS_NAME}; {uri} is another "
            "file. Pass the model before the pictures: `repot predict MODEL PICTURE...`."
        )
    checked = " and ".join(storage.join(candidate, KERAS_NAME) for candidate in candidates)
    raise ModelError(
        f"A model must be a {CHAMPION_NAME}, the folder of a version, or an output folder of "
        f"`repot run`; got {uri}, but there is no {checked} with a {LABELS_NAME} beside it. "
        "Check the name."
    )


def read_labels(model_uri: str) -> tuple[str, ...]:
    """Return the label names of a model folder: line n names class n.

    Raises:
        ModelError: A label has a control character: the file is not repot's.
    """
    uri = storage.join(model_uri, LABELS_NAME)
    labels = tuple(storage.read_text(uri).splitlines())
    for number, label in enumerate(labels, start=1):
        # A terminal could obey it. The planner accepts no such label.
        if any(unicodedata.category(character) == "Cc" for character in label):
            raise ModelError(
                f"A label must be text without control characters; line {number} of {uri} is "
                f"{printable(label)!r}. Use the {LABELS_NAME} that was published with the model."
            )
    return labels


def load_model(model_uri: str) -> Model:
    """Load the image classifier of a model folder, see `find_model`.

    Raises:
        ModelError: model.keras cannot be loaded, or does not match labels.txt.
    """
    quiet_tensorflow.import_tensorflow()
    import keras
    import tensorflow as tf

    labels, uri = read_labels(model_uri), storage.join(model_uri, KERAS_NAME)
    try:
        with storage.as_local_file(uri) as path:
            network = keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, OSError) as err:
        raise ModelError(
            f"{uri} must be a Keras model; loading failed: {err}. Train again."
        ) from err
    image_size = network.input_shape[1]
    num_outputs = network.output_shape[-1]
    if num_outputs != len(labels):
        raise ModelError(
            f"{uri} must have one output per line of {LABELS_NAME}; got {num_outputs} outputs for "
            f"{len(labels)} labels. Train again, with a new `rebuild` text."
        )

    @tf.function(input_signature=[tf.TensorSpec([None, image_size, image_size, 3], tf.float32)])  # type: ignore[untyped-decorator]
    def call(pictures: Any) -> Any:
        return network(pictures, training=False)

    return Model(labels=labels, image_size=image_size, call=call)
