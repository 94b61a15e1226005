"""Features in parts: a killed training computes again what no part holds, and nothing else."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from repot.dataset import open_shards
from repot.errors import StoppedError
from repot.manifest import SPLITS, load_manifest
from repot.trainer import features
from repot.trainer.batches import FeatureTable, Pictures
from repot.trainer.features import cached_features
from repot.trainer.state import TrainingState

# 92 training and 40 validation pictures: parts of 16, the last one of each split with 12 and with 8.
PART_FILES = [f"features-t-train-{i:05}.npz" for i in range(6)] + [
    f"features-t-validation-{i:05}.npz" for i in range(3)
]


class Count:
    """Says stop when it was asked more than `limit` times."""

    def __init__(self, limit: int = 1000) -> None:
        self.asked, self.limit = 0, limit

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked > self.limit


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PART_PICTURES", 16)


@pytest.fixture(scope="module")
def pictures(
    sample_dataset_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Pictures]:
    manifest, scratch = load_manifest(sample_dataset_uri), tmp_path_factory.mktemp("scratch")
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


def state_of(run: Path, training_id: str = "t", *, is_writer: bool = True) -> TrainingState:
    return TrainingState.load(str(run), training_id, is_writer=is_writer)


def files(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "state").glob("*"))


def assert_equal(one: dict[str, FeatureTable], other: dict[str, FeatureTable]) -> None:
    for split in SPLITS:
        np.testing.assert_array_equal(one[split].features, other[split].features)
        np.testing.assert_array_equal(one[split].labels, other[split].labels)


@pytest.mark.parametrize(
    ("num_batches", "num_parts", "num_left"),
    [(1, 0, 17), (2, 1, 15), (3, 1, 15), (12, 6, 5), (13, 6, 5), (16, 8, 1)],
)
def test_second_start_computes_only_what_no_part_holds(
    pictures: dict[str, Pictures],
    extractor: Any,
    tmp_path: Path,
    *,
    num_batches: int,
    num_parts: int,
    num_left: int,
) -> None:
    whole = cached_features(extractor, pictures, state_of(tmp_path / "whole"), Count())
    with pytest.raises(StoppedError, match="computed features"):
        cached_features(extractor, pictures, state_of(tmp_path), Count(num_batches))
    assert files(tmp_path) == PART_FILES[:num_parts]

    count = Count()
    resumed = cached_features(extractor, pictures, state_of(tmp_path), count)

    assert count.asked == num_left
    assert files(tmp_path) == files(tmp_path / "whole") == PART_FILES
    assert_equal(resumed, whole)


def test_third_start_computes_nothing(
    pictures: dict[str, Pictures], extractor: Any, tmp_path: Path
) -> None:
    whole = cached_features(extractor, pictures, state_of(tmp_path), Count())

    assert_equal(cached_features(extractor, pictures, state_of(tmp_path), Count(0)), whole)


def test_size_of_the_parts_changes_no_bit(
    pictures: dict[str, Pictures], extractor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts = cached_features(extractor, pictures, state_of(tmp_path / "parts"), Count())
    monkeypatch.setattr(features, "PART_PICTURES", 1024)
    at_once = cached_features(extractor, pictures, state_of(tmp_path / "at_once"), Count())

    assert files(tmp_path / "at_once") == [
        "features-t-train-00000.npz",
        "features-t-validation-00000.npz",
    ]
    assert_equal(in_parts, at_once)
    assert at_once["train"].features.shape == (92, 5)


def test_parts_of_another_training_are_left_alone(
    pictures: dict[str, Pictures], extractor: Any, tmp_path: Path
) -> None:
    cached_features(extractor, pictures, state_of(tmp_path), Count())
    count = Count()

    cached_features(extractor, pictures, state_of(tmp_path, "u"), count)

    assert count.asked == 17


def test_worker_that_is_no_writer_keeps_nothing(
    pictures: dict[str, Pictures], extractor: Any, tmp_path: Path
) -> None:
    cached_features(extractor, pictures, state_of(tmp_path, is_writer=False), Count())

    assert files(tmp_path) == []
