"""A trained model that names pictures: found by any of the places that a user may know, loaded, and asked.

Evaluation, the gate and `repot predict` all ask through here, so they all see a picture through the same crop, the
same resizing and the same scaling.
"""

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from repot import quiet_tensorflow, storage
from repot.errors import ModelError, StorageError, UsageError
from repot.layout import CHAMPION_NAME, KERAS_NAME, LABELS_NAME, MODEL_FOLDER
from repot.metrics import FloatArray
from repot.model_registry import read_champion
from repot.pictures import RejectedPicture, normalise_picture
from repot.predictions import FORMATS, NamedProbability, Prediction

_BATCH_SIZE = 32
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A loaded classifier.

    Attributes:
        labels: N label names, in the order of the columns of its probabilities.
        image_size: Height and width in pixels of the pictures that the network takes.
        call: float32 [batch, image_size, image_size, 3] in [0, 1] -> float32 [batch, N] probabilities, as tensors.
    """

    labels: tuple[str, ...]
    image_size: int
    call: Callable[[Any], Any]

    def prepare(self, jpeg: Any) -> Any:
        """Return the picture of JPEG bytes, string [], as the network takes it: float32 [image_size, image_size, 3]."""
        from repot.preprocessing import decode_jpeg, eval_image

        return eval_image(decode_jpeg(jpeg), self.image_size)

    def predict(self, jpegs: Sequence[bytes]) -> FloatArray:
        """Return probabilities, float32 [len(jpegs), N], of pictures as shards hold them (see `repot.pictures`)."""
        import tensorflow as tf

        parts = [
            self.call(tf.stack([self.prepare(jpeg) for jpeg in batch])).numpy()
            for batch in _batches(jpegs)
        ]
        return np.concatenate(parts) if parts else np.empty((0, len(self.labels)), np.float32)


def find_model(uri: str) -> str:
    """Return the folder that holds model.keras and labels.txt.

    Args:
        uri: A champion.json or its folder, the folder of a version or of a run, its model folder, its model.keras, or
            an output folder of `repot run`.

    Raises:
        ModelError: There is no model; says where it was looked for.
    """
    name = posixpath.basename(uri)
    folder = posixpath.dirname(uri) if name in (CHAMPION_NAME, KERAS_NAME) else uri
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
            f"A model must be a folder, a {CHAMPION_NAME} or a {KERAS_NAME}; {uri} is another file. "
            "The model comes first: `repot predict MODEL PICTURE...`."
        )
    looked = " and ".join(storage.join(candidate, KERAS_NAME) for candidate in candidates)
    raise ModelError(
        f"A model must be a {CHAMPION_NAME}, the folder of a version, or an output folder of `repot run`; got {uri}, "
        f"but there is no {looked} with a {LABELS_NAME} beside it. Check the name."
    )


def read_labels(model_uri: str) -> tuple[str, ...]:
    """Return the label names of a model folder: line n names class n."""
    return tuple(storage.read_text(storage.join(model_uri, LABELS_NAME)).splitlines())


def load_model(model_uri: str) -> Model:
    """Load the classifier of a model folder, see `find_model`.

    Raises:
        ModelError: model.keras cannot be loaded, or does not fit labels.txt.
    """
    quiet_tensorflow.import_tensorflow()
    import keras
    import tensorflow as tf

    from repot.classifier import probabilities

    labels, uri = read_labels(model_uri), storage.join(model_uri, KERAS_NAME)
    try:
        with storage.as_local_file(uri) as path:
            network = keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, OSError) as err:
        raise ModelError(f"{uri} must be a Keras model; loading says: {err}. Train again.") from err
    image_size = network.input_shape[1]
    if network.output_shape[-1] != len(labels) + 1:
        raise ModelError(
            f"{uri} must have one output a label and one for the background; got {network.output_shape[-1]} outputs "
            f"for the {len(labels)} labels of {LABELS_NAME}. Train again."
        )

    @tf.function(input_signature=[tf.TensorSpec([None, image_size, image_size, 3], tf.float32)])  # type: ignore[untyped-decorator]
    def call(pictures: Any) -> Any:
        return probabilities(network(pictures, training=False))

    return Model(labels=labels, image_size=image_size, call=call)


def predict_pictures(model: Model, pictures: Sequence[str], *, top: int) -> Iterator[Prediction]:
    """Yield what the model says of each picture, in order; a picture that cannot be used says why.

    Args:
        model: The model.
        pictures: Local paths or URIs, of any format that a training picture may have.
        top: Names a picture, most probable first.
    """
    for batch in _batches(pictures):
        jpegs, problems = {}, {}
        for picture in dict.fromkeys(batch):
            try:
                jpegs[picture] = normalise_picture(_read(picture)).jpeg
            except (RejectedPicture, StorageError, UsageError) as err:
                problems[picture] = str(err)
        scores = dict(zip(jpegs, model.predict(list(jpegs.values())), strict=True))
        for picture in batch:
            if picture in problems:
                yield Prediction(picture=picture, problem=problems[picture])
            else:
                yield Prediction(
                    picture=picture, names=_top_names(model.labels, scores[picture], top)
                )


def predict_files(
    model: str,
    pictures: Sequence[str],
    *,
    output_format: str,
    top: int,
    write: Callable[[str], object],
) -> int:
    """Name pictures and write a line for each: what `repot predict` does.

    Args:
        model: Where the model is, see `find_model`.
        pictures: Local paths or URIs.
        output_format: A key of `repot.predictions.FORMATS`.
        top: Names a picture.
        write: Takes one line.

    Returns:
        The exit code: 1 when a picture could not be used, else 0.

    Raises:
        ModelError: There is no model, or it cannot be loaded.
    """
    loaded = load_model(find_model(storage.normalise(model)))
    exit_code = 0

    def watched() -> Iterator[Prediction]:
        nonlocal exit_code
        for prediction in predict_pictures(loaded, pictures, top=top):
            exit_code = exit_code or int(bool(prediction.problem))
            yield prediction

    for line in FORMATS[output_format](watched(), pictures):
        write(line)
    return exit_code


def _read(picture: str) -> bytes:
    uri = storage.normalise(picture)
    if storage.is_local(uri) and storage.local_path(uri).is_dir():
        raise UsageError(
            f"{picture} is a folder. Name the pictures in it, such as {picture.rstrip('/')}/*.jpg."
        )
    return storage.read_bytes(uri)


def _batches(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (items[start : start + _BATCH_SIZE] for start in range(0, len(items), _BATCH_SIZE))


def _top_names(labels: Sequence[str], scores: FloatArray, top: int) -> tuple[NamedProbability, ...]:
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(NamedProbability(labels[i], float(scores[i])) for i in order)
