"""What a version must do whatever its precision@1: beat chance, find every label, lose none.

Each check is a test that allows for chance in small numbers: a label with one picture is easily
missed, and of a hundred labels some look worse by luck.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repot.evaluator.decision_rule import binomial_tail
from repot.evaluator.outcomes import Outcome
from repot.json_record import JsonRecord
from repot.metrics import holm

_CHANCE_LEVEL = 0.05
_MISSED_LEVEL = 0.2
"""More careful than usual: that a label is never found is rarely what one wants."""
_LOST_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class ChanceCheck(JsonRecord):
    """Whether predictions have anything to do with the pictures.

    Attributes:
        precision_by_chance: precision@1 of the same predictions, dealt to the pictures at random.
        p_value: Probability of getting as many right that way.
        is_better: Whether the version is better than that.
    """

    precision_by_chance: float
    p_value: float
    is_better: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCount(JsonRecord):
    """How a label fares.

    Attributes:
        label: The label.
        num_examples: Its pictures.
        num_correct: Those that the version gets right.
        num_correct_champion: Those that the champion gets right; None without a comparison.
        p_value: Of "the version is as good as the champion on this label", one-sided and corrected
            for the number of labels; None without a comparison.
    """

    label: str
    num_examples: int
    num_correct: int
    num_correct_champion: int | None = None
    p_value: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelComparison(JsonRecord):
    """Content of labels.json: champion and challenger on each label, lowest p-value first."""

    labels: tuple[LabelCount, ...]


def check_chance(outcomes: Sequence[Outcome]) -> ChanceCheck:
    """Compare a version with its own predictions, dealt to the pictures at random.

    A model that always answers the most frequent label gets no more right that way than it does,
    however large that label is; one that finds rare labels gets more. Source: the agreement that
    Cohen's kappa subtracts (Educational and Psychological Measurement 20, 1960), with the exact
    binomial distribution instead of the normal one. A version that gets everything right passes,
    even if there are too few pictures for a test.
    """
    n = len(outcomes)
    true = Counter(outcome.label for outcome in outcomes)
    predicted = Counter(outcome.predicted for outcome in outcomes)
    expected = sum(count * predicted[label] for label, count in true.items()) / n**2
    num_correct = sum(outcome.correct for outcome in outcomes)
    p_value = float(binomial_tail(n, expected)[num_correct])
    is_perfect = num_correct == n and len(true) > 1
    return ChanceCheck(
        precision_by_chance=expected,
        p_value=p_value,
        is_better=p_value <= _CHANCE_LEVEL or is_perfect,
    )


def find_missed(outcomes: Sequence[Outcome]) -> tuple[list[LabelCount], bool]:
    """Return the labels of which no picture is right, and whether chance may explain them.

    By chance, a label with m pictures is missed with probability (1 - precision@1)^m. Chance
    explains the missed labels unless as many of them are less likely than one in five.
    """
    counts = count_labels(outcomes)
    missed = [each for each in counts if not each.num_correct]
    if not missed:
        return [], True
    error = 1 - sum(each.num_correct for each in counts) / len(outcomes)
    # The number of missed labels is a sum of independent zeros and ones.
    distribution = np.ones(1)
    for each in counts:
        chance = error**each.num_examples
        distribution = np.convolve(distribution, [1 - chance, chance])
    return missed, float(distribution[len(missed) :].sum()) > _MISSED_LEVEL


def find_lost(champion: Sequence[Outcome], challenger: Sequence[Outcome]) -> list[LabelCount]:
    """Return the labels on which the challenger is worse than the champion, lowest p-value first.

    With any number of labels, the probability that one is called lost that is not is at most 5 %.
    """
    return [
        each
        for each in compare_labels(champion, challenger)
        if each.p_value is not None and each.p_value <= _LOST_LEVEL
    ]


def compare_labels(champion: Sequence[Outcome], challenger: Sequence[Outcome]) -> list[LabelCount]:
    """Return both models' right pictures of each label, lowest p-value first.

    One-sided exact McNemar tests, one per label, corrected by Holm's method. A label that the
    champion never gets right cannot be lost, and has no p-value.
    """
    old_right: dict[str, list[bool]] = defaultdict(list)
    new_right: dict[str, list[bool]] = defaultdict(list)
    for old, new in zip(champion, challenger, strict=True):
        old_right[old.label].append(old.correct)
        new_right[new.label].append(new.correct)
    counts = []
    for label, old_marks in old_right.items():
        marks = list(zip(old_marks, new_right[label], strict=True))
        only_old, only_new = marks.count((True, False)), marks.count((False, True))
        p_value = float(binomial_tail(only_old + only_new, 0.5)[only_old])
        counts.append(
            LabelCount(
                label=label,
                num_examples=len(marks),
                num_correct=sum(new_right[label]),
                num_correct_champion=sum(old_marks),
                p_value=p_value if any(old_marks) else None,
            )
        )
    tested = sorted((each.p_value, each.label) for each in counts if each.p_value is not None)
    corrected = dict(
        zip(
            (label for _, label in tested),
            holm([p_value for p_value, _ in tested]),
            strict=True,
        )
    )
    order = {label: i for i, (_, label) in enumerate(tested)}
    counts.sort(key=lambda each: (order.get(each.label, len(order)), each.label))
    return [dataclasses.replace(each, p_value=corrected.get(each.label)) for each in counts]


def count_labels(outcomes: Sequence[Outcome]) -> list[LabelCount]:
    """Return the pictures of each true label, and those that are right."""
    total = Counter(outcome.label for outcome in outcomes)
    correct = Counter(outcome.label for outcome in outcomes if outcome.correct)
    return [
        LabelCount(label=label, num_examples=count, num_correct=correct[label])
        for label, count in total.items()
    ]
