"""One row of the report's table for each label: how often it is found, with the interval, and on how many pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repot.metrics import wilson_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRow:
    """One label.

    Attributes:
        num_train: Pictures that it was trained on.
        num_examples: Pictures that it was scored on; low, high and recall are None without one.
        num_correct: Those that were recognised.
        low, high: 95 % interval of recall, in [0, 1].
        recall, precision, f1: Scores; None for 0/0.
    """

    label: str
    num_train: int
    num_examples: int
    num_correct: int
    low: float | None
    high: float | None
    recall: float | None
    precision: float | None
    f1: float | None


def label_rows(metrics: Mapping[str, Any], data: Mapping[str, Any]) -> list[LabelRow]:
    """Return a row for each label, the hardest first; labels without a scored picture come last."""
    trained = data["splits"].get("train", {}).get("class_counts", {})
    rows = [_row(facts, trained.get(facts["label"], 0)) for facts in metrics["per_class"]]
    return sorted(rows, key=lambda row: (row.recall is None, row.recall, -row.num_examples, row.label))


def _row(facts: Mapping[str, Any], num_train: int) -> LabelRow:
    n, num_correct = facts["num_examples"], facts["num_correct"]
    low, high = wilson_interval(num_correct, n) if n else (None, None)
    return LabelRow(
        label=facts["label"],
        num_train=num_train,
        num_examples=n,
        num_correct=num_correct,
        low=low,
        high=high,
        recall=facts["recall"],
        precision=facts["precision"],
        f1=facts["f1"],
    )
