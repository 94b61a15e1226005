"""Saves and loads the training position, so that a killed training can resume.

    <run>/state/<phase>-<epoch>[-<step>].npz   variables of the phase's model and optimizer
    <run>/state/latest.json                    SavedState: the position, and the name of its .npz
    <run>/events/                              TensorBoard events of the epochs up to the position

latest.json is written last, so that a file of variables counts only once it is complete.
"""

import io
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from repot import storage
from repot.errors import NotFoundError, UsageError
from repot.json_record import JsonRecord, read_record, write_record
from repot.layout import EVENTS_FOLDER, STATE_FOLDER, STATE_NAME
from repot.trainer.position import TrainingPosition
from repot.training_record import EpochRecord

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedState(JsonRecord):
    """What latest.json holds.

    Attributes:
        training_id: Training that the state belongs to.
        file_name: File of the variables, in the same folder.
        position: The position at which they were saved.
    """

    training_id: str
    file_name: str
    position: TrainingPosition


class StateStore:
    """The saved state of one training.

    Args:
        run_uri: Folder of the training.
        training_id: Id of the training.
        is_writer: Whether this process writes; of several workers, only the chief does.

    Attributes:
        training_id: Id of the training.
        is_writer: Whether this process writes.
        file_name: File of the variables that were loaded or saved last; "" if there are none.
    """

    def __init__(self, run_uri: str, training_id: str, *, is_writer: bool = True) -> None:
        self.training_id = training_id
        self.is_writer = is_writer
        self.file_name = ""
        self._folder_uri = storage.join(run_uri, STATE_FOLDER)
        self._events_uri = storage.join(run_uri, EVENTS_FOLDER)
        self._num_event_epochs = 0

    def load(self) -> TrainingPosition:
        """Return the saved position, or the start of the training if none was saved.

        Raises:
            UsageError: The state belongs to another training.
            DataError: latest.json is not a valid record.
        """
        try:
            saved = read_record(self._uri(STATE_NAME), SavedState)
        except NotFoundError:
            return TrainingPosition()
        if saved.training_id != self.training_id:
            raise UsageError(
                f"A training folder must hold one training; {self._folder_uri} is the state of "
                f"{saved.training_id}, which has another dataset, another checkpoint or other "
                f"settings than {self.training_id}. Choose another folder."
            )
        if not storage.exists(self._uri(saved.file_name)):
            # If a pod comes back after its replacement has started, the two may delete each
            # other's files.
            _log.warning(
                "%s names %s, which does not exist; the training starts from the beginning",
                STATE_NAME,
                saved.file_name,
            )
            return TrainingPosition()
        position = saved.position
        steps = f" and {position.num_steps} steps" if position.num_steps else ""
        _log.info("resuming after epoch %d%s of phase %s", position.epoch, steps, position.phase)
        self.file_name = saved.file_name
        self._num_event_epochs = len(position.history)
        return position

    def restore(self, model: Any, optimizer: Any) -> None:
        """Assign the loaded variables to the model and the optimizer of the position's phase."""
        data = storage.read_bytes(self._uri(self.file_name))
        with np.load(io.BytesIO(data)) as arrays:
            for name, variable in _named_variables(model, optimizer).items():
                variable.assign(arrays[name])

    def save(self, position: TrainingPosition, model: Any, optimizer: Any) -> None:
        """Save the position with all variables of the model and the optimizer."""
        if not self.is_writer:
            return
        new_epochs = position.history[self._num_event_epochs :]
        if new_epochs:
            _write_events(self._events_uri, new_epochs, first_step=self._num_event_epochs + 1)
            self._num_event_epochs = len(position.history)
        step = f"-{position.num_steps:06d}" if position.num_steps else ""
        outdated = self.file_name
        self.file_name = f"{position.phase}-{position.epoch:05d}{step}.npz"
        self.write_file(self.file_name, _pack(_named_variables(model, optimizer)))
        write_record(
            self._uri(STATE_NAME),
            SavedState(training_id=self.training_id, file_name=self.file_name, position=position),
        )
        if outdated not in ("", self.file_name):
            storage.delete(self._uri(outdated))

    def delete(self) -> None:
        """Delete the state; a finished training does not need it."""
        storage.delete_folder(self._folder_uri)

    def read_file(self, name: str) -> bytes | None:
        """Return a file kept beside the state, or None if it does not exist."""
        try:
            return storage.read_bytes(self._uri(name))
        except NotFoundError:
            return None

    def write_file(self, name: str, data: bytes) -> None:
        """Keep a file beside the state; does nothing unless this process writes."""
        if self.is_writer:
            storage.write_bytes(self._uri(name), data)

    def _uri(self, name: str) -> str:
        return storage.join(self._folder_uri, name)


def _write_events(folder_uri: str, epochs: Sequence[EpochRecord], *, first_step: int) -> None:
    """Write one more TensorBoard event file; the step of an epoch is its number over all phases."""
    with tempfile.TemporaryDirectory(prefix="repot-events-") as scratch:
        with tf.summary.create_file_writer(scratch).as_default():
            for step, epoch in enumerate(epochs, start=first_step):
                for name, value in epoch.to_json().items():
                    if name not in ("phase", "epoch") and value is not None:
                        tf.summary.scalar(name, value, step=step)
            tf.summary.flush()
        storage.upload_folder(Path(scratch), folder_uri)


def _pack(variables: dict[str, keras.Variable]) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in variables.items()}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _named_variables(model: Any, optimizer: Any) -> dict[str, keras.Variable]:
    """Return every variable by kind and index; Keras' own names differ between processes."""
    named = {f"model/{i}": variable for i, variable in enumerate(model.variables)}
    return named | {f"optimizer/{i}": variable for i, variable in enumerate(optimizer.variables)}
