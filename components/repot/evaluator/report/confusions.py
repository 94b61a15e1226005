"""Which labels are taken for which: the confusion matrix cut to what a page can show, and the pairs that matter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of the heat map: how many, which share of its row, and whether that is right."""

    count: int
    share: float
    hit: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """A confusion matrix ready to be drawn.

    Attributes:
        labels: The labels that are shown, in the order of their classes.
        rows: rows[i][j] is true label i taken for label j.
        totals: Examples of each shown label, those taken for labels that are not shown included.
        num_labels: Labels there are.
    """

    labels: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    totals: tuple[int, ...]
    num_labels: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """A label that was taken for another, how often, and how often it could have been."""

    label: str
    guess: str
    count: int
    num_examples: int


def most_confused(matrix: NDArray[np.int64], limit: int) -> list[int]:
    """Return the labels with the most mistakes, missed or wrongly given; ascending, at most `limit`."""
    mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    # Of equally confused labels the one with more examples, then the earlier one.
    order = np.lexsort((np.arange(len(matrix)), -matrix.sum(axis=1), -mistakes))
    return sorted(int(i) for i in order[:limit])


def heat_map(matrix: NDArray[np.int64], labels: Sequence[str], limit: int) -> HeatMap:
    """Return the matrix of the `limit` most confused labels (of all when there are no more)."""
    shown = most_confused(matrix, limit)
    totals = matrix.sum(axis=1)
    rows = tuple(
        tuple(_cell(int(matrix[i, j]), int(totals[i]), hit=i == j) for j in shown) for i in shown
    )
    return HeatMap(
        labels=tuple(labels[i] for i in shown),
        rows=rows,
        totals=tuple(int(totals[i]) for i in shown),
        num_labels=len(labels),
    )


def worst_confusions(
    matrix: NDArray[np.int64], labels: Sequence[str], limit: int
) -> list[Confusion]:
    """Return the pairs of labels with the most mistakes, the most frequent first."""
    totals = matrix.sum(axis=1)
    pairs = [(int(matrix[i, j]), int(i), int(j)) for i, j in np.argwhere(matrix) if i != j]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [
        Confusion(label=labels[i], guess=labels[j], count=count, num_examples=int(totals[i]))
        for count, i, j in pairs[:limit]
    ]


def _cell(count: int, total: int, *, hit: bool) -> Cell:
    return Cell(count=count, share=count / total if total else 0.0, hit=hit)
