"""The confusion matrix, reduced to what fits on a page."""

import numpy as np
import pytest

from repot.evaluator.report.confusions import (
    confusion_counts,
    heat_map,
    most_confused,
    worst_confusions,
)
from tests.unit.evaluator.samples import make_outcome, make_report_data

# a is often predicted as c; b and d are always correct.
MATRIX = np.array([[5, 0, 3, 0], [0, 4, 0, 0], [1, 0, 2, 0], [0, 0, 0, 9]])
LABELS = list("abcd")


def test_confusion_counts_is_the_full_matrix_of_a_record() -> None:
    pairs = [("a", "a"), ("a", "b"), ("b", "b"), ("c", "a")]
    outcomes = [make_outcome(i, true, predicted) for i, (true, predicted) in enumerate(pairs)]
    record = make_report_data(outcomes, ["a", "b", "c"]).evaluation

    assert record.confusion_matrix == {"a": {"a": 1, "b": 1}, "b": {"b": 1}, "c": {"a": 1}}
    assert confusion_counts(record).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("limit", "chosen"),
    [(1, [0]), (2, [0, 2]), (3, [0, 2, 3]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3])],
)
def test_most_confused_labels_keep_the_class_order(limit: int, chosen: list[int]) -> None:
    assert most_confused(MATRIX, limit) == chosen


def test_heat_map_totals_include_labels_that_are_not_shown() -> None:
    shown = heat_map(np.array([[5, 1, 3], [0, 4, 0], [1, 0, 2]]), ["a", "b", "c"], 2)

    assert shown.labels == ("a", "c")
    assert [[cell.count for cell in row] for row in shown.rows] == [[5, 3], [1, 2]]
    assert shown.totals == (9, 3)
    assert shown.rows[0][1].share == pytest.approx(3 / 9)
    assert [[cell.correct for cell in row] for row in shown.rows] == [[True, False], [False, True]]
    assert shown.num_labels == 3


def test_heat_map_share_of_a_label_without_examples_is_zero() -> None:
    assert heat_map(np.zeros((1, 1), dtype=np.int64), ["a"], 1).rows[0][0].share == 0.0


def test_worst_confusions_are_sorted_by_count() -> None:
    first, second = worst_confusions(MATRIX, LABELS, 5)

    assert (first.label, first.predicted, first.count, first.num_examples) == ("a", "c", 3, 8)
    assert (second.label, second.predicted, second.count, second.num_examples) == ("c", "a", 1, 3)
    assert worst_confusions(MATRIX, LABELS, 1) == [first]
