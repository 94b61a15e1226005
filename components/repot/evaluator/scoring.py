"""Asks a model about every example of a split, once each."""

import heapq
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from repot import progress
from repot.dataset import load_manifest, open_shards, read_examples
from repot.errors import DataError, ModelError
from repot.evaluator.outcomes import Mistake, Outcome, outcomes_of
from repot.predictor import Model, load_model

BATCH_SIZE = 32
MAX_MISTAKES = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What a model said of a split.

    Attributes:
        outcomes: One for each example, in the order of the shards.
        mistakes: The surest wrong guesses, the surest first; at most MAX_MISTAKES.
        labels: Every label of the data set, then those that only the model has.
    """

    outcomes: tuple[Outcome, ...]
    mistakes: tuple[Mistake, ...]
    labels: tuple[str, ...]


def score(
    model_uri: str, dataset_uri: str, *, subset: str, num_examples: int = 0, task: str = "evaluate"
) -> Scored:
    """Ask a model about the first `num_examples` examples of a split, 0 for all; labels are matched by name.

    Args:
        model_uri: Folder with model.keras and labels.txt.
        dataset_uri: The data set.
        subset: The split.
        num_examples: At most so many; never more than there are.
        task: The task that progress is reported for.

    Raises:
        DataError: There is no data set, or the split is empty.
        CorruptShardError: A shard's bytes are not those of its receipt.
        ModelError: The model cannot be loaded, or does not answer with numbers.
    """
    manifest, model = load_manifest(dataset_uri), load_model(model_uri)
    total = min(num_examples or manifest.num_examples(subset), manifest.num_examples(subset))
    if total == 0:
        raise DataError(
            f"A data set must have a {subset} example to be scored on; {dataset_uri} has none. Add pictures."
        )
    outcomes: list[Outcome] = []
    mistakes: list[tuple[float, int, Mistake]] = []
    with tempfile.TemporaryDirectory(prefix="repot-evaluate-") as scratch:
        shards = open_shards(dataset_uri, manifest.split_shards(subset), Path(scratch))
        for said, jpegs in _batches(model, shards, manifest.labels, total):
            wrong = ((one, jpeg) for one, jpeg in zip(said, jpegs, strict=True) if not one.correct)
            for i, (one, jpeg) in enumerate(wrong, start=len(outcomes)):
                _keep_worst(mistakes, (one.probability, -i, Mistake(outcome=one, jpeg=jpeg)))
            outcomes += said
            progress.report(task, len(outcomes), total, unit="pictures")
    return Scored(
        outcomes=tuple(outcomes),
        mistakes=tuple(mistake for _, _, mistake in sorted(mistakes, reverse=True)),
        labels=tuple(dict.fromkeys((*manifest.labels, *model.labels))),
    )


def _batches(
    model: Model, shards: Sequence[Path], labels: Sequence[str], total: int
) -> Iterator[tuple[list[Outcome], list[bytes]]]:
    """Yield the outcomes and the pictures of each batch; the last batch is as short as it is."""

    def prepared(example: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return model.prepare(example["encoded"]), example

    examples = read_examples(shards).take(total).map(prepared, num_parallel_calls=tf.data.AUTOTUNE)
    for pictures, facts in examples.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE):
        filenames = [name.decode(errors="replace") for name in facts["filename"].numpy()]
        truth = [labels[class_id - 1] for class_id in facts["label"].numpy()]
        scores = model.call(pictures).numpy()
        if not np.all(np.isfinite(scores)):
            first = filenames[int(np.argmin(np.all(np.isfinite(scores), axis=1)))]
            raise ModelError(
                f"A model must answer with numbers; for the picture {first} it does not. Train again."
            )
        yield outcomes_of(filenames, truth, scores, model.labels), list(facts["encoded"].numpy())


def _keep_worst(
    mistakes: list[tuple[float, int, Mistake]], item: tuple[float, int, Mistake]
) -> None:
    """Add to a heap of the surest mistakes; among equally sure ones the earlier picture counts as worse."""
    if len(mistakes) < MAX_MISTAKES:
        heapq.heappush(mistakes, item)
    else:
        heapq.heappushpop(mistakes, item)
