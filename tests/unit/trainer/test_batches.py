import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from repot.augmentation import mixup
from repot.dataset import Numbers, open_examples
from repot.manifest import read_manifest
from repot.records import Box, encode_example, frame_record, picture_features
from repot.trainer.batches import FeatureTable, Pictures, Share, feature_batches
from tests.shard_files import examples_of


@pytest.fixture(scope="module")
def pictures(sample_dataset_uri: str) -> Iterator[Pictures]:
    with open_examples(sample_dataset_uri, read_manifest(sample_dataset_uri)) as examples:
        yield Pictures(
            examples=examples["train"],
            image_size=16,
            batch_size=32,
            shuffle_buffer=1024,
            seed=5,
            augmentation="inception",
        )


def collect(batches: Any) -> tuple[Any, Any, Any]:
    """Return the inputs, labels and masks of all batches, each as one array."""
    columns = zip(*batches.as_numpy_iterator(), strict=True)
    inputs, labels, mask = (
        tf.nest.map_structure(lambda *parts: np.concatenate(parts), *column) for column in columns
    )
    return inputs, labels, mask


def assert_rest(every: Any, rest: Any, skip: int) -> None:
    """Check that the batches `rest` are those of `every` without the first `skip`."""
    expected, found = list(every.as_numpy_iterator())[skip:], list(rest.as_numpy_iterator())
    assert len(found) == len(expected)
    for batch, same in zip(expected, found, strict=True):
        assert_equal_columns(batch, same)


def assert_equal_columns(expected: Any, found: Any) -> None:
    for column, same in zip(tf.nest.flatten(expected), tf.nest.flatten(found), strict=True):
        np.testing.assert_array_equal(column, same)


@pytest.mark.parametrize("skip", [1, 2, 3, 4])
def test_skipped_batches_leave_the_other_batches_unchanged(pictures: Pictures, skip: int) -> None:
    assert_rest(pictures.batches(), pictures.batches(skip), skip)
    assert_rest(pictures.training_batches(1), pictures.training_batches(1, skip), skip)


def test_evaluation_batches_have_every_example_once_and_in_order(
    pictures: Pictures, sample_dataset_uri: str
) -> None:
    inputs, labels, mask = collect(pictures.batches())

    counts = read_manifest(sample_dataset_uri).class_counts("train")
    is_example = mask > 0
    assert len(labels) % pictures.batch_size == 0
    assert len(labels) - pictures.num_examples < pictures.batch_size
    assert is_example.sum() == pictures.num_examples
    assert is_example[: pictures.num_examples].all()
    assert np.bincount(labels[is_example])[1:].tolist() == list(counts.values())
    np.testing.assert_array_equal(inputs, collect(pictures.batches())[0])


def test_training_batches_have_every_example_once(pictures: Pictures) -> None:
    _, labels, mask = collect(pictures.training_batches(0))

    _, expected, expected_mask = collect(pictures.batches())
    assert mask.sum() == pictures.num_examples
    np.testing.assert_array_equal(np.sort(labels[mask > 0]), np.sort(expected[expected_mask > 0]))


@pytest.mark.parametrize(
    ("batch_size", "num_batches"), [(32, 2), (46, 2), (92, 1), (93, 1), (200, 1)]
)
def test_full_batches_leave_out_the_rest_or_repeat_a_small_dataset(
    batch_size: int, num_batches: int, pictures: Pictures
) -> None:
    assert pictures.num_examples == 92
    pictures = dataclasses.replace(pictures, batch_size=batch_size)

    batches = list(pictures.training_batches(0, only_full=True).as_numpy_iterator())

    assert len(batches) == pictures.num_full_batches == num_batches
    assert all(mask.tolist() == [1.0] * batch_size for _, _, mask in batches)
    numbers = np.concatenate([inputs.draws[:, 0] for inputs, _, _ in batches])
    assert len(set(numbers.tolist())) == num_batches * batch_size
    if num_batches == 2:
        whole = list(pictures.training_batches(0).as_numpy_iterator())
        for batch, same in zip(whole, batches, strict=False):
            assert_equal_columns(batch, same)
        assert_rest(
            pictures.training_batches(0, only_full=True),
            pictures.training_batches(0, 1, only_full=True),
            1,
        )


def test_training_crops_follow_the_boxes_of_the_examples(tmp_path: Path) -> None:
    # Black, except for the object at the right edge.
    picture = np.zeros([64, 64, 3], np.uint8)
    picture[16:48, 40:] = 255
    box = Box(xmin=40 / 64, ymin=16 / 64, xmax=1.0, ymax=48 / 64)
    jpeg = tf.io.encode_jpeg(picture, quality=100).numpy()
    shares = {}
    for name, boxes in (("boxes", (box,)), ("none", None)):
        features = picture_features(
            jpeg=jpeg, height=64, width=64, class_id=1, label="a", filename="a.jpg", boxes=boxes
        )
        path = tmp_path / name
        path.write_bytes(frame_record(encode_example(features)) * 64)
        pictures = Pictures(
            examples=examples_of([path]),
            image_size=16,
            batch_size=64,
            shuffle_buffer=1,
            seed=5,
            augmentation="inception",
        )
        ((inputs, _, _),) = pictures.training_batches(0).as_numpy_iterator()
        shares[name] = float(np.mean(inputs.pixels.max(axis=(1, 2, 3)) > 64))

    assert shares["boxes"] == 1.0
    assert shares["none"] < 0.95


def test_global_seed_does_not_change_the_training_batches(pictures: Pictures) -> None:
    labels = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        labels.append(collect(pictures.training_batches(0))[1])

    np.testing.assert_array_equal(*labels)


def test_training_batches_depend_on_the_epoch_only(pictures: Pictures) -> None:
    first, same, next_epoch = (collect(pictures.training_batches(epoch)) for epoch in (3, 3, 4))

    assert_equal_columns(first, same)
    assert not np.array_equal(first[1], next_epoch[1])


@pytest.mark.parametrize("only", [None, np.arange(1, 92, 2)], ids=["all", "half"])
@pytest.mark.parametrize(("num_workers", "num_replicas"), [(2, 1), (3, 1), (2, 2)])
def test_workers_share_the_batches_of_a_single_worker(
    pictures: Pictures, num_workers: int, num_replicas: int, only: Numbers | None
) -> None:
    pictures = dataclasses.replace(pictures, only=only)

    def shared(worker: int) -> Pictures:
        share = Share(worker=worker, num_workers=num_workers, num_replicas=num_replicas)
        return dataclasses.replace(pictures, share=share)

    workers = [shared(worker) for worker in range(num_workers)]
    whole = list(pictures.training_batches(1, 1).as_numpy_iterator())
    shares = [
        list(worker.training_batches(1, 1).replica_batches.as_numpy_iterator())
        for worker in workers
    ]
    assert {len(share) for share in shares} == {len(whole) * num_replicas}
    for step, batch in enumerate(whole):
        rows = slice(step * num_replicas, (step + 1) * num_replicas)
        inputs, labels, mask = zip(*(part for share in shares for part in share[rows]), strict=True)
        assert {len(part) for part in labels} == {-(-32 // (num_workers * num_replicas))}
        is_example, expected = np.concatenate(mask) > 0, batch[2] > 0
        np.testing.assert_array_equal(np.concatenate(labels)[is_example], batch[1][expected])
        together = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *inputs)
        for found, column in zip(tf.nest.flatten(together), tf.nest.flatten(batch[0]), strict=True):
            np.testing.assert_array_equal(found[is_example], column[expected])
        # BatchNorm sees pictures, not padding; nothing else is done with them.
        assert together.pixels.max(axis=(1, 2, 3)).min() > 0
        assert not np.concatenate(labels)[~is_example].any()
        assert not together.draws[~is_example].any()


@pytest.mark.parametrize(("num_workers", "num_replicas"), [(1, 2), (3, 1), (2, 4)])
def test_blended_pictures_do_not_depend_on_the_number_of_devices(
    pictures: Pictures, num_workers: int, num_replicas: int
) -> None:
    def blend(batch: Any) -> Any:
        inputs, labels, mask = batch
        values = tf.cast(inputs.pixels, tf.float32), tf.one_hot(labels, 5)
        mixed = tf.concat([tf.reshape(each, [len(mask), -1]) for each in values], axis=1)
        mixed, _ = mixup(mixed[:, tf.newaxis, tf.newaxis], mixed, mask, inputs.draws)
        return mixed[mask > 0][:, 0, 0].numpy()

    pictures = dataclasses.replace(pictures, batch_size=30)
    expected = [blend(batch) for batch in pictures.training_batches(1, in_pairs=True)]
    found: list[list[Any]] = [[] for _ in expected]
    for worker in range(num_workers):
        share = Share(worker=worker, num_workers=num_workers, num_replicas=num_replicas)
        shared = dataclasses.replace(pictures, share=share)
        batches = shared.training_batches(1, in_pairs=True).replica_batches
        for i, batch in enumerate(batches):
            found[i // num_replicas].append(blend(batch))

    for parts, whole in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    unmixed = np.concatenate(
        [inputs.pixels[mask > 0] for inputs, _, mask in pictures.training_batches(1)]
    )
    changes = np.abs(np.concatenate(expected)[:, : unmixed[0].size] - unmixed.reshape(92, -1))
    assert np.mean(changes.max(axis=1) > 1) > 0.5


@pytest.mark.parametrize("only", [None, np.arange(1, 92, 2)], ids=["all", "half"])
def test_workers_score_every_example_once(pictures: Pictures, only: Numbers | None) -> None:
    pictures = dataclasses.replace(pictures, only=only)
    _, labels, mask = collect(pictures.scoring_batches())
    found: list[int] = []
    for worker in range(2):
        share = Share(worker=worker, num_workers=2, num_replicas=1)
        batches = dataclasses.replace(pictures, share=share).scoring_batches()
        _, shared_labels, shared_mask = collect(batches.replica_batches)
        assert abs(shared_mask.sum() - len(labels[mask > 0]) / 2) <= 16
        found += shared_labels[shared_mask > 0].tolist()

    assert sorted(found) == sorted(labels[mask > 0].tolist())


def test_last_feature_batch_is_padded() -> None:
    table = FeatureTable(
        features=np.arange(10, dtype=np.float32).reshape(5, 2), labels=np.arange(1, 6)
    )

    features, labels, mask = collect(feature_batches(table, 4).dataset())

    assert labels.tolist() == [1, 2, 3, 4, 5, 0, 0, 0]
    assert mask.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(features[:5], table.features)


@pytest.mark.parametrize("num_examples", [3, 4, 5])
def test_shuffled_features_stay_with_their_labels(num_examples: int) -> None:
    table = FeatureTable(
        features=np.arange(num_examples, dtype=np.float32)[:, None], labels=np.arange(num_examples)
    )

    features, labels, mask = collect(feature_batches(table, 4, seed=1).dataset())

    np.testing.assert_array_equal(features[mask > 0][:, 0], labels[mask > 0])
    assert sorted(labels[mask > 0]) == list(range(num_examples))


def test_features_are_not_copied() -> None:
    table = FeatureTable(features=np.zeros([3, 2], np.float32), labels=np.arange(1, 4))
    batches = feature_batches(table, 2, seed=3).dataset()

    table.features[:] = [[1, 1], [2, 2], [3, 3]]  # after the dataset was built

    features, labels, mask = collect(batches)
    np.testing.assert_array_equal(features[mask > 0][:, 0], labels[mask > 0])


@pytest.mark.parametrize("skip", [1, 2])
def test_skipped_feature_batches_leave_the_other_batches_unchanged(skip: int) -> None:
    table = FeatureTable(features=np.arange(5, dtype=np.float32)[:, None], labels=np.arange(5))

    whole, rest = (feature_batches(table, 4, seed=1, skip=number) for number in (0, skip))

    assert_rest(whole.dataset(), rest.dataset(), skip)
