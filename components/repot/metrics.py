"""Scores of a classifier, and how sure they are; numpy only.

Throughout: `probabilities` is float [num_examples, num_labels] without the background, `labels` and `guesses` are int
[num_examples] in [0, num_labels). A quotient 0/0 is None, never NaN.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
IntArray = NDArray[np.integer]
FloatArray = NDArray[np.floating]


class Recall(NamedTuple):
    """recall@k, and the k that was really counted."""

    value: float
    k: int


class Difference(NamedTuple):
    """A difference of two proportions on the same examples, and its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScore:
    """How one label is told from the others.

    Attributes:
        num_examples: Examples that have this label.
        num_guessed: Examples that were given this label.
        num_correct: Examples that have it and were given it.
    """

    num_examples: int
    num_guessed: int
    num_correct: int

    @property
    def precision(self) -> float | None:
        """Return the share of the guesses of this label that are right, or None without a guess."""
        return self.num_correct / self.num_guessed if self.num_guessed else None

    @property
    def recall(self) -> float | None:
        """Return the share of the label's examples that were found, or None without an example."""
        return self.num_correct / self.num_examples if self.num_examples else None

    @property
    def f1(self) -> float | None:
        """Return the harmonic mean of precision and recall, or None with neither example nor guess."""
        total = self.num_examples + self.num_guessed
        return 2 * self.num_correct / total if total else None


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBin:
    """The examples whose top probability lies in (low, high]; the first bin holds 0 too."""

    low: float
    high: float
    num_examples: int
    num_correct: int
    mean_probability: float


def label_ranks(probabilities: FloatArray, labels: IntArray) -> IntArray:
    """Return the rank of every example's own label: int64 [num_examples], 1 for the most probable.

    Among equal probabilities the lower class comes first, as in argmax: a model that says the same of every label is
    right by luck only. (TensorFlow's in_top_k calls all of a tie correct; 2016's scores were taken so.)
    """
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    # ahead: [num_examples, num_labels]
    ahead = probabilities > own
    ahead |= (probabilities == own) & (np.arange(probabilities.shape[1]) < labels[:, None])
    return np.asarray(1 + ahead.sum(axis=1))


def precision_at_1(ranks: IntArray) -> float | None:
    """Return the share of examples whose label ranks first, or None without an example."""
    return int(np.sum(ranks == 1)) / len(ranks) if len(ranks) else None


def recall_at_k(ranks: IntArray, k: int, num_labels: int) -> Recall | None:
    """Return the share of examples whose label ranks among the first k, or None without an example.

    With fewer than k labels that is 1.0 whatever the model says; the `k` of the result is then `num_labels`.
    """
    if not len(ranks):
        return None
    return Recall(int(np.sum(ranks <= k)) / len(ranks), min(k, num_labels))


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Return the score interval of a proportion, (0, 1) when n is 0.

    Unlike the textbook's p +- 1.96 s it holds for few examples and near 0 and 1. Source: Wilson, "Probable inference,
    the law of succession, and statistical inference", JASA 22 (1927), equation without continuity correction.
    """
    if n == 0:
        return 0.0, 1.0
    z = _normal_quantile(confidence)
    share = successes / n
    centre = share + z * z / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else (centre - margin) / scale
    high = 1.0 if successes == n else (centre + margin) / scale
    return low, high


def confusion_matrix(labels: IntArray, guesses: IntArray, num_labels: int) -> NDArray[np.int64]:
    """Count examples: int64 [num_labels, num_labels], row = true label, column = guess."""
    cells = np.bincount(labels * num_labels + guesses, minlength=num_labels * num_labels)
    return cells.reshape(num_labels, num_labels).astype(np.int64)


def label_scores(confusion: NDArray[np.int64]) -> list[LabelScore]:
    """Return one score for each label of a confusion matrix."""
    rows, columns, diagonal = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    return [
        LabelScore(num_examples=int(row), num_guessed=int(column), num_correct=int(correct))
        for row, column, correct in zip(rows, columns, diagonal, strict=True)
    ]


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test: could chance alone make two models differ so much?

    Args:
        only_first: Examples that only the first model gets right.
        only_second: Examples that only the second model gets right.

    Source: McNemar, Psychometrika 12 (1947), with the binomial distribution in place of chi-squared: under "equally
    good" the discordant examples fall to either side like a fair coin. Integers throughout, so exact for any count.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    term = tail = 1
    for i in range(fewer):
        term = term * (n - i) // (i + 1)
        tail += term
    # int / int stays exact where 2**n is past the range of float.
    p: float = 2 * tail / 2**n
    return min(1.0, p)


def paired_difference(
    only_first: int, only_second: int, n: int, confidence: float = 0.95
) -> Difference:
    """Return how much more often the second model is right than the first on the same n examples.

    Source of the interval: Bonett and Price, "Adjusted Wald confidence intervals for a difference of binomial
    proportions based on paired data", JEBS 37 (2012): one example is added to either discordant count.
    """
    if n == 0:
        return Difference(0.0, (-1.0, 1.0))
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    centre = second - first
    margin = _normal_quantile(confidence) * math.sqrt((first + second - centre**2) / (n + 2))
    return Difference(
        (only_second - only_first) / n, (max(-1.0, centre - margin), min(1.0, centre + margin))
    )


def calibration(
    confidences: FloatArray, correct: NDArray[np.bool_], num_bins: int = 10
) -> list[CalibrationBin]:
    """Sort examples into bins of equal width by the probability of their guess; empty bins are left out."""
    bins = np.clip(np.ceil(confidences * num_bins).astype(int) - 1, 0, num_bins - 1)
    return [
        CalibrationBin(
            low=i / num_bins,
            high=(i + 1) / num_bins,
            num_examples=int(np.sum(inside)),
            num_correct=int(np.sum(correct[inside])),
            mean_probability=float(np.mean(confidences[inside], dtype=np.float64)),
        )
        for i in range(num_bins)
        if np.any(inside := bins == i)
    ]


def calibration_error(bins: list[CalibrationBin]) -> float | None:
    """Return the expected calibration error, in [0, 1], or None without an example.

    The mean over examples of |share right - mean probability| of their bin. Source: Guo et al., "On calibration of
    modern neural networks", ICML 2017, equation 3.
    """
    n = sum(each.num_examples for each in bins)
    gaps = (abs(each.num_correct - each.num_examples * each.mean_probability) for each in bins)
    return sum(gaps) / n if n else None


def _normal_quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
