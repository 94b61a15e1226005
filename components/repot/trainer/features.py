"""The frozen backbone's features of every picture, computed once and kept beside the training state."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from repot import progress
from repot.errors import StoppedError
from repot.trainer.batches import FeatureTable, Pictures
from repot.trainer.state import TrainingState

_FILE_NAME = "features.npz"


def cached_features(
    extractor: Any, pictures: Mapping[str, Pictures], state: TrainingState, should_stop: Callable[[], bool]
) -> dict[str, FeatureTable]:
    """Return the features of each split, from the training state or computed and put there.

    Args:
        extractor: keras.Model from pictures to features.
        pictures: The splits by name.
        state: Where features are kept for a second start.
        should_stop: Asked before every batch.

    Raises:
        StoppedError: It was asked to stop; nothing of the features is kept.
    """
    stored = state.read_file(_FILE_NAME)
    if stored is None:
        tables = _compute_all(extractor, pictures, should_stop)
        state.write_file(_FILE_NAME, _packed(tables))
        return tables
    with np.load(io.BytesIO(stored)) as arrays:
        return {
            split: FeatureTable(features=arrays[f"{split}_features"], labels=arrays[f"{split}_labels"])
            for split in pictures
        }


def _compute_all(
    extractor: Any, pictures: Mapping[str, Pictures], should_stop: Callable[[], bool]
) -> dict[str, FeatureTable]:
    total = sum(split.num_examples for split in pictures.values())
    extract = tf.function(lambda batch: extractor(batch, training=False), reduce_retracing=True)
    tables, done = {}, 0
    for name, split in pictures.items():
        features, labels = [], []
        for inputs, batch_labels, mask in split.batches():
            if should_stop():
                raise StoppedError("The training was asked to stop while it computed features. Start it again.")
            real = mask.numpy() > 0
            features.append(extract(inputs).numpy()[real])
            labels.append(batch_labels.numpy()[real])
            done += int(real.sum())
            progress.report("train", done, total, unit="pictures", note="features of the frozen backbone")
        width = extractor.output.shape[-1]
        tables[name] = FeatureTable(
            features=np.concatenate([np.zeros([0, width], np.float32), *features]),
            labels=np.concatenate([np.zeros([0], np.int64), *labels]),
        )
    return tables


def _packed(tables: Mapping[str, FeatureTable]) -> bytes:
    buffer = io.BytesIO()
    arrays = {f"{split}_features": table.features for split, table in tables.items()}
    np.savez(buffer, **arrays, **{f"{split}_labels": table.labels for split, table in tables.items()})
    return buffer.getvalue()
