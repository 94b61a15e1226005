"""The answers of a trained model for the pictures that will be scored, computed where it trained.

The evaluation runs on CPUs, where Inception-v3 takes 90 ms per picture; the trainer's GPU computes
the same in a fraction of a second per batch. The evaluation verifies a sample, see
`repot.prediction_store`, and computes only metrics from the rest.
"""

import logging
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from repot import progress
from repot.dataset import Examples
from repot.example_digests import read_digests
from repot.manifest import Manifest, Split
from repot.model_fingerprint import exact_float32
from repot.prediction_store import PART_ROWS, PredictionStore, answers_of
from repot.predictor import BATCH_SIZE, Model

_SPLITS: tuple[Split, ...] = ("validation", "test")

_log = logging.getLogger(__name__)


def store_answers(
    model: Model,
    examples: Mapping[str, Examples],
    *,
    dataset_uri: str,
    manifest: Manifest,
    model_uri: str,
    predictions_uri: str,
) -> None:
    """Store what a model answers for validation and test; nothing is selected by it.

    Args:
        model: The model that was trained.
        examples: The examples of each split.
        dataset_uri, manifest: Their dataset.
        model_uri: Folder of the model's files.
        predictions_uri: Folder of all stored predictions.

    Raises:
        CorruptShardError: A shard's bytes differ from its receipt.
        StorageError: The answers cannot be stored.
    """
    store = PredictionStore(
        predictions_uri, model_uri, num_labels=len(model.labels), author="train"
    )
    for split in _SPLITS:
        if not manifest.num_examples(split):
            continue
        digests = read_digests(dataset_uri, manifest, split, task="train")
        start = 0
        with exact_float32():
            for part in _answer(model, examples[split]):
                store.add(digests[start : start + len(part)], part)
                start += len(part)
                progress.report("score", start, len(digests), unit="pictures")
        _log.info("%d pictures of %s were scored for the evaluation", start, split)


def _answer(model: Model, examples: Examples) -> Iterator[np.ndarray]:
    """Yield the answers for all examples in order, in parts: float32 [n, N + 1]."""

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def prepare(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        return model.prepare(example["encoded"])

    parts: list[np.ndarray] = []
    batches = examples.read().map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH_SIZE)
    for views in batches.prefetch(tf.data.AUTOTUNE):
        probabilities, unlike = model.call(views)
        parts.append(answers_of(probabilities.numpy(), unlike.numpy()))
        if len(parts) * BATCH_SIZE >= PART_ROWS:
            yield np.concatenate(parts)
            parts.clear()
    if parts:
        yield np.concatenate(parts)
