"""Run a model once on every example of a split."""

import heapq
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from repot import progress
from repot.dataset import Examples, Numbers, open_examples
from repot.errors import DataError, ModelError
from repot.evaluation_record import PromiseRecord
from repot.evaluator.outcomes import SMALLEST_PROBABILITY, Outcome, ScoredPicture, make_outcomes
from repot.example_digests import Digests, example_digest, join_digests, read_digests
from repot.manifest import EXCLUSION_REASONS, Manifest, Split, count_reasons, read_manifest
from repot.metrics import FloatArray, calibration, calibration_error, prediction_sets
from repot.model_spec import ModelSpec, read_model_spec
from repot.prediction_store import PART_ROWS, Author, PredictionStore, answers_of
from repot.predictor import Model, Scores, load_model, read_labels

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
MAX_ANSWERS = 1 << 24
"""Numbers in the answers that are in memory at a time: 64 MiB."""
SAMPLE_SIZE = 64
"""Answers of a trainer that are verified."""
MAX_DIFFERENCE = 1e-3
"""Of a probability between two kinds of devices; they round differently."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSplit:
    """The predictions of a model for a split.

    Attributes:
        outcomes: One per example, in the order of the shards.
        mistakes: The most confident mistakes, most confident first; at most MAX_MISTAKES.
        by_pair: Pictures by true and predicted label, at most MAX_PER_PAIR each: the most confident
            mistakes, and the least confident of right predictions. If all pairs have more bytes
            than MAX_PAIR_BYTES, only the most frequent pairs have pictures.
        load: Returns the model, which is loaded at most once.
        seconds: Duration of the predictions, the model's loading left out; 0 if some were stored.
        labels: Every label of the dataset, followed by those that only the model has.
        excluded: Number of examples of the split that are not scored, by reason.
        numbers: int64 [num_outcomes], their numbers in the split.
        logits: float32 [num_outcomes, num_labels], logarithms of the probabilities; None unless
            they were asked for, if they are too many, or if the model has other labels than the
            dataset.
        promise: What the model promised and what came true; None if it promises nothing.
    """

    outcomes: tuple[Outcome, ...]
    mistakes: tuple[ScoredPicture, ...]
    by_pair: dict[tuple[str, str], tuple[ScoredPicture, ...]]
    load: Callable[[], Model]
    seconds: float
    labels: tuple[str, ...]
    excluded: dict[str, int]
    numbers: Numbers
    logits: Any = None
    promise: PromiseRecord | None = None


def score_split(
    model_uri: str,
    dataset_uri: str,
    *,
    subset: str,
    num_examples: int = 0,
    task: str = "evaluate",
    with_logits: bool = False,
    predictions_uri: str = "",
) -> ScoredSplit:
    """Predict the first examples of a split, excluded ones left out; labels are matched by name.

    Pictures that the model has answered for before are not predicted again.

    Args:
        model_uri: Folder with model.keras and labels.txt.
        dataset_uri: Folder of the dataset.
        subset: The split.
        num_examples: Maximum number of examples; 0 for all.
        task: Task name for progress reports.
        with_logits: Whether to return logits, too.
        predictions_uri: Folder of all stored predictions, see `repot.prediction_store`; "" for
            none.

    Raises:
        DataError: The dataset does not exist, or the split is empty.
        CorruptShardError: A shard's bytes differ from its receipt.
        ModelError: The model cannot be loaded, or its output is not finite.
    """
    manifest = read_manifest(dataset_uri)
    numbers = scored_numbers(dataset_uri, manifest, subset, task)
    numbers = numbers[: num_examples or None]
    scorer = _Scorer(model_uri, predictions_uri)
    labels = scorer.labels
    digests = (
        read_digests(dataset_uri, manifest, cast(Split, subset), task=task)[numbers]
        if predictions_uri
        else None
    )
    outcomes: list[Outcome] = []
    has_logits = (
        with_logits and labels == manifest.labels and len(numbers) * len(labels) <= MAX_LOGITS
    )
    logits = np.empty([len(numbers), len(labels)], np.float32) if has_logits else None
    kept_promises = _KeptPromises(read_model_spec(model_uri), labels)
    worst: list[tuple[float, int, ScoredPicture]] = []  # heap, the least confident mistake first
    pairs = _PairPictures(has_right=len(manifest.labels) <= MAX_LABELS_OF_RIGHT)
    started = time.monotonic()
    num_rows = max(1, MAX_ANSWERS // (len(labels) + 1) // BATCH_SIZE) * BATCH_SIZE
    with open_examples(dataset_uri, manifest) as examples:
        for start in range(0, len(numbers), num_rows):
            rows = slice(start, start + num_rows)
            batches = scorer.score(
                examples[subset], numbers[rows], None if digests is None else digests[rows]
            )
            for batch, (probabilities, unlike) in batches:
                part = _make_outcomes(batch, probabilities, manifest.labels, labels)
                kept_promises.add(part, probabilities, unlike)
                if logits is not None:
                    places = slice(len(outcomes), len(outcomes) + len(part))
                    logits[places] = np.log(np.maximum(probabilities, SMALLEST_PROBABILITY))
                jpegs = batch["encoded"].numpy()
                for i, (outcome, jpeg) in enumerate(zip(part, jpegs, strict=True), len(outcomes)):
                    pairs.add(i, ScoredPicture(outcome=outcome, jpeg=jpeg))
                    if not outcome.correct:
                        # -i: among equally confident mistakes, earlier examples are kept.
                        mistake = ScoredPicture(outcome=outcome, jpeg=jpeg)
                        heapq.heappush(worst, (outcome.probability, -i, mistake))
                        if len(worst) > MAX_MISTAKES:
                            heapq.heappop(worst)
                outcomes += part
                progress.report(task, len(outcomes), len(numbers), unit="pictures")
    return ScoredSplit(
        outcomes=tuple(outcomes),
        mistakes=tuple(mistake for _, _, mistake in sorted(worst, reverse=True)),
        by_pair=pairs.pictures(),
        load=scorer.load,
        seconds=scorer.seconds_since(started) if scorer.num_answered == len(numbers) else 0.0,
        labels=tuple(dict.fromkeys((*manifest.labels, *labels))),
        excluded=_count_excluded(manifest, subset),
        numbers=numbers,
        logits=logits,
        promise=kept_promises.record(),
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


class _KeptPromises:
    """Counts, batch by batch, which promises of a model come true.

    Args:
        spec: The model's promises.
        labels: Its labels.
    """

    def __init__(self, spec: ModelSpec | None, labels: Sequence[str]) -> None:
        self._promised = spec.calibration if spec else None
        self._temperature = spec.temperature if spec else 1.0
        self._position = {label: i for i, label in enumerate(labels)}
        self._set_sizes: list[int] = []
        self._confidences: list[float] = []  # without the temperature
        self._is_correct: list[bool] = []
        self._num_covered = 0
        self._num_unlike = 0

    def add(
        self, outcomes: Sequence[Outcome], probabilities: FloatArray, unlike: FloatArray
    ) -> None:
        """Count the promises about some pictures."""
        if self._promised is None:
            return
        is_in_set = prediction_sets(probabilities, self._promised.set_threshold)
        self._set_sizes += is_in_set.sum(axis=1).tolist()
        logits = np.log(np.maximum(probabilities, SMALLEST_PROBABILITY))
        powers = np.exp(self._temperature * (logits - logits.max(axis=1, keepdims=True)))
        self._confidences += (1 / powers.sum(axis=1)).tolist()
        self._is_correct += [outcome.correct for outcome in outcomes]
        self._num_unlike += int(np.sum(unlike > 1))
        for row, outcome in zip(is_in_set, outcomes, strict=True):
            column = self._position.get(outcome.label)
            self._num_covered += column is not None and bool(row[column])

    def record(self) -> PromiseRecord | None:
        """Return the counts."""
        if self._promised is None:
            return None
        bins = calibration(np.array(self._confidences), np.array(self._is_correct))
        return PromiseRecord(
            promised=self._promised,
            num_covered=self._num_covered,
            mean_set_size=sum(self._set_sizes) / max(len(self._set_sizes), 1),
            num_empty_sets=self._set_sizes.count(0),
            num_unlike=self._num_unlike,
            error_before=calibration_error(bins) or 0.0,
        )


def scored_numbers(dataset_uri: str, manifest: Manifest, subset: str, task: str) -> Numbers:
    """Return the numbers of the examples of a split that are not excluded, in order.

    Raises:
        DataError: There are none.
    """
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


def _make_outcomes(
    batch: dict[str, Any], probabilities: FloatArray, labels: Sequence[str], known: Sequence[str]
) -> list[Outcome]:
    """Return the outcomes of a batch of examples.

    Args:
        batch: The examples.
        probabilities: float32 [batch, len(known)].
        labels: Labels of the dataset.
        known: Labels of the model.
    """
    filenames = [name.decode(errors="replace") for name in batch["filename"].numpy()]
    true_labels = [labels[class_id - 1] for class_id in batch["label"].numpy()]
    is_finite = np.all(np.isfinite(probabilities), axis=1)
    if not np.all(is_finite):
        raise ModelError(
            "A model must predict finite probabilities; it does not for the picture "
            f"{filenames[int(np.argmin(is_finite))]}. Train again."
        )
    digests = [example_digest(jpeg).hex() for jpeg in batch["encoded"].numpy()]
    return make_outcomes(filenames, digests, true_labels, probabilities, known)


class _Scorer:
    """The answers of a model for pictures: stored ones, and the model's own for the others.

    The model is loaded when it is needed first.

    Attributes:
        labels: The model's labels.
        num_answered: Number of pictures that the model answered for.
    """

    def __init__(self, model_uri: str, predictions_uri: str) -> None:
        self.labels = read_labels(model_uri)
        self._model_uri, self._predictions_uri = model_uri, predictions_uri
        self.num_answered = 0
        self._model: Model | None = None
        self._load_seconds = 0.0
        self._store = self._open_store("evaluate") if predictions_uri else None
        self._trainer_store: PredictionStore | None = None
        if self._store:
            self._trainer_store = self._open_store("train")

    def score(
        self, examples: Examples, numbers: Numbers, digests: Digests | None
    ) -> Iterator[tuple[dict[str, Any], Scores]]:
        """Yield batches of examples and their scores.

        Args:
            examples: All examples of the split.
            numbers: Those to score.
            digests: One per number, if predictions are stored.
        """
        answers = np.zeros([len(numbers), len(self.labels) + 1], np.float32)
        is_filled = np.zeros(len(numbers), np.bool_)
        if self._store and digests is not None:
            self._store.fill(digests, answers, is_filled)
            self._fill_from_trainer(examples, numbers, digests, answers, is_filled)
        missing = np.flatnonzero(~is_filled)
        num_stored = 0
        for start, batch in self._read(examples, numbers, is_missing=~is_filled):
            size = len(batch["label"])
            rows = slice(start, start + size)
            new = np.flatnonzero(~is_filled[rows])
            if len(new):
                answers[rows][new] = self._answer(batch["views"], new)
            yield batch, Scores(answers[rows, :-1], answers[rows, -1])
            is_last = start + size == len(numbers)
            done = int(np.searchsorted(missing, start + size))
            if digests is not None and (is_last or done - num_stored >= PART_ROWS):
                self._add(digests, answers, missing[num_stored:done])
                num_stored = done

    def seconds_since(self, started: float) -> float:
        """Return the time since then, without that for loading the model."""
        return time.monotonic() - started - self._load_seconds

    def _read(
        self, examples: Examples, numbers: Numbers, *, is_missing: npt.NDArray[np.bool_]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the place of the first example of each batch, and the batch.

        A batch with pictures to predict has their views, with zeros for the others.
        """
        dataset = examples.read(numbers)
        if is_missing.any():
            prepare = _prepare_missing(self.load())
            dataset = tf.data.Dataset.zip(
                dataset, tf.data.Dataset.from_tensor_slices(is_missing)
            ).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        start = 0
        for batch in dataset.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE):
            yield start, batch
            start += len(batch["label"])

    def _answer(self, views: tuple[Any, ...], rows: npt.NDArray[np.intp]) -> FloatArray:
        """Return the answers of the model for some pictures of a batch."""
        if len(rows) < len(views[0]):
            views = tuple(tf.gather(view, rows) for view in views)
        self.num_answered += len(rows)
        probabilities, unlike = self.load().call(views)
        return answers_of(probabilities.numpy(), unlike.numpy())

    def _fill_from_trainer(
        self,
        examples: Examples,
        numbers: Numbers,
        digests: Digests,
        answers: FloatArray,
        is_filled: npt.NDArray[np.bool_],
    ) -> None:
        """Take what the trainer computed, if this machine agrees about a sample of it."""
        if self._trainer_store is None:
            return
        (missing,) = np.nonzero(~is_filled)
        found = np.zeros_like(answers[missing])
        is_found = np.zeros(len(missing), np.bool_)
        self._trainer_store.fill(digests[missing], found, is_found)
        (rows,) = np.nonzero(is_found)
        if not len(rows):
            return
        # Evenly over the split, so over its labels, too.
        sample = rows[np.linspace(0, len(rows) - 1, min(SAMPLE_SIZE, len(rows)), dtype=np.int64)]
        own = np.concatenate(
            [
                self._answer(batch["views"], np.arange(len(batch["label"])))
                for _, batch in self._read(
                    examples, numbers[missing[sample]], is_missing=np.ones(len(sample), np.bool_)
                )
            ]
        )
        difference = float(np.abs(own[:, :-1] - found[sample, :-1]).max())
        if not difference <= MAX_DIFFERENCE:
            _log.warning(
                "the trainer's probabilities of %d pictures differ from this machine's by up to "
                "%.2g, so all are computed again",
                len(sample),
                difference,
            )
            self._trainer_store = None
            return
        answers[missing[rows]] = found[rows]
        is_filled[missing[rows]] = True
        self._add(digests, answers, missing[rows])

    def _add(self, digests: Digests, answers: FloatArray, rows: npt.NDArray[np.intp]) -> None:
        if self._store and len(rows):
            self._store.add(digests[rows], answers[rows])

    def _open_store(self, author: Author) -> PredictionStore:
        return PredictionStore(
            self._predictions_uri, self._model_uri, num_labels=len(self.labels), author=author
        )

    def load(self) -> Model:
        """Return the model."""
        if self._model is None:
            started = time.monotonic()
            self._model = load_model(self._model_uri)
            self._load_seconds = time.monotonic() - started
        return self._model


def _prepare_missing(model: Model) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    """Return the function that adds the views of an example to it, zeros if it is not missing."""
    size = model.spec.image_size

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def prepare(example: dict[str, Any], is_missing: Any) -> dict[str, Any]:
        views = tf.cond(
            is_missing,
            lambda: model.prepare(example["encoded"]),
            lambda: tuple(tf.zeros([size, size, 3]) for _ in model.spec.views),
        )
        return {**example, "views": views}

    return cast("Callable[[dict[str, Any], Any], dict[str, Any]]", prepare)
