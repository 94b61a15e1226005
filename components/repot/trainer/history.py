"""What every epoch came to: rows for the report, history.csv and TensorBoard events."""

import csv
import io
import statistics
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from repot import storage
from repot.layout import HISTORY_NAME

COLUMNS = (
    "phase",
    "epoch",
    "learning_rate",
    "train_loss",
    "train_precision_at_1",
    "validation_loss",
    "validation_precision_at_1",
    "seconds",
)

_SCALARS = COLUMNS[2:]


class History:
    """The rows of a training, and how many of them TensorBoard has seen.

    Args:
        run_uri: Folder of the training.
        rows: The rows of earlier starts; their events are written.
    """

    def __init__(self, run_uri: str, rows: list[dict[str, Any]]) -> None:
        self.rows = list(rows)
        self._run_uri = run_uri
        self._num_written = len(rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add the row of one epoch."""
        self.rows.append({column: row[column] for column in COLUMNS})

    def examples_per_second(self, num_examples: int) -> float:
        """Return the median speed of training over the epochs of the last phase.

        Args:
            num_examples: Training examples an epoch.
        """
        seconds: list[float] = [
            row["seconds"] for row in self.rows if row["phase"] == self.rows[-1]["phase"]
        ]
        return num_examples / statistics.median(seconds)

    def write_csv(self) -> None:
        """Write history.csv: one line an epoch, an empty field where there is no number."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        storage.write_text(storage.join(self._run_uri, HISTORY_NAME), text.getvalue())

    def write_events(self) -> None:
        """Write the rows since the last call as one more TensorBoard event file; the step is the number of the row."""
        if self._num_written == len(self.rows):
            return
        with tempfile.TemporaryDirectory(prefix="repot-events-") as scratch:
            with tf.summary.create_file_writer(scratch).as_default():
                for step, row in enumerate(
                    self.rows[self._num_written :], start=self._num_written + 1
                ):
                    for name in _SCALARS:
                        if row[name] is not None:
                            tf.summary.scalar(name, row[name], step=step)
                tf.summary.flush()
            storage.upload_folder(Path(scratch), storage.join(self._run_uri, "events"))
        self._num_written = len(self.rows)
