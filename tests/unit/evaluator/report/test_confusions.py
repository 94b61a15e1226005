"""The confusion matrix cut to what a page can show."""

import numpy as np
import pytest

from repot.evaluator.report.confusions import heat_map, most_confused, worst_confusions

# a is often taken for c; b and d are always right.
MATRIX = np.array([[5, 0, 3, 0], [0, 4, 0, 0], [1, 0, 2, 0], [0, 0, 0, 9]])
LABELS = list("abcd")


@pytest.mark.parametrize(
    ("limit", "chosen"),
    [(1, [0]), (2, [0, 2]), (3, [0, 2, 3]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3])],
)
def test_most_confused_come_in_the_order_of_their_classes(limit: int, chosen: list[int]) -> None:
    assert most_confused(MATRIX, limit) == chosen


def test_heat_map_of_some_labels_keeps_the_totals_of_all() -> None:
    shown = heat_map(np.array([[5, 1, 3], [0, 4, 0], [1, 0, 2]]), ["a", "b", "c"], 2)

    assert shown.labels == ("a", "c")
    assert [[cell.count for cell in row] for row in shown.rows] == [[5, 3], [1, 2]]
    assert shown.totals == (9, 3)
    assert shown.rows[0][1].share == pytest.approx(3 / 9)
    assert [[cell.hit for cell in row] for row in shown.rows] == [[True, False], [False, True]]
    assert shown.num_labels == 3


def test_heat_map_of_a_label_without_examples_has_no_share() -> None:
    assert heat_map(np.zeros((1, 1), dtype=np.int64), ["a"], 1).rows[0][0].share == 0.0


def test_worst_confusions_come_with_what_they_could_have_been() -> None:
    worst, second = worst_confusions(MATRIX, LABELS, 5)

    assert (worst.label, worst.guess, worst.count, worst.num_examples) == ("a", "c", 3, 8)
    assert (second.label, second.guess, second.count, second.num_examples) == ("c", "a", 1, 3)
    assert worst_confusions(MATRIX, LABELS, 1) == [worst]
