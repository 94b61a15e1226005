"""A trained model: find it, load it, and compute the probabilities of pictures.

Evaluation, the gate and `repot predict` all use this module, so pictures are cropped, resized and
scaled in the same way everywhere.
"""

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from repot import layout, quiet_tensorflow, storage
from repot.errors import ModelError, printable, unknown_name
from repot.folder_checksums import FileChecksum, describe_change, read_checksums
from repot.keras_model import Shapes, load_keras_model
from repot.layout import (
    CHAMPION_NAME,
    KERAS_NAME,
    LABELS_NAME,
    MODEL_FOLDER,
    MODEL_RECORD_NAME,
    MODEL_SPEC_NAME,
)
from repot.metrics import FloatArray
from repot.model_fingerprint import check_fingerprint
from repot.model_registry import ModelRecord, read_champion, read_model_record
from repot.model_spec import MAX_RECORD_BYTES, MAX_UNLIKE_AXES, ModelSpec, read_model_spec
from repot.zoo import BACKBONES, MAX_IMAGE_SIZE

BATCH_SIZE = 32
MAX_MODEL_BYTES = 32 << 30
"""Largest size of a model file. That of the largest presets of KerasHub takes 4 GiB."""

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc.
_MAX_SHOWN = 100  # characters of a label in a message


class Scores(NamedTuple):
    """What a model says about pictures.

    Attributes:
        probabilities: float32 [n, N], calibrated.
        unlike: float32 [n], above 1 for a picture unlike those of the training; always 0 for a
            model of an earlier version.
    """

    probabilities: FloatArray
    unlike: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A loaded image classifier.

    Attributes:
        labels: N label names; column i of the probabilities belongs to labels[i].
        spec: The views that the network takes.
        call: Maps a tuple of tensors, one per view, float32 [batch, image_size, image_size, 3] in
            [0, 1], to the tensors of `Scores`, float32 [batch, N] and [batch].
        network: The keras.Model behind `call`; None if there is none.
    """

    labels: tuple[str, ...]
    spec: ModelSpec
    call: Callable[[tuple[Any, ...]], tuple[Any, Any]]
    network: Any = None

    def prepare(self, jpeg: Any) -> tuple[Any, ...]:
        """Return the views of a JPEG, string []: float32 [image_size, image_size, 3] each."""
        from repot.preprocessing import decode_central_crop, decode_jpeg, view_picture

        if self.spec.views == ("central",):
            return (decode_central_crop(jpeg, self.spec.image_size),)
        picture = decode_jpeg(jpeg)
        return tuple(view_picture(picture, self.spec.image_size, view) for view in self.spec.views)

    def predict(self, jpegs: Sequence[bytes]) -> Scores:
        """Return the scores of pictures.

        Args:
            jpegs: Pictures as stored in shards, see `repot.pictures`.
        """
        import tensorflow as tf

        probabilities: list[FloatArray] = [np.empty((0, len(self.labels)), np.float32)]
        unlike: list[FloatArray] = [np.empty(0, np.float32)]
        for start in range(0, len(jpegs), BATCH_SIZE):
            batch = [self.prepare(jpeg) for jpeg in jpegs[start : start + BATCH_SIZE]]
            views = tuple(tf.stack(pictures) for pictures in zip(*batch, strict=True))
            answers = self.call(views)
            probabilities.append(answers[0].numpy())
            unlike.append(answers[1].numpy())
        return Scores(np.concatenate(probabilities), np.concatenate(unlike))

    def batch_preparer(self) -> Callable[[Sequence[bytes]], tuple[Any, ...]]:
        """Return a function that prepares a batch of pictures; threads may share it.

        It maps n JPEGs, n > 0, to one tensor per view, float32 [n, image_size, image_size, 3], with
        the values of `prepare`. It decodes one picture after the other: each takes up to 1 GiB.
        """
        import tensorflow as tf

        size = self.spec.image_size
        view = tf.TensorSpec([size, size, 3], tf.float32)

        @tf.function(  # type: ignore[untyped-decorator]
            autograph=False, input_signature=[tf.TensorSpec([None], tf.string)]
        )
        def prepare(jpegs: Any) -> Any:
            return tf.map_fn(
                self.prepare,
                jpegs,
                parallel_iterations=1,
                fn_output_signature=(view,) * len(self.spec.views),
            )

        return lambda jpegs: prepare(tf.constant(list(jpegs), tf.string))


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


def model_digest(model_uri: str) -> str:
    """Return an id of the content of all files of a model folder that predictions depend on."""
    checksums = {}
    storage.check_size(storage.join(model_uri, KERAS_NAME), MAX_MODEL_BYTES)
    for name in (KERAS_NAME, LABELS_NAME, MODEL_SPEC_NAME):
        uri = storage.join(model_uri, name)
        info = storage.stat(uri)
        if info is not None:
            checksums[name] = info.crc32c or storage.read_crc32c_hex(uri)
    return layout.content_id(checksums)


def read_labels(model_uri: str) -> tuple[str, ...]:
    """Return the label names of a model folder: line n names class n.

    Raises:
        ModelError: A label has a control character: the file is not repot's.
        StorageError: The file is too large to be one of repot's, or cannot be read.
    """
    uri = storage.join(model_uri, LABELS_NAME)
    storage.check_size(uri, MAX_RECORD_BYTES)
    labels = tuple(storage.read_text(uri).splitlines())
    for number, label in enumerate(labels, start=1):
        # A terminal could obey it. The planner accepts no such label.
        if _CONTROL_CHARACTER.search(label):
            shown = printable(label[:_MAX_SHOWN])
            raise ModelError(
                f"A label must be text without control characters; line {number} of {uri} is "
                f"{shown!r}. Use the {LABELS_NAME} that was published with the model."
            )
    return labels


def load_model(model_uri: str) -> Model:
    """Load the image classifier of a model folder, see `find_model`.

    Its network is built by repot, and its weights alone are read. Only a model of an earlier
    version describes its network itself, see `repot.keras_model`; one whose model.json says how it
    is built is not loaded in that way.

    Raises:
        ModelError: model.keras cannot be loaded, has a layer that no published model has, does not
            match labels.txt, model_spec.json or model.json, or does not answer as it did at the end
            of its training.
    """
    quiet_tensorflow.import_tensorflow()
    record = _read_model_record(model_uri)
    expected = _expected_files(model_uri, record)
    for name in (LABELS_NAME, MODEL_SPEC_NAME):
        if name in expected:
            _check_file(model_uri, expected[name])
    labels, uri = read_labels(model_uri), storage.join(model_uri, KERAS_NAME)
    spec = read_model_spec(model_uri)
    _check_spec(model_uri, spec, record)
    build = partial(_rebuild, spec, len(labels)) if spec and spec.network else None
    storage.check_size(uri, MAX_MODEL_BYTES)
    with storage.as_local_file(uri) as path:
        if KERAS_NAME in expected:
            _check_file(model_uri, expected[KERAS_NAME], path)
        network = load_keras_model(path, uri=uri, build=build)
    num_outputs = network.outputs[0].shape[-1]
    if num_outputs != len(labels):
        raise ModelError(
            f"{uri} must have one output per line of {LABELS_NAME}; got {num_outputs} outputs for "
            f"{len(labels)} labels. Train again, with a new `rebuild` text."
        )
    spec = spec or ModelSpec(backbone="", image_size=network.inputs[0].shape[1])
    shapes = [tuple(each.shape[1:]) for each in network.inputs]
    if shapes != [(spec.image_size, spec.image_size, 3)] * len(spec.views):
        raise ModelError(
            f"{uri} must have one input per view of {MODEL_SPEC_NAME}, {spec.image_size} x "
            f"{spec.image_size} x 3 each; got {len(spec.views)} views and inputs={shapes}. Use the "
            f"{MODEL_SPEC_NAME} that was published with the model."
        )
    model = as_model(network, labels, spec)
    check_fingerprint(model.call, spec, num_labels=len(labels), uri=uri)
    return model


def _rebuild(spec: ModelSpec, num_labels: int, check: Callable[[Shapes], None]) -> Any:
    from repot.classifier import rebuild_published_network

    return rebuild_published_network(spec, num_labels=num_labels, check=check)


def _check_spec(model_uri: str, spec: ModelSpec | None, record: ModelRecord | None) -> None:
    """Check a record before a network is built by it, and that nobody removed it.

    Raises:
        ModelError: See `load_model`.
    """
    uri = storage.join(model_uri, MODEL_SPEC_NAME)
    published = record.network if record else None
    network = spec.network if spec else None
    if published is not None and network != published:
        raise ModelError(
            f"{uri} must say how the network is built, as {MODEL_RECORD_NAME} does; it says "
            f"{'something else' if network else 'nothing'}. Restore it from a backup, or train "
            "again with a new `rebuild` text."
        )
    if spec is None or network is None:
        return
    problems = []
    backbone = BACKBONES.get(spec.backbone)
    if backbone is None:
        problems.append(unknown_name("backbone", spec.backbone, BACKBONES))
    elif not backbone.min_image_size <= spec.image_size <= MAX_IMAGE_SIZE:
        sizes = f"{backbone.min_image_size}..{MAX_IMAGE_SIZE}"
        problems.append(f"image_size must lie in {sizes}; got image_size={spec.image_size}")
    elif bool(backbone.hub_class) != (network.architecture is not None):
        problems.append(f"architecture must be that of KerasHub's {backbone.hub_class or 'none'}")
    if not spec.views or len(set(spec.views)) < len(spec.views):
        problems.append(f"views must be different ones, at least one; got {list(spec.views)}")
    if network.head == "features" and (spec.mirrored or spec.views != ("central",)):
        problems.append("a model with head=features must take the central view alone")
    if not 0 <= network.num_unlike_axes <= MAX_UNLIKE_AXES:
        problems.append(
            f"num_unlike_axes must lie in 0..{MAX_UNLIKE_AXES}; got "
            f"num_unlike_axes={network.num_unlike_axes}"
        )
    if problems:
        raise ModelError(
            f"{uri} must describe a model that repot has trained; {'; '.join(problems)}. Use the "
            f"{MODEL_SPEC_NAME} that was published with the model."
        )


def _read_model_record(model_uri: str) -> ModelRecord | None:
    """Return the model.json of a version; None for the folder of a run, or a copy of a model."""
    is_version = storage.exists(storage.join(model_uri, MODEL_RECORD_NAME))
    return read_model_record(model_uri) if is_version else None


def _expected_files(model_uri: str, record: ModelRecord | None) -> dict[str, FileChecksum]:
    """Return what is known of the files of a model, by name.

    Those of a version are listed in its model.json, those of a run in the run's checksums.json. A
    model of an earlier repot, or one that was copied without them, has no list.
    """
    if record is not None:
        return {file.name: file for file in record.files}
    folder_uri, _, name = model_uri.rpartition("/")
    checksums = None
    if name == MODEL_FOLDER:
        checksums = read_checksums(folder_uri, max_bytes=MAX_RECORD_BYTES)
    prefix = f"{MODEL_FOLDER}/"
    return {
        file.name.removeprefix(prefix): file
        for file in (checksums.files if checksums else ())
        if file.name.startswith(prefix)
    }


def _check_file(model_uri: str, expected: FileChecksum, path: Path | None = None) -> None:
    uri = storage.join(model_uri, PurePosixPath(expected.name).name)
    if change := describe_change(str(path.absolute()) if path else uri, expected):
        raise ModelError(
            f"A model must have the files that it was published with; {uri}: {change}. Restore it "
            "from a backup, or train again with a new `rebuild` text."
        )


def as_model(network: Any, labels: Sequence[str], spec: ModelSpec) -> Model:
    """Return a keras.Model as an image classifier, see `Model`."""
    import tensorflow as tf

    shape = [None, spec.image_size, spec.image_size, 3]
    signature = (tf.TensorSpec(shape, tf.float32),) * len(spec.views)

    # AutoGraph would convert the code of every layer, for nothing.
    @tf.function(  # type: ignore[untyped-decorator]
        autograph=False, input_signature=[signature]
    )
    def call(views: tuple[Any, ...]) -> tuple[Any, Any]:
        answers = network(list(views) if len(views) > 1 else views[0], training=False)
        if isinstance(answers, dict):
            return answers["probabilities"], answers["unlike"]
        return answers, tf.zeros(tf.shape(answers)[:1])

    return Model(labels=tuple(labels), spec=spec, network=network, call=call)
