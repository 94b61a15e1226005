"""An evaluation's scalars for TensorBoard, under their names of 2016."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from repot import storage

EVENTS_FOLDER = "events"


def write_events(output_uri: str, metrics: Mapping[str, Any], *, step: int) -> None:
    """Write "Precision @ 1" and "Recall @ 5" to events/, in place of what an earlier evaluation left there.

    Args:
        output_uri: Folder of the evaluation.
        metrics: What metrics.json holds.
        step: Epochs that the model was trained for; 0 when that is not known.
    """
    uri = storage.join(output_uri, EVENTS_FOLDER)
    with tempfile.TemporaryDirectory(prefix="repot-events-") as scratch:
        with tf.summary.create_file_writer(scratch).as_default():
            tf.summary.scalar("Precision @ 1", metrics["precision_at_1"], step=step)
            tf.summary.scalar("Recall @ 5", metrics["recall_at_5"], step=step)
            tf.summary.flush()
        storage.delete_folder(uri)
        storage.upload_folder(Path(scratch), uri)
