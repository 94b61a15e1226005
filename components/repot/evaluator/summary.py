"""The scores of one evaluation, from its table of outcomes: what metrics.json says."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repot import metrics
from repot.evaluator.outcomes import Outcome

RECALL_K = 5


def summarise(outcomes: Sequence[Outcome], labels: Sequence[str]) -> dict[str, Any]:
    """Return every score of at least one outcome as JSON-able facts.

    Args:
        outcomes: What the model said of each picture.
        labels: Every label that occurs, as truth or as guess, in the order of the classes.
    """
    ranks = np.array([outcome.label_rank for outcome in outcomes])
    num_correct = int(np.sum(ranks == 1))
    recall = metrics.recall_at_k(ranks, RECALL_K, len(labels))
    matrix = _matrix(outcomes, labels)
    return {
        "num_examples": len(outcomes),
        "num_correct": num_correct,
        "precision_at_1": metrics.precision_at_1(ranks),
        "precision_at_1_interval": list(metrics.wilson_interval(num_correct, len(outcomes))),
        "recall_at_5": recall.value if recall else None,
        "recall_k": recall.k if recall else None,
        "loss": _loss(outcomes),
        "labels": list(labels),
        "per_class": [
            {
                "label": label,
                **dataclasses.asdict(score),
                "precision": score.precision,
                "recall": score.recall,
                "f1": score.f1,
            }
            for label, score in zip(labels, metrics.label_scores(matrix), strict=True)
        ],
        "confusion_matrix": _named_counts(outcomes),
        "calibration": _calibration(outcomes),
    }


def confusion_of(facts: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return the confusion matrix of a metrics.json: int64 [num_labels, num_labels], row = true label."""
    position = {label: i for i, label in enumerate(facts["labels"])}
    matrix = np.zeros((len(position), len(position)), dtype=np.int64)
    for label, guesses in facts["confusion_matrix"].items():
        for guess, count in guesses.items():
            matrix[position[label], position[guess]] = count
    return matrix


def _matrix(outcomes: Sequence[Outcome], labels: Sequence[str]) -> NDArray[np.int64]:
    position = {label: i for i, label in enumerate(labels)}
    truth = np.array([position[outcome.label] for outcome in outcomes])
    guesses = np.array([position[outcome.guess] for outcome in outcomes])
    return metrics.confusion_matrix(truth, guesses, len(labels))


def _named_counts(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Return counts by true label and guess; a matrix of a thousand labels is nearly all zeros."""
    counts: dict[str, dict[str, int]] = {}
    for (label, guess), count in Counter(
        (outcome.label, outcome.guess) for outcome in outcomes
    ).items():
        counts.setdefault(label, {})[guess] = count
    return counts


def _loss(outcomes: Sequence[Outcome]) -> float | None:
    """Return the mean cross-entropy in nats, or None when a true label is none of the model's."""
    if any(outcome.label_probability == 0 for outcome in outcomes):
        return None
    return -math.fsum(math.log(outcome.label_probability) for outcome in outcomes) / len(outcomes)


def _calibration(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    confidences = np.array([outcome.probability for outcome in outcomes])
    bins = metrics.calibration(confidences, np.array([outcome.correct for outcome in outcomes]))
    return {
        "error": metrics.calibration_error(bins),
        "bins": [dataclasses.asdict(each) for each in bins],
    }
