"""What a model said of every picture: one row a picture, in predictions.csv, in the order of the shards.

Every score of an evaluation can be computed again from this table alone, and two tables of the same data set are
compared row by row.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repot import metrics, storage
from repot.errors import DataError

PREDICTIONS_NAME = "predictions.csv"
# A probability that float32 rounded to 0; its logarithm is finite.
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a model said of one picture.

    Attributes:
        filename: The picture's file name as the shard has it.
        label: The picture's true label.
        guess: The label that the model finds most probable.
        probability: The probability of the guess.
        label_probability: The probability of the true label; 0 if and only if the model has no such label.
        label_rank: 1 when the guess is right, 2 when the true label came second, and so on; one more than the number
            of the model's labels when the model has no such label.
    """

    filename: str
    label: str
    guess: str
    probability: float
    label_probability: float
    label_rank: int

    @property
    def correct(self) -> bool:
        """Return whether the guess is the true label."""
        return self.label_rank == 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """A picture that got a wrong label.

    Attributes:
        outcome: What the model said.
        jpeg: The picture.
    """

    outcome: Outcome
    jpeg: bytes


_COLUMNS = tuple(field.name for field in dataclasses.fields(Outcome))


def outcomes_of(
    filenames: Sequence[str],
    true_labels: Sequence[str],
    probabilities: metrics.FloatArray,
    model_labels: Sequence[str],
) -> list[Outcome]:
    """Compare what a model said with the truth, by label name.

    Args:
        filenames: One a picture.
        true_labels: One a picture.
        probabilities: float [num_pictures, num_model_labels].
        model_labels: The names of the columns; a true label that is not among them is never right.
    """
    position = {label: i for i, label in enumerate(model_labels)}
    known = np.array([label in position for label in true_labels], dtype=bool)
    labels = np.array([position.get(label, 0) for label in true_labels], dtype=np.int64)
    ranks = np.where(known, metrics.label_ranks(probabilities, labels), len(model_labels) + 1)
    guesses = probabilities.argmax(axis=1)
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    own = np.where(known, np.maximum(own, _SMALLEST), 0.0)
    return [
        Outcome(
            filename=filename,
            label=true_labels[i],
            guess=model_labels[int(guesses[i])],
            probability=float(probabilities[i, guesses[i]]),
            label_probability=float(own[i]),
            label_rank=int(ranks[i]),
        )
        for i, filename in enumerate(filenames)
    ]


def write_outcomes(uri: str, outcomes: Sequence[Outcome]) -> None:
    """Write the table as CSV."""
    text = io.StringIO()
    # Every text is quoted: a file name may hold a carriage return, which Python 3.11 does not quote by itself.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(_COLUMNS)
    writer.writerows(dataclasses.astuple(outcome) for outcome in outcomes)
    storage.write_text(uri, text.getvalue())


def read_outcomes(uri: str) -> list[Outcome]:
    """Read the table.

    Raises:
        DataError: The file is not a table of outcomes.
    """
    rows = csv.reader(io.StringIO(storage.read_text(uri), newline=""))
    header = tuple(next(rows, ()))
    if header != _COLUMNS:
        raise DataError(
            f"{uri} must have the columns {', '.join(_COLUMNS)}; got {', '.join(header)!r}. Evaluate again."
        )
    return [
        Outcome(
            filename=filename,
            label=label,
            guess=guess,
            probability=float(probability),
            label_probability=float(label_probability),
            label_rank=int(label_rank),
        )
        for filename, label, guess, probability, label_probability, label_rank in rows
    ]
