"""What a published model promises: its temperature, its prediction sets, and the score `unlike`.

All of it comes from training pictures and from models that were not fitted to them: out of fold
where a head is fitted several times, or a part of train that was held out. Validation and test
pictures take no part.

- The temperature that the logits are divided by minimises the loss (Guo et al. 2017).
- A prediction set holds the labels whose probability is at least a threshold; the threshold is a
  quantile of the probabilities of the right labels. Sources: Sadinle et al. 2019, Least ambiguous
  set-valued classifiers; Angelopoulos and Bates 2023, Conformal prediction: a gentle introduction,
  section 1.1; Vovk 2015, Cross-conformal predictors (the out-of-fold form).
- `unlike` is the squared Mahalanobis distance of a picture's normalised features to those of all
  training pictures, whose covariance is shrunk to a sphere. Sources: Lee et al. 2018, A simple
  unified framework for detecting out-of-distribution samples; Kamoi and Kobayashi 2020, Why is the
  Mahalanobis distance effective for anomaly detection? (one mean, not one per label).

`docs/probabilities.md` has the guarantees, what was tried, and measurements.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from repot.classifier import UnlikeScore
from repot.example_digests import Contents, Digests
from repot.metrics import (
    CalibrationBin,
    calibration,
    calibration_error,
    calibration_error_by_chance,
    prediction_sets,
)
from repot.model_spec import MAX_UNLIKE_AXES, ModelCalibration
from repot.settings import TrainingSettings
from repot.trainer.auto.heads import (
    FloatArray,
    IntArray,
    fit_temperature,
    select_part,
    softmax,
)
from repot.trainer.blas_threads import one_thread
from repot.trainer.state import StateStore

MAX_FITTED = 2048
"""Most pictures that the distribution of the features is fitted to; an eigenvalue problem of this
size takes seconds."""
SHRINKAGE = 0.1
"""Share of the mean variance that every direction has at least. On seven sets of pictures, .1 and
.5 separate other pictures equally well."""

_HELD_OUT_NAME = "held-out.bin"
_LARGEST = 4.0  # Squared distance of two vectors of length 1.
_SMALLEST = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOut:
    """Training pictures, scored by a model that was not fitted to them.

    Attributes:
        logits: float64 [n, N].
        classes: int64 [n], in 0..N-1.
        method: Which pictures, for people.
    """

    logits: FloatArray
    classes: IntArray
    method: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibrated:
    """What is published beside the weights of a classifier.

    Attributes:
        temperature: What its logits are divided by.
        calibration: What the model promises.
        unlike: The score of its normalised features.
    """

    temperature: float
    calibration: ModelCalibration
    unlike: UnlikeScore

    def to_bytes(self) -> bytes:
        """Return a file for the state of a training."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            temperature=self.temperature,
            calibration=np.frombuffer(self.calibration.to_text().encode(), np.uint8),
            **pack_unlike(self.unlike),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Calibrated":
        """Read what `to_bytes` returned."""
        with np.load(io.BytesIO(data)) as arrays:
            return cls(
                temperature=float(arrays["temperature"]),
                calibration=ModelCalibration.from_text(arrays["calibration"].tobytes().decode()),
                unlike=unpack_unlike(arrays),
            )


def pack_unlike(unlike: UnlikeScore) -> dict[str, Any]:
    """Return a score as arrays by name."""
    return {
        "unlike_mean": unlike.mean,
        "unlike_axes": unlike.axes,
        "unlike_threshold": unlike.threshold,
    }


def unpack_unlike(arrays: Any) -> UnlikeScore:
    """Return the score that `pack_unlike` packed."""
    return UnlikeScore(
        mean=arrays["unlike_mean"],
        axes=arrays["unlike_axes"],
        threshold=float(arrays["unlike_threshold"]),
    )


def choose_held_out(
    contents: Callable[[], Contents], groups: Digests | None, fraction: float, store: StateStore
) -> npt.NDArray[np.bool_]:
    """Choose the training pictures that are held out, once; later starts read the choice.

    Args:
        contents: Reads content and class of the training pictures; called at the first start.
        groups: The group of each; None without groups.
        fraction: Share of each label's pictures, see `repot.trainer.auto.heads.select_part`.
        store: Keeps the choice beside the state.

    Returns:
        bool [n].
    """
    stored = store.read_file(_HELD_OUT_NAME)
    if stored is not None:
        return np.frombuffer(stored, np.bool_)
    known = contents()
    keys = list(map(bytes, known.digests))
    if groups is not None:
        grouped = zip(map(bytes, groups), keys, strict=True)
        keys = [group or key for group, key in grouped]
    part = select_part(keys, known.class_ids - 1, fraction)
    store.write_file(_HELD_OUT_NAME, part.tobytes())
    return part


def calibrate(
    held_out: HeldOut, *, temperature: float | None = None, settings: TrainingSettings
) -> tuple[float, ModelCalibration]:
    """Return the temperature, and what the model promises of its probabilities.

    Without a picture, the temperature is 1, and every set has all labels.

    Args:
        held_out: The pictures to learn it from.
        temperature: The temperature, if it is known.
        settings: The promised coverage and the rate of false alarms.
    """
    classes = held_out.classes
    if temperature is None:
        temperature = fit_temperature(held_out.logits, classes)
    probabilities = softmax(held_out.logits / temperature)
    own = probabilities[np.arange(len(classes)), classes]
    threshold = find_set_threshold(own, settings.set_coverage)
    num_in_sets = prediction_sets(probabilities, threshold).sum()
    num_labels = float(probabilities.shape[1])
    bins = _bins(probabilities, classes)
    return temperature, ModelCalibration(
        method=held_out.method,
        num_examples=len(classes),
        error_before=calibration_error(_bins(softmax(held_out.logits), classes)) or 0.0,
        error_after=calibration_error(bins) or 0.0,
        error_by_chance=calibration_error_by_chance(bins),
        coverage=settings.set_coverage,
        set_threshold=threshold,
        mean_set_size=float(num_in_sets / len(classes)) if len(classes) else num_labels,
        unlike_rate=settings.unlike_rate,
    )


def find_set_threshold(own: FloatArray, coverage: float) -> float:
    """Return the least probability of a label in a prediction set.

    If the examples and a new one are exchangeable, the probability of the new one's label is at
    least this threshold with a chance of at least `coverage`. Source: Angelopoulos and Bates 2023,
    section 1.1 and appendix D, with 1 - probability as the score.

    Args:
        own: float64 [n], probability of each example's label.
        coverage: In (0, 1).

    Returns:
        The floor((n + 1) * (1 - coverage))-th smallest probability; 0 with too few examples.
    """
    rank = math.floor((len(own) + 1) * (1 - coverage) + 1e-9)
    return float(np.sort(own)[rank - 1]) if rank else 0.0


@one_thread()
def fit_unlike(rows: FloatArray) -> UnlikeScore:
    """Return the score of pictures whose features are like these; its threshold is 1.

    Args:
        rows: float64 [n, features], normalised, n > 0; see `sample_rows`.
    """
    mean = rows.mean(axis=0)
    centred = rows - mean
    num_rows, num_features = centred.shape
    # The smaller of the two products has all the axes.
    if num_rows <= num_features:
        values, vectors = np.linalg.eigh(centred @ centred.T)
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred)
    values, vectors = values[::-1][:MAX_UNLIKE_AXES], vectors[:, ::-1][:, :MAX_UNLIKE_AXES]
    total = float(np.sum(centred**2))
    is_kept = values > 1e-10 * max(total, _SMALLEST)
    values, vectors = values[is_kept], vectors[:, is_kept]
    if not len(values):  # one picture, or copies of one
        return UnlikeScore(mean=mean, axes=np.zeros((num_features, 1)), threshold=1.0)
    axes = centred.T @ (vectors / np.sqrt(values)) if num_rows <= num_features else vectors
    everywhere = SHRINKAGE * total / num_features
    usual = (1 - SHRINKAGE) * values
    return UnlikeScore(mean=mean, axes=axes * np.sqrt(usual / (usual + everywhere)), threshold=1.0)


def with_threshold(score: UnlikeScore, held_out: FloatArray, rate: float) -> UnlikeScore:
    """Return a score of which a share of ordinary pictures is above 1.

    Args:
        score: The score.
        held_out: float64 [n], scores of pictures by a `fit_unlike` without them.
        rate: The share. With fewer than 1 / rate pictures, it is 1 / (n + 1) at most.
    """
    if not len(held_out):
        threshold = _LARGEST
    else:
        rank = math.ceil((len(held_out) + 1) * (1 - rate) - 1e-9)
        threshold = float(np.sort(held_out)[min(rank, len(held_out)) - 1])
    return UnlikeScore(mean=score.mean, axes=score.axes, threshold=max(threshold, _SMALLEST))


@one_thread()
def cross_validate_unlike(rows: FloatArray, folds: IntArray, rate: float) -> UnlikeScore:
    """Fit a score to all rows, with a threshold from scores that were fitted without the row.

    Args:
        rows: float64 [n, features], normalised, n > 0.
        folds: int64 [n], see `repot.trainer.auto.heads.assign_folds`.
        rate: See `with_threshold`.
    """
    held_out = [
        fit_unlike(rows[folds != fold]).scores(rows[folds == fold])
        for fold in np.unique(folds)
        if (folds != fold).any()
    ]
    scores = np.concatenate(held_out) if held_out else np.empty(0)
    return with_threshold(fit_unlike(rows), scores, rate)


def sample_rows(digests: Sequence[bytes] | Any) -> IntArray:
    """Return at most MAX_FITTED rows, chosen by the contents of the pictures, in order."""
    if len(digests) <= MAX_FITTED:
        return np.arange(len(digests))
    return np.sort(np.argsort(np.asarray(digests), kind="stable")[:MAX_FITTED])


def spread(numbers: IntArray, most: int) -> IntArray:
    """Return at most `most` of the numbers of pictures, evenly spread over them."""
    if len(numbers) <= most:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, most).astype(np.int64)]


def _bins(probabilities: FloatArray, classes: IntArray) -> list[CalibrationBin]:
    is_correct = probabilities.argmax(axis=1) == classes
    return calibration(probabilities.max(axis=1), is_correct)
