import base64
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from repot.dataset import open_examples
from repot.json_record import read_record
from repot.manifest import read_manifest
from repot.records import Box, encode_example, frame_record, picture_features
from repot.trainer.augmented_pictures import (
    NUM_EXAMPLES,
    NUM_VARIANTS,
    write_augmented_pictures,
)
from repot.trainer.batches import Pictures
from repot.training_record import AugmentedPictures
from tests.shard_files import examples_of

LABELS = ("birds", "fruit", "mammals", "others")


@pytest.fixture(scope="module")
def pictures(sample_dataset_uri: str) -> Iterator[Pictures]:
    with open_examples(sample_dataset_uri, read_manifest(sample_dataset_uri)) as examples:
        yield Pictures(
            examples=examples["train"],
            image_size=64,
            batch_size=32,
            shuffle_buffer=1024,
            seed=5,
            augmentation="light",
        )


def write(pictures: Pictures, run: Path, *, flip: bool = True) -> bytes:
    class_ids = np.array([int(each["label"]) for each in pictures.examples.read()])
    write_augmented_pictures(pictures, class_ids, LABELS, str(run), flip=flip)
    return (run / "augmented_pictures.json").read_bytes()


def pixels_of(data_uri: str) -> np.ndarray:
    picture = Image.open(io.BytesIO(base64.b64decode(data_uri.partition(",")[2])))
    return np.asarray(picture).astype(int)


def test_file_has_changed_pictures_of_different_labels(pictures: Pictures, tmp_path: Path) -> None:
    write(pictures, tmp_path)

    record = read_record(str(tmp_path / "augmented_pictures.json"), AugmentedPictures)
    assert (record.augmentation, record.has_flips) == ("light", True)
    labels = [example.label for example in record.examples]
    assert len(labels) == NUM_EXAMPLES
    assert len(set(labels)) == NUM_EXAMPLES
    for example in record.examples:
        assert len(set(example.augmented)) == NUM_VARIANTS
        original = pixels_of(example.original)
        assert original.shape == (64, 64, 3)
        # Crops of at least half of the picture resemble it in color.
        for variant in map(pixels_of, example.augmented):
            assert np.abs(variant.mean(axis=(0, 1)) - original.mean(axis=(0, 1))).max() < 60


def test_equal_trainings_write_equal_files_and_other_seeds_do_not(
    pictures: Pictures, tmp_path: Path
) -> None:
    first = write(pictures, tmp_path / "first")

    assert write(pictures, tmp_path / "second") == first
    other_seed = dataclasses.replace(pictures, seed=6)
    assert write(other_seed, tmp_path / "third") != first
    # A resumed training keeps what is there.
    assert write(other_seed, tmp_path / "first") == first
    assert len(list((tmp_path / "first" / "events").iterdir())) == 1


def test_tensorboard_shows_the_pictures(pictures: Pictures, tmp_path: Path) -> None:
    write(pictures, tmp_path)

    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()["tensors"]
    assert len(tags) == NUM_EXAMPLES
    assert all(tag.startswith("training pictures/") for tag in tags)
    (event,) = events.Tensors(tags[0])
    width, height, *encoded = event.tensor_proto.string_val
    assert (int(width), int(height), len(encoded)) == (64, 64, 1 + NUM_VARIANTS)


def test_unchanged_pictures_are_not_shown(pictures: Pictures, tmp_path: Path) -> None:
    unchanged = dataclasses.replace(pictures, augmentation="none")

    write_augmented_pictures(unchanged, np.ones(92, np.int64), LABELS, str(tmp_path), flip=True)

    assert list(tmp_path.iterdir()) == []


def test_pictures_are_cropped_by_their_boxes_as_in_training(tmp_path: Path) -> None:
    # Black, except for the object at the right edge.
    picture = np.zeros([64, 64, 3], np.uint8)
    picture[16:48, 40:] = 255
    features = picture_features(
        jpeg=tf.io.encode_jpeg(picture, quality=100).numpy(),
        height=64,
        width=64,
        class_id=1,
        label="birds",
        filename="a.jpg",
        boxes=(Box(xmin=40 / 64, ymin=16 / 64, xmax=1.0, ymax=48 / 64),),
    )
    path = tmp_path / "shard"
    path.write_bytes(frame_record(encode_example(features)) * NUM_EXAMPLES)
    with_boxes = Pictures(
        examples=examples_of([path]),
        image_size=16,
        batch_size=4,
        shuffle_buffer=1,
        seed=5,
        augmentation="inception",
    )

    write(with_boxes, tmp_path)

    record = read_record(str(tmp_path / "augmented_pictures.json"), AugmentedPictures)
    shown = [variant for example in record.examples for variant in example.augmented]
    assert len(shown) == NUM_EXAMPLES * NUM_VARIANTS
    assert all(pixels_of(variant).max() > 64 for variant in shown)
