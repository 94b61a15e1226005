"""Features are stored in parts; a resumed training computes only the missing parts."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from repot.dataset import open_shards
from repot.errors import StoppedError
from repot.manifest import SPLITS, read_manifest
from repot.trainer import features
from repot.trainer.batches import FeatureTable, Pictures
from repot.trainer.features import cached_features
from repot.trainer.state import StateStore
from tests.unit.trainer.stop_after import StopAfter

# 92 training and 40 validation pictures in parts of 16; the last parts have 12 and 8.
PART_FILES = [f"features-t-train-{i:05}.npz" for i in range(6)] + [
    f"features-t-validation-{i:05}.npz" for i in range(3)
]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PART_PICTURES", 16)


@pytest.fixture(scope="module")
def pictures(
    sample_dataset_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Pictures]:
    manifest, scratch = read_manifest(sample_dataset_uri), tmp_path_factory.mktemp("scratch")
    return {
        split: Pictures(
            shards=tuple(open_shards(sample_dataset_uri, manifest.split_shards(split), scratch)),
            num_examples=manifest.num_examples(split),
            image_size=16,
            batch_size=8,
            shuffle_buffer=1024,
            seed=5,
        )
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def extractor() -> Any:
    keras.utils.set_random_seed(3)
    pictures = keras.Input([16, 16, 3])
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 3)(pictures))
    return keras.Model(pictures, features)


def store_in(run: Path, training_id: str = "t", *, is_writer: bool = True) -> StateStore:
    return StateStore(str(run), training_id, is_writer=is_writer)


def files(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "state").glob("*"))


def assert_equal(found: dict[str, FeatureTable], expected: dict[str, FeatureTable]) -> None:
    for split in SPLITS:
        np.testing.assert_array_equal(found[split].features, expected[split].features)
        np.testing.assert_array_equal(found[split].labels, expected[split].labels)


@pytest.mark.parametrize(
    ("num_batches", "num_parts", "num_left"),
    [(1, 0, 17), (2, 1, 15), (3, 1, 15), (12, 6, 5), (13, 6, 5), (16, 8, 1)],
)
def test_second_start_computes_only_the_missing_parts(
    pictures: dict[str, Pictures],
    extractor: Any,
    tmp_path: Path,
    *,
    num_batches: int,
    num_parts: int,
    num_left: int,
) -> None:
    whole = cached_features(extractor, pictures, store_in(tmp_path / "whole"), StopAfter())
    with pytest.raises(StoppedError, match="computed features"):
        cached_features(extractor, pictures, store_in(tmp_path), StopAfter(num_batches))
    assert files(tmp_path) == PART_FILES[:num_parts]

    should_stop = StopAfter()
    resumed = cached_features(extractor, pictures, store_in(tmp_path), should_stop)

    assert should_stop.num_calls == num_left
    assert files(tmp_path) == files(tmp_path / "whole") == PART_FILES
    assert_equal(resumed, whole)


def test_start_with_all_parts_computes_nothing(
    pictures: dict[str, Pictures], extractor: Any, tmp_path: Path
) -> None:
    whole = cached_features(extractor, pictures, store_in(tmp_path), StopAfter())

    assert_equal(cached_features(extractor, pictures, store_in(tmp_path), StopAfter(0)), whole)


def test_part_size_does_not_change_the_features(
    pictures: dict[str, Pictures], extractor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts = cached_features(extractor, pictures, store_in(tmp_path / "parts"), StopAfter())
    monkeypatch.setattr(features, "PART_PICTURES", 1024)
    at_once = cached_features(extractor, pictures, store_in(tmp_path / "at_once"), StopAfter())

    assert files(tmp_path / "at_once") == [
        "features-t-train-00000.npz",
        "features-t-validation-00000.npz",
    ]
    assert_equal(in_parts, at_once)
    assert at_once["train"].features.shape == (92, 5)


def test_parts_of_another_training_are_not_used(
    pictures: dict[str, Pictures], extractor: Any, tmp_path: Path
) -> None:
    cached_features(extractor, pictures, store_in(tmp_path), StopAfter())
    should_stop = StopAfter()

    cached_features(extractor, pictures, store_in(tmp_path, "u"), should_stop)

    assert should_stop.num_calls == 17


def test_worker_that_does_not_write_stores_no_part(
    pictures: dict[str, Pictures], extractor: Any, tmp_path: Path
) -> None:
    cached_features(extractor, pictures, store_in(tmp_path, is_writer=False), StopAfter())

    assert files(tmp_path) == []
