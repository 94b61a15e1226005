"""The confusion matrix, reduced to the labels and pairs of labels with the most mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repot.evaluation_record import EvaluationRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of the heat map.

    Attributes:
        count: Number of pictures.
        share: Share of all pictures with the row's true label, in [0, 1].
        correct: Whether the cell is on the diagonal.
    """

    count: int
    share: float
    correct: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """A confusion matrix to draw.

    Attributes:
        labels: The shown labels, in class order.
        rows: rows[i][j] counts pictures of label i predicted as label j.
        totals: Pictures of each shown label, including those predicted as a label not shown.
        num_labels: Number of all labels.
    """

    labels: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    totals: tuple[int, ...]
    num_labels: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """One kind of mistake.

    Attributes:
        label: The true label.
        predicted: The predicted label.
        count: Number of such mistakes.
        num_examples: Pictures with the true label.
    """

    label: str
    predicted: str
    count: int
    num_examples: int


def confusion_counts(record: EvaluationRecord) -> NDArray[np.int64]:
    """Return the matrix: int64 [num_labels, num_labels], row = true, column = predicted label."""
    position = {label: i for i, label in enumerate(record.labels)}
    matrix = np.zeros((len(position), len(position)), dtype=np.int64)
    for label, counts in record.confusion_matrix.items():
        for predicted, count in counts.items():
            matrix[position[label], position[predicted]] = count
    return matrix


def most_confused(matrix: NDArray[np.int64], limit: int) -> list[int]:
    """Return the indices of the labels with the most mistakes, as truth or as prediction.

    Args:
        matrix: int64 [num_labels, num_labels], row = true label, column = predicted label.
        limit: Maximum number of labels.

    Returns:
        Indices in ascending order.
    """
    mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    # Ties: first the label with more examples, then the one with the lower index.
    order = np.lexsort((np.arange(len(matrix)), -matrix.sum(axis=1), -mistakes))
    return sorted(int(i) for i in order[:limit])


def heat_map(matrix: NDArray[np.int64], labels: Sequence[str], limit: int) -> HeatMap:
    """Return the rows and columns of the `limit` most confused labels."""
    shown = most_confused(matrix, limit)
    totals = matrix.sum(axis=1)
    rows = tuple(
        tuple(_cell(int(matrix[i, j]), int(totals[i]), correct=i == j) for j in shown)
        for i in shown
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
    """Return the pairs of labels with the most mistakes, most frequent first."""
    totals = matrix.sum(axis=1)
    pairs = [(int(matrix[i, j]), int(i), int(j)) for i, j in np.argwhere(matrix) if i != j]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [
        Confusion(label=labels[i], predicted=labels[j], count=count, num_examples=int(totals[i]))
        for count, i, j in pairs[:limit]
    ]


def _cell(count: int, total: int, *, correct: bool) -> Cell:
    return Cell(count=count, share=count / total if total else 0.0, correct=correct)
