"""Simulate years of nightly retraining under several rules of the gate.

Every night a new model is compared with the champion on the same validation pictures. A tenth of
the pictures is uncertain: a model gets each of them right with a probability of its own, which is
normally distributed over models. The other pictures are the same for every model. A model's true
precision is what it would reach on endlessly many pictures; the pictures of the split are a sample.

For each rule, three questions:

- In how many years was there a promotion that lost more than one point of true precision?
- How far was the printed precision of the champion from the true one, on average?
- How often is a champion replaced within a week, when every new model is three points better?

    python benchmarks/gate.py [--years 10000] [--seed 0]
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repot.evaluator.decision_rule import (
    MARGIN,
    YEARLY_ERROR,
    PairedCounts,
    next_alpha,
    p_not_worse,
    selection_correction,
)
from repot.metrics import mcnemar_p

NIGHTS = 365
UNCERTAIN = 0.1
"""Share of the pictures that a model gets right with a probability of its own."""
POINT = 0.01
SMALLEST_LEVEL = 0.8 * YEARLY_ERROR / NIGHTS

Counts = NDArray[np.int64]
Promotes = Callable[[int, Counts, Counts], NDArray[np.bool_]]
"""Night from 0, pictures that only the champion and only the challenger get right, per year."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A rule of the gate, for a number of pictures."""

    name: str
    promotes: Promotes
    corrects_selection: bool = False


def any_gain(_: int, only_champion: Counts, only_challenger: Counts) -> NDArray[np.bool_]:
    """Promote what gets as many pictures right, or more: the rule of earlier versions of repot."""
    return only_challenger >= only_champion


def rules(num_pictures: int, levels: NDArray[np.float64]) -> Iterator[Rule]:
    """Yield the rules to compare; `levels` has that of each night."""
    size = round(num_pictures * UNCERTAIN) + 1
    yield Rule(name="as many right (before)", promotes=any_gain)
    significant = table(size, lambda b, c: mcnemar_p(b, c) if c > b else 1.0)
    yield Rule(
        name="McNemar p <= .05 each night",
        promotes=lambda _, b, c: significant[b, c] <= YEARLY_ERROR,
    )
    inverse = table(size, lambda b, c: 1 / e_value(b, c, num_pictures))
    yield Rule(
        name="e-value, same spending",
        promotes=lambda night, b, c: inverse[b, c] <= levels[night],
        corrects_selection=True,
    )
    exact = table(
        size,
        lambda b, c: p_not_worse(
            PairedCounts(only_champion=b, only_challenger=c, num_compared=num_pictures)
        ),
    )
    yield Rule(
        name="repot",
        promotes=lambda night, b, c: (c > b) & (exact[b, c] <= levels[night]),
        corrects_selection=True,
    )


def table(size: int, p_value: Callable[[int, int], float]) -> NDArray[np.float64]:
    """Return a p-value for every pair of counts, or a bound of it that decides the same.

    Of d pictures, the p-value falls with those that only the challenger gets right. It is computed
    only between the smallest and the largest level; it is 1 above, and 0 below.
    """
    values = np.ones((size, size))
    for d in range(1, size):
        for only_challenger in range(d // 2 + 1, d + 1):
            value = p_value(d - only_challenger, only_challenger)
            values[d - only_challenger, only_challenger] = value
            if value < SMALLEST_LEVEL:
                for more in range(only_challenger + 1, d + 1):
                    values[d - more, more] = 0
                break
    return values


def e_value(only_champion: int, only_challenger: int, num_pictures: int) -> float:
    """Return an e-value against "worse by MARGIN": a bet on each picture, averaged over stakes.

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
    JRSS B 86 (2024).
    """
    stakes = np.linspace(0.02, 0.98, 49)
    gains = (
        only_challenger * np.log1p(stakes * (1 + MARGIN))
        + only_champion * np.log1p(stakes * (MARGIN - 1))
        + (num_pictures - only_champion - only_challenger) * np.log1p(stakes * MARGIN)
    )
    return float(np.mean(np.exp(gains)))


def simulate(
    rule: Rule, num_pictures: int, *, deviation: float, years: int, seed: int
) -> dict[str, float]:
    """Return the scores of a rule for models whose precision has a standard deviation."""
    rng = np.random.default_rng(seed)
    uncertain = round(num_pictures * UNCERTAIN)

    def train() -> NDArray[np.float64]:
        return np.clip(rng.normal(0.5, deviation / UNCERTAIN, years), 0, 1)

    champion = train()
    right = rng.binomial(uncertain, champion)
    position = np.zeros(years)  # measured precision minus that of the first champion
    count, total, squares, noise = 1, np.zeros(years), np.zeros(years), np.zeros(years)
    is_bad, promotions = np.zeros(years, bool), 0
    bias_when_promoted = 0.0
    for night in range(NIGHTS):
        challenger = train()
        gained = rng.binomial(uncertain - right, challenger)
        lost = right - rng.binomial(right, challenger)
        promoted = rule.promotes(night, lost, gained)
        measured = position + (gained - lost) / num_pictures
        count, total, squares = count + 1, total + measured, squares + measured**2
        noise = noise + (gained + lost) / num_pictures**2
        is_bad |= promoted & (UNCERTAIN * (challenger - champion) < -POINT)
        champion = np.where(promoted, challenger, champion)
        right = np.where(promoted, right + gained - lost, right)
        position = np.where(promoted, measured, position)
        promotions += int(promoted.sum())
        error = right / num_pictures - UNCERTAIN * champion
        if rule.corrects_selection:
            mean = total / count
            variance = np.maximum(squares / count - mean**2, 0) * count / (count - 1)
            error = error + selection_correction(
                position, mean, variance, noise / (2 * (count - 1))
            )
        bias_when_promoted += float(error[promoted].sum())
    return {
        "bad": float(is_bad.mean()),
        "promotions": promotions / years,
        "bias": float(error.mean()),
        "bias_measured": float((right / num_pictures - UNCERTAIN * champion).mean()),
        "bias_when_promoted": bias_when_promoted / promotions if promotions else math.nan,
        "gain": float(UNCERTAIN * (champion - 0.5).mean()),
    }


def power(
    rule: Rule, num_pictures: int, *, gain: float, first_night: int, years: int, seed: int
) -> float:
    """Return how often a champion is replaced within a week of models that are better by `gain`."""
    rng = np.random.default_rng(seed)
    uncertain = round(num_pictures * UNCERTAIN)
    right = rng.binomial(uncertain, 0.5, years)
    share = 0.5 + gain / UNCERTAIN
    replaced = np.zeros(years, bool)
    for night in range(first_night, first_night + 7):
        gained = rng.binomial(uncertain - right, share)
        lost = right - rng.binomial(right, share)
        replaced |= rule.promotes(night, lost, gained)
    return float(replaced.mean())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--years", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    years, seed = arguments.years, arguments.seed
    started = time.process_time()
    levels = np.array([next_alpha(night) for night in range(NIGHTS)])
    sets = {n: list(rules(n, levels)) for n in (200, 500, 1000)}
    print(f"{years:,} years of {NIGHTS} nights; models differ by a standard deviation (s.d.)\n")
    print(
        "| pictures | s.d. | rule | years with a loss > 1 point | promotions a year "
        "| printed - true, points | as measured | when promoted | gained in a year, points |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for num_pictures, choices in sets.items():
        for deviation in (0.0, 0.01, 0.02):
            for rule in choices:
                r = simulate(rule, num_pictures, deviation=deviation, years=years, seed=seed)
                print(
                    f"| {num_pictures:,} | {100 * deviation:g} | {rule.name} | {r['bad']:.2%} "
                    f"| {r['promotions']:.2f} | {100 * r['bias']:+.2f} "
                    f"| {100 * r['bias_measured']:+.2f} | {100 * r['bias_when_promoted']:+.2f} "
                    f"| {100 * r['gain']:+.2f} |",
                    flush=True,
                )
    print("\nPromoted within a week, where every new model is better by 3 points:\n")
    print("| pictures | rule | week 1 | week 26 | week 52 |\n|---|---|---|---|---|")
    for num_pictures, choices in sets.items():
        for rule in choices:
            weeks = [
                power(rule, num_pictures, gain=0.03, first_night=night, years=years, seed=seed)
                for night in (0, 175, 357)
            ]
            print(
                f"| {num_pictures:,} | {rule.name} | "
                + " | ".join(f"{each:.1%}" for each in weeks)
                + " |"
            )
    print(f"\n{time.process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
