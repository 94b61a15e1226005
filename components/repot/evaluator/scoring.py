"""Run a model once on every example of a split."""

import heapq
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import tensorflow as tf

from repot import progress
from repot.dataset import Examples, Numbers, open_examples
from repot.errors import DataError, ModelError
from repot.evaluator.outcomes import SMALLEST_PROBABILITY, Outcome, ScoredPicture, make_outcomes
from repot.example_digests import example_digest, join_digests, read_digests
from repot.manifest import EXCLUSION_REASONS, Manifest, Split, count_reasons, read_manifest
from repot.predictor import Model, load_model

BATCH_SIZE = 32
MAX_MISTAKES = 24
MAX_PER_PAIR = 4
"""Pictures that are kept of each pair of a true and a predicted label."""
MAX_PAIR_BYTES = 1 << 26
"""Most bytes of these pictures."""
MAX_LABELS_OF_RIGHT = 12
"""With more labels, no pictures of right predictions are kept."""
MAX_LOGITS = 1 << 26
"""Most logits that are kept: 256 MiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSplit:
    """The predictions of a model for a split.

    Attributes:
        outcomes: One per example, in the order of the shards.
        mistakes: The most confident mistakes, most confident first; at most MAX_MISTAKES.
        by_pair: Pictures by true and predicted label, at most MAX_PER_PAIR each: the most confident
            mistakes, and the least confident of right predictions. If all pairs have more bytes
            than MAX_PAIR_BYTES, only the most frequent pairs have pictures.
        seconds: Duration of the predictions, the model's loading left out.
        labels: Every label of the dataset, followed by those that only the model has.
        excluded: Number of examples of the split that are not scored, by reason.
        numbers: int64 [num_outcomes], their numbers in the split.
        logits: float32 [num_outcomes, num_labels], logarithms of the probabilities; None unless
            they were asked for, if they are too many, or if the model has other labels than the
            dataset.
    """

    outcomes: tuple[Outcome, ...]
    mistakes: tuple[ScoredPicture, ...]
    by_pair: dict[tuple[str, str], tuple[ScoredPicture, ...]]
    seconds: float
    labels: tuple[str, ...]
    excluded: dict[str, int]
    numbers: Numbers
    logits: Any = None


def score_split(
    model_uri: str,
    dataset_uri: str,
    *,
    subset: str,
    num_examples: int = 0,
    task: str = "evaluate",
    with_logits: bool = False,
) -> ScoredSplit:
    """Predict the first examples of a split, excluded ones left out; labels are matched by name.

    Args:
        model_uri: Folder with model.keras and labels.txt.
        dataset_uri: Folder of the dataset.
        subset: The split.
        num_examples: Maximum number of examples; 0 for all.
        task: Task name for progress reports.
        with_logits: Whether to return logits, too.

    Raises:
        DataError: The dataset does not exist, or the split is empty.
        CorruptShardError: A shard's bytes differ from its receipt.
        ModelError: The model cannot be loaded, or its output is not finite.
    """
    manifest = read_manifest(dataset_uri)
    numbers = _scored_numbers(dataset_uri, manifest, subset, task)
    numbers = numbers[: num_examples or None]
    model = load_model(model_uri)
    outcomes: list[Outcome] = []
    has_logits = (
        with_logits
        and model.labels == manifest.labels
        and len(numbers) * len(model.labels) <= MAX_LOGITS
    )
    shape = [len(numbers), len(model.labels)]
    logits = np.empty(shape, np.float32) if has_logits else None
    worst: list[tuple[float, int, ScoredPicture]] = []  # heap, the least confident mistake first
    pairs = _PairPictures(has_right=len(manifest.labels) <= MAX_LABELS_OF_RIGHT)
    started = time.monotonic()
    with open_examples(dataset_uri, manifest) as examples:
        batches = _predict_batches(model, examples[subset], manifest.labels, numbers)
        for batch, jpegs, probabilities in batches:
            if logits is not None:
                rows = slice(len(outcomes), len(outcomes) + len(batch))
                logits[rows] = np.log(np.maximum(probabilities, SMALLEST_PROBABILITY))
            for i, (outcome, jpeg) in enumerate(zip(batch, jpegs, strict=True), len(outcomes)):
                pairs.add(i, ScoredPicture(outcome=outcome, jpeg=jpeg))
                if not outcome.correct:
                    # -i: among equally confident mistakes, earlier examples are kept.
                    mistake = ScoredPicture(outcome=outcome, jpeg=jpeg)
                    heapq.heappush(worst, (outcome.probability, -i, mistake))
                    if len(worst) > MAX_MISTAKES:
                        heapq.heappop(worst)
            outcomes += batch
            progress.report(task, len(outcomes), len(numbers), unit="pictures")
    return ScoredSplit(
        outcomes=tuple(outcomes),
        mistakes=tuple(mistake for _, _, mistake in sorted(worst, reverse=True)),
        by_pair=pairs.pictures(),
        seconds=time.monotonic() - started,
        labels=tuple(dict.fromkeys((*manifest.labels, *model.labels))),
        excluded=_count_excluded(manifest, subset),
        numbers=numbers,
        logits=logits,
    )


class _PairPictures:
    """The pictures of each pair of labels that are kept while a split is scored.

    Args:
        has_right: Whether right predictions are kept, too.
    """

    def __init__(self, *, has_right: bool) -> None:
        self._has_right = has_right
        self._counts: Counter[tuple[str, str]] = Counter()
        # Heaps: the first one is the next to be dropped.
        self._kept: dict[tuple[str, str], list[tuple[float, int, ScoredPicture]]] = {}
        self._num_bytes = 0

    def add(self, number: int, picture: ScoredPicture) -> None:
        """Keep a picture, if it is one of those to show of its pair."""
        outcome = picture.outcome
        if outcome.correct and not self._has_right:
            return
        pair = outcome.label, outcome.predicted
        self._counts[pair] += 1
        heap = self._kept.setdefault(pair, [])
        sign = -1.0 if outcome.correct else 1.0
        heapq.heappush(heap, (sign * outcome.probability, -number, picture))
        self._num_bytes += len(picture.jpeg)
        if len(heap) > MAX_PER_PAIR:
            self._num_bytes -= len(heapq.heappop(heap)[-1].jpeg)
        if self._num_bytes > MAX_PAIR_BYTES:
            self._drop_rare()

    def pictures(self) -> dict[tuple[str, str], tuple[ScoredPicture, ...]]:
        """Return the pictures of each pair, the first one to show first."""
        return {
            pair: tuple(picture for *_, picture in sorted(heap, reverse=True))
            for pair, heap in self._kept.items()
        }

    def _drop_rare(self) -> None:
        """Drop pictures of the least frequent pairs, until half of the bytes are free."""
        for pair, _ in sorted(self._counts.items(), key=lambda item: (item[1], item[0])):
            if self._num_bytes <= MAX_PAIR_BYTES // 2:
                return
            self._num_bytes -= sum(len(each.jpeg) for *_, each in self._kept.pop(pair, []))


def _scored_numbers(dataset_uri: str, manifest: Manifest, subset: str, task: str) -> Numbers:
    """Return the numbers of the examples of a split that are not excluded, in order."""
    total = manifest.num_examples(subset)
    excluded = [bytes.fromhex(item.digest) for item in manifest.excluded if item.split == subset]
    numbers = np.arange(total)
    if excluded:
        digests = read_digests(dataset_uri, manifest, cast(Split, subset), task=task)
        numbers = np.flatnonzero(~np.isin(digests, join_digests(excluded)))
    if not len(numbers):
        reasons = "; ".join(
            f"{count}: {EXCLUSION_REASONS.get(reason, reason)}"
            for reason, count in _count_excluded(manifest, subset).items()
        )
        raise DataError(
            f"A dataset must have at least one {subset} example to be evaluated; {dataset_uri} has "
            f"{f'{total}, none of which is scored ({reasons})' if total else 'none'}. Add pictures."
        )
    return numbers


def _count_excluded(manifest: Manifest, subset: str) -> dict[str, int]:
    return count_reasons(item for item in manifest.excluded if item.split == subset)


def _predict_batches(
    model: Model, examples: Examples, labels: Sequence[str], numbers: Numbers
) -> Iterator[tuple[list[Outcome], list[bytes], Any]]:
    """Yield outcomes, JPEG bytes and probabilities of each batch; the last one may be smaller."""

    def prepare(example: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return model.prepare(example["encoded"]), example

    prepared = examples.read(numbers).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    for pictures, batch in prepared.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE):
        filenames = [name.decode(errors="replace") for name in batch["filename"].numpy()]
        true_labels = [labels[class_id - 1] for class_id in batch["label"].numpy()]
        # probabilities: float32 [batch, num_model_labels]
        probabilities = model.call(pictures)[0].numpy()
        is_finite = np.all(np.isfinite(probabilities), axis=1)
        if not np.all(is_finite):
            raise ModelError(
                "A model must predict finite probabilities; it does not for the picture "
                f"{filenames[int(np.argmin(is_finite))]}. Train again."
            )
        jpegs = list(batch["encoded"].numpy())
        digests = [example_digest(jpeg).hex() for jpeg in jpegs]
        outcomes = make_outcomes(filenames, digests, true_labels, probabilities, model.labels)
        yield outcomes, jpegs, probabilities
