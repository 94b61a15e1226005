"""predictions.csv: the predicted and the true label of every picture of a split, in shard order.

Every score of an evaluation can be recomputed from this table, and two models are compared row by
row.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repot import metrics, storage
from repot.csv_text import csv_text, read_csv
from repot.errors import DataError

SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)
"""Replaces a probability that float32 rounded to 0, so that its logarithm is finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The prediction for one picture, compared with its true label.

    Attributes:
        filename: File name of the picture, as stored in the shard.
        digest: Content of the picture, 32 hex digits, see `repot.example_digests`.
        label: The true label.
        predicted: The most probable label.
        probability: Probability of the predicted label.
        label_probability: Probability of the true label; 0 if and only if the model does not have
            that label.
        label_rank: Rank of the true label: 1 for a correct prediction, 2 if it is the second most
            probable, and so on; one more than the number of the model's labels if the model does
            not have that label.
    """

    filename: str
    digest: str
    label: str
    predicted: str
    probability: float
    label_probability: float
    label_rank: int

    @property
    def correct(self) -> bool:
        """Return whether the predicted label is the true label."""
        return self.label_rank == 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredPicture:
    """A picture and its prediction.

    Attributes:
        outcome: The prediction.
        jpeg: The picture.
    """

    outcome: Outcome
    jpeg: bytes


_COLUMNS = tuple(field.name for field in dataclasses.fields(Outcome))


def make_outcomes(
    filenames: Sequence[str],
    digests: Sequence[str],
    true_labels: Sequence[str],
    probabilities: metrics.FloatArray,
    model_labels: Sequence[str],
) -> list[Outcome]:
    """Compare predictions with the true labels, by label name.

    Args:
        filenames: One per picture.
        digests: One per picture.
        true_labels: One per picture.
        probabilities: float [num_pictures, num_model_labels].
        model_labels: Names of the columns; a true label that is not among them is a mistake.
    """
    position = {label: i for i, label in enumerate(model_labels)}
    is_known = np.array([label in position for label in true_labels], dtype=bool)
    labels = np.array([position.get(label, 0) for label in true_labels], dtype=np.int64)
    ranks = np.where(is_known, metrics.label_ranks(probabilities, labels), len(model_labels) + 1)
    predicted = probabilities.argmax(axis=1)
    # label_probabilities: float [num_pictures]
    label_probabilities = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    label_probabilities = np.where(
        is_known, np.maximum(label_probabilities, SMALLEST_PROBABILITY), 0.0
    )
    return [
        Outcome(
            filename=filename,
            digest=digests[i],
            label=true_labels[i],
            predicted=model_labels[int(predicted[i])],
            probability=float(probabilities[i, predicted[i]]),
            label_probability=float(label_probabilities[i]),
            label_rank=int(ranks[i]),
        )
        for i, filename in enumerate(filenames)
    ]


def write_outcomes(uri: str, outcomes: Sequence[Outcome]) -> None:
    """Write the outcomes as CSV, see `repot.csv_text`."""
    storage.write_text(uri, csv_text([_COLUMNS, *map(dataclasses.astuple, outcomes)]))


def read_outcomes(uri: str) -> list[Outcome]:
    """Read the outcomes from CSV.

    Raises:
        DataError: The file has other columns.
    """
    rows = read_csv(storage.read_text(uri))
    header = tuple(next(rows, ()))
    if header != _COLUMNS:
        raise DataError(
            f"{uri} must have the columns {', '.join(_COLUMNS)}; got {', '.join(header)!r}. "
            "Delete the folder that contains it and run again."
        )
    return [
        Outcome(
            filename=filename,
            digest=digest,
            label=label,
            predicted=predicted,
            probability=float(probability),
            label_probability=float(label_probability),
            label_rank=int(label_rank),
        )
        for filename, digest, label, predicted, probability, label_probability, label_rank in rows
    ]
