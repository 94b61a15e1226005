"""Shows some training pictures as the network sees them: in TensorBoard and in the report.

Augmentation that hides what decides the label is easy to see and hard to measure.
"""

import base64
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from repot import storage
from repot.augmentation import TrainingPictures, augment, crop_for_training
from repot.dataset import Numbers, decode_boxes
from repot.example_digests import ClassIds
from repot.json_record import write_record
from repot.layout import AUGMENTED_NAME, EVENTS_FOLDER
from repot.preprocessing import decode_jpeg, view_picture
from repot.trainer.batches import Pictures
from repot.training_record import AugmentedExample, AugmentedPictures

NUM_EXAMPLES = 4
NUM_VARIANTS = 7
"""Variants of each picture."""

MAX_CHOSEN_FROM = 2048
"""First pictures of the dataset that may be chosen, so that the first shards have them."""

_MAX_SIDE = 144  # pixels
_JPEG_QUALITY = 82


class _Example(NamedTuple):
    """A training picture: its class id, its JPEG, and its boxes as `decode_boxes` returns them."""

    label: int
    encoded: bytes
    boxes: Any


def write_augmented_pictures(
    pictures: Pictures, class_ids: ClassIds, labels: Sequence[str], run_uri: str, *, flip: bool
) -> None:
    """Write augmented_pictures.json, and the same pictures as TensorBoard images in events/.

    Equal arguments give an equal file. Nothing is written if it exists already, or if the pictures
    are not changed.

    Args:
        pictures: The training pictures.
        class_ids: Their class ids.
        labels: Label names; labels[i] has class_id i + 1.
        run_uri: Folder of the training.
        flip: Whether pictures may be mirrored.
    """
    uri = storage.join(run_uri, AUGMENTED_NAME)
    if pictures.augmentation == "none" or storage.exists(uri):
        return
    chosen = _read_examples(pictures, _choose_numbers(class_ids))
    # uint8 [NUM_EXAMPLES, 1 + NUM_VARIANTS, image_size, image_size, 3]
    rows = np.stack([_draw_row(example, i, pictures, flip) for i, example in enumerate(chosen)])
    names = [labels[example.label - 1] for example in chosen]
    _write_events(rows, names, storage.join(run_uri, EVENTS_FOLDER))
    record = AugmentedPictures(
        augmentation=pictures.augmentation,
        has_flips=flip,
        examples=tuple(
            AugmentedExample(
                label=name, original=_data_uri(row[0]), augmented=tuple(map(_data_uri, row[1:]))
            )
            for name, row in zip(names, rows, strict=True)
        ),
    )
    write_record(uri, record)


def _choose_numbers(class_ids: ClassIds) -> Numbers:
    """Return the first pictures of different labels, then of any label, of the first pictures."""
    class_ids = class_ids[:MAX_CHOSEN_FROM]
    _, firsts = np.unique(class_ids, return_index=True)
    others = np.setdiff1d(np.arange(len(class_ids)), firsts)
    return np.concatenate([np.sort(firsts), others])[:NUM_EXAMPLES]


def _read_examples(pictures: Pictures, numbers: Numbers) -> list[_Example]:
    return [
        _Example(int(record["label"]), record["encoded"], decode_boxes(record))
        for record in pictures.examples.read(numbers).as_numpy_iterator()
    ]


def _draw_row(example: _Example, index: int, pictures: Pictures, flip: bool) -> Any:
    """Return a picture as evaluation sees it, and as training sees it in some epochs."""
    original = view_picture(decode_jpeg(example.encoded), pictures.image_size, "central")
    crops = [
        crop_for_training(
            example.encoded,
            pictures.image_size,
            [pictures.seed, index * NUM_VARIANTS + variant],
            augmentation=pictures.augmentation,
            boxes=example.boxes,
        )
        for variant in range(NUM_VARIANTS)
    ]
    batch = TrainingPictures(*map(tf.stack, zip(*crops, strict=True)))
    inputs = augment(batch, augmentation=pictures.augmentation, flip=flip)
    row = tf.concat([original[tf.newaxis], inputs], axis=0)
    return tf.image.convert_image_dtype(row, tf.uint8, saturate=True).numpy()


def _write_events(rows: Any, names: Sequence[str], folder_uri: str) -> None:
    with tempfile.TemporaryDirectory(prefix="repot-events-") as scratch:
        with tf.summary.create_file_writer(scratch).as_default():
            for i, (row, name) in enumerate(zip(rows, names, strict=True)):
                tf.summary.image(f"training pictures/{i + 1} {name}", row, 0, len(row))
            tf.summary.flush()
        storage.upload_folder(Path(scratch), folder_uri)


def _data_uri(pixels: Any) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
