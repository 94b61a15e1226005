"""The confusion matrix, reduced to the labels and pairs of labels with the most mistakes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repot.evaluation_record import EvaluationRecord
from repot.evaluator.report.data import CellPictures, ShownPicture


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of the heat map.

    Attributes:
        label, predicted: The true and the predicted label.
        row, column: Their positions among all labels.
        count: Number of pictures.
        total: Pictures with the true label.
        pictures: Some of them.
    """

    label: str
    predicted: str
    row: int
    column: int
    count: int
    total: int
    pictures: tuple[ShownPicture, ...] = ()

    @property
    def share(self) -> float:
        """Return the share of all pictures with the row's true label, in [0, 1]."""
        return self.count / self.total if self.total else 0.0

    @property
    def correct(self) -> bool:
        """Return whether the cell is on the diagonal."""
        return self.row == self.column


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

    @property
    def has_pictures(self) -> bool:
        """Return whether a cell has pictures."""
        return any(cell.pictures for row in self.rows for cell in row)


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


def heat_map(
    matrix: NDArray[np.int64],
    labels: Sequence[str],
    limit: int,
    cells: Iterable[CellPictures] = (),
) -> HeatMap:
    """Return the rows and columns of the `limit` most confused labels, with pictures of cells."""
    shown = most_confused(matrix, limit)
    totals = matrix.sum(axis=1)
    pictures = {(cell.label, cell.predicted): cell.pictures for cell in cells}
    rows = tuple(
        tuple(
            Cell(
                label=labels[i],
                predicted=labels[j],
                row=i,
                column=j,
                count=int(matrix[i, j]),
                total=int(totals[i]),
                pictures=pictures.get((labels[i], labels[j]), ()),
            )
            for j in shown
        )
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
