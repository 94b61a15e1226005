"""Classification scores and their uncertainty, in numpy only.

Throughout, `probabilities` is float [num_examples, num_labels] without the background class;
`labels` and `predicted` are int [num_examples] in [0, num_labels). A quotient 0/0 is None, not NaN.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
_NORMAL_VARIANCE = 25.0
_NEGLIGIBLE = 1e-15

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.floating]


class Recall(NamedTuple):
    """recall@k and the k that was counted, which is smaller for a model with few labels."""

    value: float
    k: int


class Difference(NamedTuple):
    """A difference of two proportions on the same examples, with its confidence interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScore:
    """Counts and scores of one label.

    Attributes:
        num_examples: Examples with this true label.
        num_predicted: Examples with this predicted label.
        num_correct: Examples for which this is both the true and the predicted label.
    """

    num_examples: int
    num_predicted: int
    num_correct: int

    @property
    def precision(self) -> float | None:
        """Return the share of this label's predictions that are correct, or None for 0/0."""
        return self.num_correct / self.num_predicted if self.num_predicted else None

    @property
    def recall(self) -> float | None:
        """Return the share of this label's examples predicted correctly, or None for 0/0."""
        return self.num_correct / self.num_examples if self.num_examples else None

    @property
    def f1(self) -> float | None:
        """Return the harmonic mean of precision and recall, or None for 0/0."""
        total = self.num_examples + self.num_predicted
        return 2 * self.num_correct / total if total else None


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBin:
    """The examples whose top probability lies in (low, high]; the first bin includes 0."""

    low: float
    high: float
    num_examples: int
    num_correct: int
    mean_probability: float


def label_ranks(probabilities: FloatArray, labels: IntArray) -> IntArray:
    """Return the rank of each example's true label: int64 [num_examples], 1 is the most probable.

    Ties go to the lower class, as in argmax, so a model with equal probabilities for all labels is
    correct by chance only. (TensorFlow's in_top_k, behind the 2016 scores, counts every tied label
    as correct.)
    """
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    # ahead: [num_examples, num_labels]
    ahead = probabilities > own
    ahead |= (probabilities == own) & (np.arange(probabilities.shape[1]) < labels[:, None])
    return np.asarray(1 + ahead.sum(axis=1))


def precision_at_1(ranks: IntArray) -> float | None:
    """Return the share of examples whose label ranks first, or None without examples."""
    return int(np.sum(ranks == 1)) / len(ranks) if len(ranks) else None


def recall_at_k(ranks: IntArray, k: int, num_labels: int) -> Recall | None:
    """Return the share of examples whose label is among the first k, or None without examples.

    With k labels or fewer the share is always 1.0; the result's `k` is then `num_labels`.
    """
    if not len(ranks):
        return None
    return Recall(int(np.sum(ranks <= k)) / len(ranks), min(k, num_labels))


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Return the Wilson score interval of a proportion; (0, 1) when n is 0.

    Unlike p +- 1.96 s, it stays valid for few examples and near 0 and 1. Source: Wilson, "Probable
    inference, the law of succession, and statistical inference", JASA 22 (1927), the equation
    without continuity correction.
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


def confusion_matrix(labels: IntArray, predicted: IntArray, num_labels: int) -> NDArray[np.int64]:
    """Count examples: int64 [num_labels, num_labels], row = true, column = predicted label."""
    cells = np.bincount(labels * num_labels + predicted, minlength=num_labels * num_labels)
    return cells.reshape(num_labels, num_labels).astype(np.int64)


def label_scores(confusion: NDArray[np.int64]) -> list[LabelScore]:
    """Return the scores of each label of a confusion matrix."""
    rows, columns, diagonal = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    return [
        LabelScore(num_examples=int(row), num_predicted=int(column), num_correct=int(correct))
        for row, column, correct in zip(rows, columns, diagonal, strict=True)
    ]


def macro_recall_interval(scores: Sequence[LabelScore]) -> Interval:
    """Return the 95 % interval of the mean recall of the labels that have examples.

    Source: Zou and Donner, "Construction of confidence limits about effect measures: a general
    approach", Statistics in Medicine 27 (2008): the limits of a sum from those of its parts, here
    Wilson intervals, which stay valid for labels with few examples.
    """
    return _mean_interval([(each.num_correct, each.num_examples) for each in scores], lambda p: p)


def macro_f1_interval(scores: Sequence[LabelScore]) -> Interval:
    """Return the 95 % interval of the mean F1 of the labels that are true or predicted.

    F1 is 2 J / (1 + J), J the share of the examples that are correct of those that have the label
    or are predicted to have it; the intervals of J are combined as in `macro_recall_interval`.
    """
    counts = [
        (each.num_correct, each.num_examples + each.num_predicted - each.num_correct)
        for each in scores
    ]
    return _mean_interval(counts, lambda share: 2 * share / (1 + share))


def _mean_interval(
    counts: Sequence[tuple[int, int]], transform: Callable[[float], float]
) -> Interval:
    """Return the interval of the mean of increasing functions of proportions."""
    below, above, total, size = 0.0, 0.0, 0.0, 0
    for successes, n in counts:
        if n:
            low, high = map(transform, wilson_interval(successes, n))
            value = transform(successes / n)
            below, above = below + (value - low) ** 2, above + (high - value) ** 2
            total, size = total + value, size + 1
    if not size:
        return 0.0, 1.0
    mean = total / size
    return max(0.0, mean - math.sqrt(below) / size), min(1.0, mean + math.sqrt(above) / size)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test that two models are equally good.

    Args:
        only_first: Examples that only the first model gets right.
        only_second: Examples that only the second model gets right.

    Source: McNemar, Psychometrika 12 (1947), with the binomial distribution instead of chi-squared:
    for equally good models, each discordant example goes to either side with probability 1/2.
    Integer arithmetic keeps it exact for any count.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    term = tail = 1
    for i in range(fewer):
        term = term * (n - i) // (i + 1)
        tail += term
    # int / int is exact even where 2**n exceeds the range of float.
    p: float = 2 * tail / 2**n
    return min(1.0, p)


def paired_difference(
    only_first: int, only_second: int, n: int, confidence: float = 0.95
) -> Difference:
    """Return the accuracy of the second model minus that of the first on the same n examples.

    Source of the interval: Bonett and Price, "Adjusted Wald confidence intervals for a difference
    of binomial proportions based on paired data", JEBS 37 (2012): add one example to each
    discordant count.
    """
    if n == 0:
        return Difference(0.0, (-1.0, 1.0))
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    centre = second - first
    margin = _normal_quantile(confidence) * math.sqrt((first + second - centre**2) / (n + 2))
    return Difference(
        (only_second - only_first) / n, (max(-1.0, centre - margin), min(1.0, centre + margin))
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the same order.

    If those up to 5 % are called significant, the probability of calling any one wrongly is at most
    5 %. Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist.
    6, 1979.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def stratified_excess(
    inside: IntArray, inside_marked: IntArray, totals: IntArray, marked: IntArray
) -> float | None:
    """Return the p-value of "marks fall on the items of each stratum at random", one-sided.

    It is small if a group of items, over all strata together, has more marks than expected. In each
    stratum, the number of marks in the group is hypergeometric; their sum is computed exactly, or
    from a variance of 25 on by the normal distribution with continuity correction.

    Args:
        inside: int [num_strata], the group's items.
        inside_marked: int [num_strata], those of them with a mark.
        totals: int [num_strata], all items.
        marked: int [num_strata], those of them with a mark.

    Returns:
        None if no stratum has items inside and outside of the group, some of them with a mark.

    Source: Mantel and Haenszel, "Statistical aspects of the analysis of data from retrospective
    studies of disease", J. Natl. Cancer Inst. 22, 1959.
    """
    is_mixed = (inside > 0) & (inside < totals) & (marked > 0) & (marked < totals)
    if not is_mixed.any():
        return None
    n, x, total, k = (
        each[is_mixed].astype(np.int64) for each in (inside, inside_marked, totals, marked)
    )
    mean = float(np.sum(n * k / total))
    spread = n * k * (total - n) * (total - k) / (total.astype(float) ** 2 * (total - 1))
    variance, observed = float(np.sum(spread)), int(np.sum(x))
    if variance >= _NORMAL_VARIANCE:
        distance = (observed - 0.5 - mean) / math.sqrt(variance)
        return 1 - NormalDist().cdf(distance)
    # int64 -> log(i!)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, int(total.max()) + 1)))])
    start, distribution = 0, np.ones(1)
    for n_i, total_i, k_i in zip(n.tolist(), total.tolist(), k.tolist(), strict=True):
        low, high = max(0, n_i + k_i - total_i), min(n_i, k_i)
        j = np.arange(low, high + 1)
        log_ways = (
            _log_choose(logs, k_i, j)
            + _log_choose(logs, total_i - k_i, n_i - j)
            - _log_choose(logs, total_i, np.array(n_i))
        )
        start += low
        distribution = np.convolve(distribution, np.exp(log_ways))
        # What is too small to matter is cut off, so that many strata take little time.
        (kept,) = np.nonzero(distribution > _NEGLIGIBLE)
        start += int(kept[0])
        distribution = distribution[kept[0] : kept[-1] + 1]
    return min(1.0, float(distribution[max(0, observed - start) :].sum()))


def _log_choose(logs: FloatArray, n: int, k: IntArray) -> FloatArray:
    result: FloatArray = logs[n] - logs[k] - logs[n - k]
    return result


def calibration(
    confidences: FloatArray, correct: NDArray[np.bool_], num_bins: int = 10
) -> list[CalibrationBin]:
    """Bin examples by the probability of the predicted label; omit empty bins.

    Args:
        confidences: Probability of the predicted label: float [num_examples].
        correct: Whether the prediction is correct: bool [num_examples].
        num_bins: Number of bins of equal width over [0, 1].
    """
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
    """Return the expected calibration error, in [0, 1], or None without examples.

    It is the mean over examples of |share correct - mean probability| of their bin. Source: Guo et
    al., "On calibration of modern neural networks", ICML 2017, equation 3.
    """
    n = sum(each.num_examples for each in bins)
    gaps = (abs(each.num_correct - each.num_examples * each.mean_probability) for each in bins)
    return sum(gaps) / n if n else None


def calibration_error_by_chance(bins: list[CalibrationBin]) -> float | None:
    """Return the mean expected calibration error of a perfectly calibrated model with these bins.

    It is not 0: of n pictures with a probability of .8, not exactly .8 n are correct. With bins of
    equal size, it falls as one over the square root of the examples. None without examples.

    Each example of a bin counts as correct with the bin's mean probability p, so that the number of
    correct ones is binomial; its mean distance to n p is 2 v C(n, v) p^v (1 - p)^(n - v + 1), where
    v = floor(n p) + 1. Source: De Moivre's formula, as in Diaconis and Zabell, "Closed form
    summation for classical distributions", Statistical Science 6, 1991, equation 1.1.
    """
    total = sum(each.num_examples for each in bins)
    gaps = (_mean_distance(each.num_examples, each.mean_probability) for each in bins)
    return sum(gaps) / total if total else None


def _mean_distance(n: int, p: float) -> float:
    """Return the mean distance of a binomial variable to its mean n * p."""
    if not 0 < p < 1:
        return 0.0
    v = min(math.floor(n * p) + 1, n)
    log_ways = math.lgamma(n + 1) - math.lgamma(v + 1) - math.lgamma(n - v + 1)
    return 2 * v * math.exp(log_ways + v * math.log(p) + (n - v + 1) * math.log1p(-p))


def prediction_sets(probabilities: FloatArray, threshold: float) -> NDArray[np.bool_]:
    """Return which labels are in the prediction set of each example: bool, of the same shape.

    They are those with at least the threshold's probability. A set is empty if no label has it.
    Source: Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers with bounded error
    levels", JASA 114 (2019).

    Args:
        probabilities: float [num_examples, num_labels].
        threshold: See `repot.model_spec.ModelCalibration`.
    """
    return np.asarray(probabilities >= threshold)


def _normal_quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
