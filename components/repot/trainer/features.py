"""The frozen backbone's features of every picture, computed once and kept beside the state.

    <run>/state/features-<training_id>-<split>-<part>.npz

A part holds the features and labels of up to PART_PICTURES pictures. Parts are written in order,
each once it is complete. A resumed training computes only the missing parts and ends up with
bit-identical features.
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
from repot.trainer.state import StateStore

PART_PICTURES = 1024
"""Pictures per part, rounded down to whole batches.

With 2048 features a part has 8 MB; it takes seconds on a GPU and about a minute on a CPU.
"""


def cached_features(
    extractor: Any,
    pictures: Mapping[str, Pictures],
    store: StateStore,
    should_stop: Callable[[], bool],
) -> dict[str, FeatureTable]:
    """Return the features of each split; computes and stores those that are not stored yet.

    Args:
        extractor: keras.Model from pictures to features.
        pictures: The pictures of each split.
        store: Keeps the parts.
        should_stop: Called before every batch.

    Raises:
        StoppedError: `should_stop` returned True; complete parts are kept.
    """
    infer = tf.function(lambda inputs: extractor(inputs, training=False), reduce_retracing=True)
    total = sum(split.num_examples for split in pictures.values())
    num_done = 0

    def report(table: FeatureTable) -> None:
        nonlocal num_done
        num_done += len(table.labels)
        note = "features of the frozen backbone"
        progress.report("train", num_done, total, unit="pictures", note=note)

    def extract(batch: tuple[Any, Any, Any]) -> FeatureTable:
        if should_stop():
            raise StoppedError(
                "The training was asked to stop while it computed features. Start it again to "
                "resume from the last complete part."
            )
        inputs, labels, mask = batch
        is_example = mask.numpy() > 0
        table = FeatureTable(
            features=infer(inputs).numpy()[is_example], labels=labels.numpy()[is_example]
        )
        report(table)
        return table

    tables = {}
    for name, split in pictures.items():
        prefix = f"features-{store.training_id}-{name}"
        parts = [_empty_table(extractor)]  # a split may have no pictures
        for part in _stored_parts(prefix, store):
            report(part)
            parts.append(part)
        num_batches = max(1, PART_PICTURES // split.batch_size)
        first = len(parts) - 1
        batches = map(extract, split.batches(skip=first * num_batches))
        for index in itertools.count(first):
            computed = list(itertools.islice(batches, num_batches))
            if not computed:
                break
            part = _concatenate(computed)
            store.write_file(_file_name(prefix, index), _pack(part))
            parts.append(part)
        tables[name] = _concatenate(parts)
    return tables


def _stored_parts(prefix: str, store: StateStore) -> Iterator[FeatureTable]:
    for index in itertools.count():
        data = store.read_file(_file_name(prefix, index))
        if data is None:
            return
        with np.load(io.BytesIO(data)) as arrays:
            yield FeatureTable(features=arrays["features"], labels=arrays["labels"])


def _file_name(prefix: str, index: int) -> str:
    return f"{prefix}-{index:05d}.npz"


def _empty_table(extractor: Any) -> FeatureTable:
    return FeatureTable(
        features=np.zeros([0, extractor.output.shape[-1]], np.float32),
        labels=np.zeros([0], np.int64),
    )


def _concatenate(tables: Sequence[FeatureTable]) -> FeatureTable:
    return FeatureTable(
        features=np.concatenate([table.features for table in tables]),
        labels=np.concatenate([table.labels for table in tables]),
    )


def _pack(table: FeatureTable) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, features=table.features, labels=table.labels)
    return buffer.getvalue()
