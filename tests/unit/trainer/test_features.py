"""Features are computed once per picture, checkpoint and view, and read from the store after."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from repot.dataset import Examples
from repot.errors import CorruptShardError, StoppedError, TrainingError
from repot.example_digests import Contents
from repot.manifest import SPLITS, read_manifest
from repot.memory import MemoryLimit
from repot.preprocessing import central_crop, decode_jpeg, view_picture
from repot.records import Value, decode_example, encode_example, frame_record, read_records
from repot.trainer import features, step
from repot.trainer.batches import FeatureTable, Pictures
from repot.trainer.features import CENTRAL, FeatureReader, PictureView
from tests.shard_files import contents_of, examples_of
from tests.unit.trainer.stop_after import StopAfter

NUM_TRAIN = 92
WHOLE, MIRRORED = PictureView("whole"), PictureView("central", mirrored=True)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute 92 training pictures in 12 batches and store them in parts of 16."""
    monkeypatch.setattr(features, "BATCH_SIZE", 8)
    monkeypatch.setattr(features, "PART_ROWS", (16, 16))


@pytest.fixture(scope="module")
def shards(sample_dataset_uri: str) -> dict[str, list[Path]]:
    manifest = read_manifest(sample_dataset_uri)
    return {
        split: [Path(sample_dataset_uri, each.shard) for each in manifest.split_shards(split)]
        for split in SPLITS
    }


class CallCounter(keras.layers.Layer):  # type: ignore[misc]
    """Counts how often the backbone is called, in `num_calls`."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = tf.Variable(0, trainable=False)

    def call(self, inputs: Any) -> Any:
        self.num_calls.assign_add(1)
        return inputs


class Backbone:
    """A tiny backbone with counted calls."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(3)
        self._counter = CallCounter()
        pictures = keras.Input([16, 16, 3])
        maps = keras.layers.Conv2D(5, 3, activation="relu")(self._counter(pictures))
        self.extractor = keras.Model(pictures, keras.layers.GlobalAveragePooling2D()(maps))

    def num_calls(self) -> int:
        """Return the number of calls since this was last asked."""
        count = int(self._counter.num_calls)
        self._counter.num_calls.assign(0)
        return count


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone()


@pytest.fixture
def make_reader(
    backbone: Backbone, shards: dict[str, list[Path]], tmp_path: Path
) -> Callable[..., FeatureReader]:
    """Return a function that starts a new training with the same store."""
    backbone.num_calls()

    def make(
        files: dict[str, list[Path]] = shards,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        checkpoint_id: str = "c",
        features_uri: str = str(tmp_path / "features"),
        contents: Callable[[str], Contents] | None = None,
    ) -> FeatureReader:
        pictures = {
            split: Pictures(
                examples=examples_of(paths),
                image_size=16,
                batch_size=8,
                shuffle_buffer=1024,
                seed=5,
            )
            for split, paths in files.items()
        }
        return FeatureReader(
            backbone.extractor,
            pictures,
            contents=contents or (lambda split: contents_of(files[split])),
            features_uri=features_uri,
            checkpoint_id=checkpoint_id,
            backbone="tiny",
            scratch=tmp_path,
            strategy=tf.distribute.get_strategy(),
            should_stop=should_stop,
        )

    return make


def parts(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.vectors"))


def assert_equal(found: FeatureTable, expected: FeatureTable) -> None:
    np.testing.assert_array_equal(found.features, expected.features)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.digests, expected.digests)


def expected_features(backbone: Backbone, paths: list[Path], view: Callable[[Any], Any]) -> Any:
    """Compute the features of every example in order, as the model would see it."""
    pictures = [view(decode_jpeg(example["encoded"])) for example in examples_of(paths).read()]
    vectors = backbone.extractor(tf.stack(pictures), training=False).numpy()
    backbone.num_calls()
    return vectors


def test_features_are_those_of_the_examples_in_order(
    make_reader: Callable[..., FeatureReader], backbone: Backbone, shards: dict[str, list[Path]]
) -> None:
    (table,) = make_reader().read("train")

    expected = expected_features(backbone, shards["train"], lambda p: central_crop(p, 16))
    np.testing.assert_allclose(table.features, expected, atol=1e-6)
    labels = [int(example["label"]) for example in examples_of(shards["train"]).read()]
    np.testing.assert_array_equal(table.labels, labels)
    assert table.features.dtype == np.float32


def test_each_view_has_its_own_features(
    make_reader: Callable[..., FeatureReader], backbone: Backbone, shards: dict[str, list[Path]]
) -> None:
    tables = make_reader().read("validation", (CENTRAL, WHOLE, MIRRORED))

    views: list[Callable[[Any], Any]] = [
        lambda picture: central_crop(picture, 16),
        lambda picture: view_picture(picture, 16, "whole"),
        lambda picture: central_crop(picture, 16)[:, ::-1],
    ]
    for table, view in zip(tables, views, strict=True):
        expected = expected_features(backbone, shards["validation"], view)
        np.testing.assert_allclose(table.features, expected, atol=1e-6)


def test_second_training_computes_nothing(
    make_reader: Callable[..., FeatureReader], backbone: Backbone
) -> None:
    (table,) = make_reader().read("train")
    assert backbone.num_calls() == 12

    (again,) = make_reader().read("train")

    assert backbone.num_calls() == 0
    assert_equal(again, table)


def test_other_views_and_checkpoints_compute_their_own_features(
    make_reader: Callable[..., FeatureReader], backbone: Backbone
) -> None:
    make_reader().read("train")
    backbone.num_calls()

    make_reader().read("train", (CENTRAL, WHOLE))
    assert backbone.num_calls() == 12  # of WHOLE

    make_reader(checkpoint_id="d").read("train")
    assert backbone.num_calls() == 12

    make_reader().read("train", (WHOLE, CENTRAL))
    assert backbone.num_calls() == 0


def test_only_new_pictures_are_computed(
    make_reader: Callable[..., FeatureReader],
    backbone: Backbone,
    shards: dict[str, list[Path]],
    tmp_path: Path,
) -> None:
    make_reader({"train": shards["train"]}).read("train")
    backbone.num_calls()
    # Another dataset: most of the pictures in another order, in one shard, with 3 new ones.
    records = [record for path in shards["train"] for record in read_records(path)][:1:-1]
    new = [record for path in shards["validation"] for record in read_records(path)][:3]
    path = tmp_path / "train-00000-of-00001"
    path.write_bytes(b"".join(map(frame_record, records[:40] + new + records[40:])))

    (table,) = make_reader({"train": [path]}).read("train")

    assert backbone.num_calls() == 1
    expected = expected_features(backbone, [path], lambda p: central_crop(p, 16))
    np.testing.assert_allclose(table.features, expected, atol=1e-6)
    make_reader({"train": [path]}).read("train")
    assert backbone.num_calls() == 0


def test_same_picture_under_another_label_and_name_is_computed_once(
    make_reader: Callable[..., FeatureReader],
    backbone: Backbone,
    shards: dict[str, list[Path]],
    tmp_path: Path,
) -> None:
    example = decode_example(next(read_records(shards["train"][0])))
    copies: list[dict[str, list[Value]]] = [
        {**example, "image/class/label": [label], "image/filename": [str(label).encode()]}
        for label in range(1, 21)
    ]
    path = tmp_path / "train-00000-of-00001"
    path.write_bytes(b"".join(frame_record(encode_example(copy)) for copy in copies))

    (table,) = make_reader({"train": [path]}).read("train")

    assert backbone.num_calls() == 1
    np.testing.assert_array_equal(table.labels, range(1, 21))
    assert len(np.unique(table.features, axis=0)) == 1


@pytest.mark.parametrize("num_batches", [0, 1, 5, 11])
def test_stopped_training_keeps_what_it_computed(
    make_reader: Callable[..., FeatureReader], backbone: Backbone, num_batches: int
) -> None:
    with pytest.raises(StoppedError, match="computed features"):
        make_reader(should_stop=StopAfter(num_batches)).read("train")
    assert backbone.num_calls() == num_batches

    (table,) = make_reader().read("train")

    assert backbone.num_calls() == 12 - num_batches
    backbone.num_calls()
    (whole,) = make_reader(checkpoint_id="d").read("train")
    assert_equal(table, whole)


def test_features_of_a_trained_backbone_are_not_stored(
    make_reader: Callable[..., FeatureReader], backbone: Backbone, tmp_path: Path
) -> None:
    reader = make_reader()
    kernel = backbone.extractor.weights[1]
    before = kernel.numpy()
    kernel.assign(before + 1)

    with pytest.raises(ValueError, match="before the backbone is trained"):
        reader.read("train")

    kernel.assign(before)
    assert parts(tmp_path) == []


def test_stored_features_need_no_shard(
    make_reader: Callable[..., FeatureReader],
    shards: dict[str, list[Path]],
    tmp_path: Path,
) -> None:
    (table,) = make_reader().read("train")
    contents = contents_of(shards["train"])
    copies = [tmp_path / path.name for path in shards["train"]]
    for path, copy in zip(shards["train"], copies, strict=True):
        copy.write_bytes(path.read_bytes())
    reader = make_reader({"train": copies}, contents=lambda split: contents)
    for copy in copies:
        copy.unlink()

    (again,) = reader.read("train")

    assert_equal(again, table)


@pytest.mark.parametrize("num_workers", [2, 3, 5])
def test_workers_read_and_compute_only_their_shares(
    num_workers: int,
    make_reader: Callable[..., FeatureReader],
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (expected,) = make_reader(checkpoint_id="one worker").read("train")
    monkeypatch.setattr(features, "any_worker", lambda strategy, is_true: is_true)
    numbers: list[Any] = []
    read = Examples.read

    def read_and_note(examples: Examples, which: Any = None) -> Any:
        numbers.append(which)
        return read(examples, which)

    def refuse_table(*_: object) -> None:
        raise AssertionError("A worker that only stores its share needs no table.")

    new_table = features._new_table
    monkeypatch.setattr(features, "_new_table", refuse_table)
    monkeypatch.setattr(Examples, "read", read_and_note)
    for worker in range(num_workers):
        monkeypatch.setattr(
            features,
            "worker_share",
            lambda strategy, number, worker=worker: slice(
                number * worker // num_workers, number * (worker + 1) // num_workers
            ),
        )
        make_reader().compute("train")

    assert max(map(len, numbers)) <= -(-NUM_TRAIN // num_workers)
    assert np.concatenate(numbers).tolist() == list(range(NUM_TRAIN))
    backbone.num_calls()
    monkeypatch.setattr(features, "_new_table", new_table)
    (table,) = make_reader().read("train")
    assert backbone.num_calls() == 0
    assert_equal(table, expected)


def test_equal_pictures_in_two_shares_are_computed_once(
    make_reader: Callable[..., FeatureReader],
    backbone: Backbone,
    shards: dict[str, list[Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The second worker's pictures are those of the first one.
    twice = {"validation": [*shards["validation"], *shards["validation"]]}
    monkeypatch.setattr(features, "any_worker", lambda strategy, is_true: is_true)
    monkeypatch.setattr(
        features, "worker_share", lambda strategy, number: slice(number // 2, number)
    )

    make_reader(twice).compute("validation")

    assert backbone.num_calls() == 0


def test_worker_computes_what_another_one_could_not_store(
    make_reader: Callable[..., FeatureReader], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = make_reader(checkpoint_id="d").read("train")
    backbone.num_calls()
    monkeypatch.setattr(features, "any_worker", lambda strategy, is_true: is_true)
    monkeypatch.setattr(features, "worker_share", lambda strategy, number: slice(0, number // 2))

    (table,) = make_reader().read("train")

    assert backbone.num_calls() == 12
    assert_equal(table, expected)


@pytest.mark.parametrize("wrong", ["digest", "class"])
def test_example_that_is_not_what_the_dataset_states_is_an_error(
    wrong: str, make_reader: Callable[..., FeatureReader], shards: dict[str, list[Path]]
) -> None:
    stated = contents_of(shards["train"])
    digests, class_ids = stated.digests.copy(), stated.class_ids.copy()
    if wrong == "digest":
        digests[70] = b"x" * 16
    else:
        class_ids[70] += 1
    contents = Contents(digests=digests, class_ids=class_ids)

    with pytest.raises(CorruptShardError, match=r"train\.bin .* differ for example 70\. Delete"):
        make_reader(contents=lambda split: contents).read("train")


def test_split_without_pictures_has_an_empty_table(
    make_reader: Callable[..., FeatureReader],
) -> None:
    (table,) = make_reader({"validation": []}).read("validation")

    assert table.features.shape == (0, 5)
    assert table.labels.shape == table.digests.shape == (0,)


def test_damaged_part_is_computed_again(
    make_reader: Callable[..., FeatureReader],
    backbone: Backbone,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (table,) = make_reader().read("train")
    stored = parts(tmp_path)
    assert len(stored) == 6
    stored[2].write_bytes(stored[2].read_bytes()[:-1])
    stored[4].unlink()
    backbone.num_calls()

    with caplog.at_level(logging.WARNING):
        (again,) = make_reader().read("train")

    assert backbone.num_calls() in (3, 4)  # 16 pictures each; the smallest part has 12
    assert_equal(again, table)
    assert len([message for message in caplog.messages if "computed again" in message]) == 2
    make_reader().read("train")
    assert backbone.num_calls() == 0


def test_store_that_cannot_be_written_does_not_stop_the_training(
    make_reader: Callable[..., FeatureReader],
    shards: dict[str, list[Path]],
    backbone: Backbone,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (expected,) = make_reader().read("validation")
    backbone.num_calls()
    # Each picture twice: the copies are filled without the store.
    twice = [*shards["validation"], *shards["validation"]]

    with caplog.at_level(logging.WARNING):
        (table,) = make_reader({"validation": twice}, features_uri="/proc/f").read("validation")

    assert backbone.num_calls() == 5
    np.testing.assert_array_equal(table.features, np.tile(expected.features, [2, 1]))
    assert any("are not stored" in message for message in caplog.messages)


def test_large_table_is_mapped_to_a_file_that_has_no_name(
    make_reader: Callable[..., FeatureReader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = make_reader().read("train")
    small = MemoryLimit(size_bytes=8 * 4 * 5 * NUM_TRAIN - 1, source="a test")
    monkeypatch.setattr(features, "find_memory_limit", lambda: small)

    (table,) = make_reader().read("train")

    assert isinstance(table.features, np.memmap)
    assert not isinstance(expected.features, np.memmap)
    assert_equal(table, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


@pytest.mark.parametrize("in_memory", [True, False])
def test_training_steps_use_the_memory_of_a_table(
    in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "MAX_MEMORY_SHARE", float(in_memory))
    table = features._new_table(3, 5, tmp_path)
    other = np.zeros([4, 5], np.float32).ravel()[5:].reshape(3, 5)  # not where a page begins

    shared, copied = step._share_memory(table), step._share_memory(other)
    table[1, 2] = other[1, 2] = 7

    assert isinstance(table, np.memmap) != in_memory
    assert shared.numpy().tolist() == table.tolist()
    assert not copied.numpy().any()


def test_full_disk_is_an_error_that_says_what_to_do(
    make_reader: Callable[..., FeatureReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "MAX_MEMORY_SHARE", 0.0)
    monkeypatch.setattr(os, "posix_fallocate", fail)

    with pytest.raises(TrainingError, match=r"features of 92 pictures.*No space left.*TMPDIR"):
        make_reader().read("train")
