"""The gate's decision rule: when is a version better than the champion, and when is that unknown?

A model that is retrained every night is compared hundreds of times a year on much the same
pictures. A rule that promotes whatever looks better promotes luck: sooner or later a worse model
has a good day. This rule promotes a version only if it gets more pictures right and an exact test
rejects "it is worse than the champion by `MARGIN` or more"; the chances of error of all tests
together stay below `YEARLY_ERROR`.

**Guarantee.** In any `comparisons_per_year` consecutive comparisons of a model, the probability of
even one promotion of a version that is worse than its champion by more than `MARGIN`, measured on
all pictures like those of the split, is at most `YEARLY_ERROR`. It is the sum of the levels of the
tests (Bonferroni), so it holds for tests that depend on each other, for pictures that are used
again and again, for a split that grows, and whenever one stops or looks. It assumes that

1. the pictures of the split are a random sample of those that the model will see, and no choice
   was made on them: neither version was trained on them (see `repot.evaluator.unseen`), and no
   setting was chosen by their scores;
2. a promotion does not make its version look worse on these pictures than it is. Selection does the
   opposite: a version is promoted because it looks good, and its successors have a harder test.

**Test.** Only the pictures that exactly one version gets right matter (McNemar, Psychometrika 12,
1947). Given their number d, the challenger's share of them is binomial; at a difference of -margin
and a discordance r = E(d) / n, its parameter is (1 - margin / r) / 2. r is unknown, so p is the
largest probability, over a confidence interval of r, of a result as extreme as this one, plus the
probability that the interval misses r (Berger and Boos, "P values maximized over a confidence set
for the nuisance parameter", JASA 89, 1994). Results are ordered by their binomial tail at an
estimate of r (Lloyd, "Exact p-values for discrete models obtained by estimation and maximization",
Aust. N. Z. J. Stat. 50, 2008), which makes p exact and smaller than the conditional one.

**Spending.** Comparison t of a model has the level
YEARLY_ERROR * (0.8 / comparisons_per_year + 0.2 / (t (t + 1))): most of it is spent evenly, so that
a better version has the same chance in every week, and a part on the first comparisons, so that few
comparisons need not pay for hundreds that never happen. Any `comparisons_per_year` consecutive
levels add up to at most YEARLY_ERROR.

**Selection.** The precision of a version that was chosen for its precision is too high on average.
`correct_selection` moves it towards the mean of the versions that were compared, as far as their
differences are noise (James and Stein, 1961; Efron, "Tweedie's formula and selection bias", JASA
106, 2011). `benchmarks/gate.py` simulates all of it, next to other rules.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repot.metrics import Interval, mcnemar_p, paired_difference

MARGIN = 0.01
"""Loss of precision@1 that a promotion must not exceed."""
YEARLY_ERROR = 0.05
"""Probability of a promotion that loses more than MARGIN, in a year of comparisons."""
COMPARISONS_PER_YEAR = 365
"""One a night."""
WORSE_LEVEL = 0.025
"""Level of the one-sided test after which a version counts as worse, and not as undecided."""

_EVEN_SHARE = 0.8
_MISS = 1e-6
"""Probability that the confidence interval of the discordance misses it."""
_POWER = 0.8
"""Probability that `num_needed` pictures promote a version that is as much better."""
_DISCORDANCE_STEP = 1.05
"""Ratio of neighbouring discordances at which the largest p-value is looked for."""
_BETWEEN_STEPS = 1.002
"""Bound of the ratio between the largest p-value of the interval and that of the grid."""
_CACHED_TAIL = 300
"""Largest number of trials whose binomial tails are kept: a simulation asks for them often."""

Ruling = Literal["better", "worse", "undecided"]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedCounts:
    """How two versions fared on the same pictures.

    Attributes:
        only_champion, only_challenger: Pictures that only one of them gets right.
        num_compared: All pictures.
    """

    only_champion: int
    only_challenger: int
    num_compared: int

    def __post_init__(self) -> None:
        discordant = self.only_champion + self.only_challenger
        if min(self.only_champion, self.only_challenger) < 0 or discordant > self.num_compared:
            raise ValueError(
                "The counts of a comparison must be 0 or more and add up to at most num_compared; "
                f"got {self}."
            )

    @property
    def num_discordant(self) -> int:
        """Return the number of pictures that exactly one version gets right."""
        return self.only_champion + self.only_challenger

    @property
    def difference(self) -> float:
        """Return precision@1 of the challenger minus that of the champion."""
        return (self.only_challenger - self.only_champion) / max(1, self.num_compared)


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleResult:
    """What the rule says about one comparison.

    Attributes:
        ruling: "better", "worse" or "undecided".
        p_value: Of "the challenger is worse by MARGIN or more".
        alpha: The level that this comparison may spend; "better" needs p_value <= alpha.
        interval: 95 % interval of the difference in precision@1.
        num_needed: About how many unseen pictures would decide, if the versions differ as they do
            on these; None if the comparison is decided.
    """

    ruling: Ruling
    p_value: float
    alpha: float
    interval: Interval
    num_needed: int | None


def decide_comparison(counts: PairedCounts, alpha: float) -> RuleResult:
    """Decide whether a challenger is better than the champion.

    Args:
        counts: The comparison, on pictures that neither was trained on.
        alpha: The level of the comparison, see `next_alpha`.
    """
    p_value = p_not_worse(counts)
    # Two-sided, so twice the one-sided level.
    p_equal = mcnemar_p(counts.only_champion, counts.only_challenger)
    ruling: Ruling = "undecided"
    if counts.difference > 0 and p_value <= alpha:
        ruling = "better"
    elif counts.difference < 0 and p_equal <= 2 * WORSE_LEVEL:
        ruling = "worse"
    return RuleResult(
        ruling=ruling,
        p_value=p_value,
        alpha=alpha,
        interval=paired_difference(
            counts.only_champion, counts.only_challenger, counts.num_compared
        ).interval,
        num_needed=num_needed(counts, alpha) if ruling == "undecided" else None,
    )


def next_alpha(num_earlier: int, comparisons_per_year: int = COMPARISONS_PER_YEAR) -> float:
    """Return the level of a model's next comparison.

    Args:
        num_earlier: Number of earlier comparisons of the model.
        comparisons_per_year: Number of comparisons that share YEARLY_ERROR.
    """
    t = num_earlier + 1
    share = _EVEN_SHARE / comparisons_per_year + (1 - _EVEN_SHARE) / (t * (t + 1))
    return YEARLY_ERROR * min(1.0, share)


def p_not_worse(counts: PairedCounts, margin: float = MARGIN) -> float:
    """Return the exact p-value of "the challenger is worse by `margin` or more".

    The module states the test and its sources. p is 1 if the challenger gets no more pictures right
    than the champion: such a version is not promoted.
    """
    n, observed = counts.num_compared, counts.num_discordant
    if counts.only_challenger <= counts.only_champion:
        return 1.0
    statistic = float(
        binomial_tail(observed, _share(_estimate(observed, n), margin))[counts.only_challenger]
    )
    low, high = _discordance_interval(observed, n)
    low, high = max(low, margin), max(high, margin)
    discordances = _discordances(low, high, margin)
    # Discordant counts that are possible for one of these discordances.
    first, last = _binomial_range(n, discordances[0])[0], _binomial_range(n, discordances[-1])[1]
    thresholds = [_threshold(d, n, margin, statistic) for d in range(first, last + 1)]
    worst = max(_rejection_probability(n, r, margin, first, thresholds) for r in discordances)
    return min(1.0, worst * _BETWEEN_STEPS + _MISS)


def num_needed(counts: PairedCounts, alpha: float, margin: float = MARGIN) -> int:
    """Return about how many pictures would decide a comparison that is undecided.

    If the challenger is better by as much as on these pictures, or by `margin` if that is more, the
    rule promotes it in four of five cases. Source: the sample size of McNemar's test, Connor,
    Biometrics 43 (1987), with a margin.
    """
    discordance = (counts.num_discordant + 1) / (counts.num_compared + 2)
    difference = min(max(counts.difference, margin), discordance)
    quantile = NormalDist().inv_cdf
    z = quantile(1 - max(alpha, 1e-12)) + quantile(_POWER)
    variance = max(discordance - difference**2, discordance / 4)
    return max(counts.num_compared + 1, math.ceil(z * z * variance / (difference + margin) ** 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """One recorded comparison: which version was compared with which, and how they fared."""

    champion: str
    challenger: str
    counts: PairedCounts


def correct_selection(version: str, pairings: Sequence[Pairing]) -> float:
    """Return what to add to a version's measured precision@1, because it was selected by it.

    All versions that are connected with it by comparisons are put on one scale by their
    differences. The variance of their scores that discordant pictures alone explain is noise; the
    rest is real. The score is moved towards the mean by the share of noise. A version that was
    never compared is not moved.

    Args:
        version: The version.
        pairings: Comparisons of the model, the one of this version included, oldest first.
    """
    scores = _scores_relative_to(version, pairings)
    if len(scores) < 2:
        return 0.0
    used = [each.counts for each in pairings if each.challenger in scores]
    # Each of two versions contributes half of the variance of their difference.
    noise = math.fsum(each.num_discordant / max(1, each.num_compared) ** 2 for each in used) / (
        2 * len(used)
    )
    values = np.array(list(scores.values()))
    return float(selection_correction(0.0, values.mean(), values.var(ddof=1), noise))


def selection_correction(
    score: float | FloatArray,
    mean: float | FloatArray,
    variance: float | FloatArray,
    noise: float | FloatArray,
) -> float | FloatArray:
    """Return how far a score moves towards the mean of scores whose variance is partly noise."""
    share = np.minimum(1.0, noise / np.maximum(variance, 1e-300))
    result: float | FloatArray = share * (mean - score)
    return result


def _scores_relative_to(version: str, pairings: Sequence[Pairing]) -> dict[str, float]:
    """Return the score of every connected version, minus that of `version`."""
    neighbours: dict[str, list[tuple[str, float]]] = {}
    for each in pairings:
        difference = each.counts.difference
        neighbours.setdefault(each.champion, []).append((each.challenger, difference))
        neighbours.setdefault(each.challenger, []).append((each.champion, -difference))
    scores, waiting = {version: 0.0}, [version]
    while waiting:
        current = waiting.pop()
        for name, difference in neighbours.get(current, ()):
            if name not in scores:
                scores[name] = scores[current] + difference
                waiting.append(name)
    return scores


def _estimate(num_discordant: int, n: int) -> float:
    """Return a high estimate of the discordance; it only orders results, see `p_not_worse`.

    A low one would call few discordant pictures extreme: at a discordance of margin, none of them
    could be the challenger's.
    """
    return min(1.0, (num_discordant + 2.5 * math.sqrt(num_discordant) + 5) / n)


def _share(discordance: float, margin: float) -> float:
    """Return the challenger's share of the discordant pictures at a difference of -margin."""
    return max(0.0, (1 - margin / max(discordance, margin)) / 2)


def _threshold(d: int, n: int, margin: float, statistic: float) -> int:
    """Return the fewest of d discordant pictures that are as extreme as the statistic."""
    tail = binomial_tail(d, _share(_estimate(d, n), margin))
    extreme = np.flatnonzero(tail <= statistic * (1 + 1e-9))
    smallest = int(extreme[0]) if len(extreme) else d + 1
    return max(smallest, d // 2 + 1)


def _rejection_probability(
    n: int, discordance: float, margin: float, first: int, thresholds: Sequence[int]
) -> float:
    low, high = _binomial_range(n, discordance)
    weights = _binomial_pmf(n, discordance, low, high)
    share = _share(discordance, margin)
    probability = 0.0
    for d, weight in zip(range(low, high + 1), weights, strict=True):
        threshold = thresholds[d - first]
        if threshold <= d:
            probability += float(weight) * float(binomial_tail(d, share)[threshold])
    return probability


@functools.lru_cache(maxsize=1 << 10)
def _discordance_interval(num_discordant: int, n: int) -> Interval:
    """Return an interval that misses the discordance with probability _MISS at most.

    Source: Clopper and Pearson, Biometrika 26 (1934), by bisection.
    """

    def is_below(p: float) -> bool:
        # P(X >= num_discordant) is small: p is below the interval.
        return float(binomial_tail(n, p)[num_discordant]) < _MISS / 2

    def is_above(p: float) -> bool:
        tail = binomial_tail(n, 1 - p)  # of the number of concordant pictures
        return float(tail[n - num_discordant]) < _MISS / 2

    low = _bisect(is_below) if num_discordant else 0.0
    high = 1 - _bisect(lambda p: is_above(1 - p)) if num_discordant < n else 1.0
    return low, high


def _discordances(low: float, high: float, margin: float) -> list[float]:
    """Return discordances that cover an interval; the same ones for all intervals."""
    step = math.log(_DISCORDANCE_STEP)
    first = math.floor(math.log(low / margin) / step)
    last = math.ceil(math.log(high / margin) / step)
    return [min(1.0, margin * _DISCORDANCE_STEP**i) for i in range(first, last + 1)]


def _bisect(is_below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low


def _binomial_range(n: int, p: float) -> tuple[int, int]:
    """Return the counts outside of which a binomial variable lies with probability < 1e-14."""
    spread = 8 * math.sqrt(n * p * (1 - p)) + 20
    return max(0, math.floor(n * p - spread)), min(n, math.ceil(n * p + spread))


def binomial_tail(n: int, p: float) -> FloatArray:
    """Return P(X >= k) for k = 0 .. n + 1, X binomial."""
    return _cached_tail(n, p) if n <= _CACHED_TAIL else _compute_tail(n, p)


@functools.lru_cache(maxsize=1 << 14)
def _cached_tail(n: int, p: float) -> FloatArray:
    return _compute_tail(n, p)


def _compute_tail(n: int, p: float) -> FloatArray:
    pmf = _binomial_pmf(n, p, 0, n)
    tail = np.zeros(n + 2)
    tail[:-1] = np.minimum(1.0, np.cumsum(pmf[::-1])[::-1])
    return tail


def _binomial_pmf(n: int, p: float, first: int, last: int) -> FloatArray:
    """Return P(X = k) for k = first .. last."""
    k = np.arange(first, last + 1)
    if p <= 0 or p >= 1:
        return np.asarray(k == (n if p >= 1 else 0), np.float64)
    factorials = _log_factorials(n)
    return np.asarray(
        np.exp(
            factorials[n]
            - factorials[k]
            - factorials[n - k]
            + k * math.log(p)
            + (n - k) * math.log1p(-p)
        )
    )


_FACTORIALS: list[FloatArray] = [np.zeros(1)]


def _log_factorials(n: int) -> FloatArray:
    """Return log k! for k = 0 .. n or more; computed once."""
    if len(_FACTORIALS[0]) <= n:
        _FACTORIALS[0] = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, 2 * n + 1)))])
    return _FACTORIALS[0]
