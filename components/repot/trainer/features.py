"""The frozen backbone's features of every picture, computed once and kept beside the training state.

<run>/state/features-<training_id>-<split>-<part>.npz   features and labels of up to PART_PICTURES pictures, in order

A part is written when it is whole, after the parts before it: a training that is killed meanwhile goes on with the
first part that is missing, and has the very same features in the end.
"""

import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from repot import progress
from repot.errors import StoppedError
from repot.trainer.batches import FeatureTable, Pictures
from repot.trainer.state import TrainingState

PART_PICTURES = 1024
"""Pictures a part, in whole batches: 8 MB of 2048 features each, seconds on a GPU, a minute or so without one."""

_Extract = Callable[[tuple[Any, Any, Any]], FeatureTable]


def cached_features(
    extractor: Any,
    pictures: Mapping[str, Pictures],
    state: TrainingState,
    should_stop: Callable[[], bool],
) -> dict[str, FeatureTable]:
    """Return the features of each split, from the training state or computed and put there.

    Args:
        extractor: keras.Model from pictures to features.
        pictures: The splits by name.
        state: Where features are kept for a second start.
        should_stop: Asked before every batch.

    Raises:
        StoppedError: It was asked to stop; the parts that are whole are kept.
    """
    infer = tf.function(lambda batch: extractor(batch, training=False), reduce_retracing=True)
    total = sum(split.num_examples for split in pictures.values())
    done = 0

    def count(table: FeatureTable) -> FeatureTable:
        nonlocal done
        done += len(table.labels)
        progress.report(
            "train", done, total, unit="pictures", note="features of the frozen backbone"
        )
        return table

    def extract(batch: tuple[Any, Any, Any]) -> FeatureTable:
        if should_stop():
            raise StoppedError(
                "The training was asked to stop while it computed features. Start it again."
            )
        inputs, labels, mask = batch
        real = mask.numpy() > 0
        return count(
            FeatureTable(features=infer(inputs).numpy()[real], labels=labels.numpy()[real])
        )

    tables = {}
    for name, split in pictures.items():
        prefix = f"features-{state.training_id}-{name}"
        stored = [count(part) for part in _stored_parts(prefix, state)]
        computed = _computed_parts(prefix, split, state, extract, first=len(stored))
        tables[name] = _joined([_no_features(extractor), *stored, *computed])
    return tables


def _stored_parts(prefix: str, state: TrainingState) -> Iterator[FeatureTable]:
    for index in itertools.count():
        data = state.read_file(_file_name(prefix, index))
        if data is None:
            return
        with np.load(io.BytesIO(data)) as arrays:
            yield FeatureTable(features=arrays["features"], labels=arrays["labels"])


def _computed_parts(
    prefix: str, split: Pictures, state: TrainingState, extract: _Extract, *, first: int
) -> Iterator[FeatureTable]:
    """Yield the parts from `first` on, each after it is stored."""
    num_batches = max(1, PART_PICTURES // split.batch_size)
    batches = map(extract, split.batches(first * num_batches))
    for index in itertools.count(first):
        part = list(itertools.islice(batches, num_batches))
        if not part:
            return
        table = _joined(part)
        state.write_file(_file_name(prefix, index), _packed(table))
        yield table


def _file_name(prefix: str, index: int) -> str:
    return f"{prefix}-{index:05d}.npz"


def _no_features(extractor: Any) -> FeatureTable:
    """Return the table of no picture: a split may be empty."""
    return FeatureTable(
        features=np.zeros([0, extractor.output.shape[-1]], np.float32),
        labels=np.zeros([0], np.int64),
    )


def _joined(tables: Sequence[FeatureTable]) -> FeatureTable:
    return FeatureTable(
        features=np.concatenate([table.features for table in tables]),
        labels=np.concatenate([table.labels for table in tables]),
    )


def _packed(table: FeatureTable) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, features=table.features, labels=table.labels)
    return buffer.getvalue()
