from typing import Any

import numpy as np
import pytest

from repot.dataset import open_shards
from repot.manifest import load_manifest
from repot.trainer.batches import FeatureTable, Pictures, feature_batches


@pytest.fixture(scope="module")
def pictures(sample_dataset_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    manifest = load_manifest(sample_dataset_uri)
    shards = open_shards(
        sample_dataset_uri, manifest.split_shards("train"), tmp_path_factory.mktemp("scratch")
    )
    return Pictures(
        shards=tuple(shards),
        num_examples=manifest.num_examples("train"),
        image_size=16,
        batch_size=32,
        shuffle_buffer=1024,
        seed=5,
    )


def collect(batches: Any) -> tuple[Any, Any, Any]:
    columns = zip(*batches.as_numpy_iterator(), strict=True)
    inputs, labels, mask = (np.concatenate(column) for column in columns)
    return inputs, labels, mask


@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_evaluation_from_a_later_batch_is_the_rest(pictures: Pictures, first: int) -> None:
    every, rest = (
        list(batches.as_numpy_iterator())
        for batches in (pictures.batches(), pictures.batches(first))
    )

    assert len(rest) == max(0, len(every) - first)
    for one, other in zip(every[first:], rest, strict=True):
        for column, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(column, same)


def test_evaluation_has_every_example_once_and_in_order(
    pictures: Pictures, sample_dataset_uri: str
) -> None:
    inputs, labels, mask = collect(pictures.batches())

    counts = load_manifest(sample_dataset_uri).class_counts("train")
    real = mask > 0
    assert len(labels) % pictures.batch_size == 0
    assert len(labels) - pictures.num_examples < pictures.batch_size
    assert real.sum() == pictures.num_examples
    assert real[: pictures.num_examples].all()
    assert np.bincount(labels[real])[1:].tolist() == list(counts.values())
    np.testing.assert_array_equal(inputs, collect(pictures.batches())[0])


def test_training_has_every_example_once_an_epoch(pictures: Pictures) -> None:
    _, labels, mask = collect(pictures.distorted_batches(0))

    evaluated = collect(pictures.batches())
    assert mask.sum() == pictures.num_examples
    np.testing.assert_array_equal(
        np.sort(labels[mask > 0]), np.sort(evaluated[1][evaluated[2] > 0])
    )


def test_epoch_alone_decides_its_batches(pictures: Pictures) -> None:
    first, again, next_epoch = (collect(pictures.distorted_batches(epoch)) for epoch in (3, 3, 4))

    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[1], next_epoch[1])


def test_feature_batches_pad_the_last_one() -> None:
    table = FeatureTable(
        features=np.arange(10, dtype=np.float32).reshape(5, 2), labels=np.arange(1, 6)
    )

    features, labels, mask = collect(feature_batches(table, 4, seed=None))

    assert labels.tolist() == [1, 2, 3, 4, 5, 0, 0, 0]
    assert mask.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(features[:5], table.features)


@pytest.mark.parametrize("num_examples", [3, 4, 5])
def test_feature_batches_keep_features_and_labels_together_in_any_order(num_examples: int) -> None:
    table = FeatureTable(
        features=np.arange(num_examples, dtype=np.float32)[:, None], labels=np.arange(num_examples)
    )

    features, labels, mask = collect(feature_batches(table, 4, seed=1))

    np.testing.assert_array_equal(features[mask > 0][:, 0], labels[mask > 0])
    assert sorted(labels[mask > 0]) == list(range(num_examples))
