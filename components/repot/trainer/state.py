"""Saves and loads the training position, so that a killed training can resume.

    <run>/state/<phase>-<epoch>[-<step>].npz   variables of the phase, see `repot.trainer.loop`
    <run>/state/<phase>-best-<epoch>.npz       the model's variables at the phase's best epoch
    <run>/state/latest.json                    SavedState: the position, and the name of its files
    <run>/events/                              TensorBoard events of the epochs up to the position

latest.json is written last, so that a file of variables counts only once it is complete.
"""

import io
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from repot import storage
from repot.errors import NotFoundError, StorageError, UsageError
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
        best_file_name: File of the current phase's best state; "" without one.
    """

    training_id: str
    file_name: str
    position: TrainingPosition
    best_file_name: str = ""


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
        best_file_name: The same for the current phase's best state.
    """

    def __init__(self, run_uri: str, training_id: str, *, is_writer: bool = True) -> None:
        self.training_id = training_id
        self.is_writer = is_writer
        self.file_name = ""
        self.best_file_name = ""
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
        file_names = [name for name in (saved.file_name, saved.best_file_name) if name]
        missing = [name for name in file_names if not storage.exists(self._uri(name))]
        if missing:
            # If a pod comes back after its replacement has started, the two may delete each
            # other's files.
            _log.warning(
                "%s names %s, which does not exist; the training starts from the beginning",
                STATE_NAME,
                missing[0],
            )
            return TrainingPosition()
        position = saved.position
        steps = f" and {position.num_steps} steps" if position.num_steps else ""
        _log.info("resuming after epoch %d%s of phase %s", position.epoch, steps, position.phase)
        self.file_name, self.best_file_name = saved.file_name, saved.best_file_name
        self._num_event_epochs = len(position.history)
        return position

    def restore(self, variables: Mapping[str, keras.Variable]) -> None:
        """Assign the loaded values to the variables of the position's phase, by name."""
        _assign(variables, storage.read_bytes(self._uri(self.file_name)))

    def read_best(self) -> dict[str, Any]:
        """Return the values of the current phase's best state by name."""
        return _unpack(storage.read_bytes(self._uri(self.best_file_name)))

    def save(
        self,
        position: TrainingPosition,
        variables: Mapping[str, keras.Variable],
        best: Mapping[str, Any] | None = None,
    ) -> None:
        """Save the position with all variables of its phase, and with its best state.

        Args:
            position: The position.
            variables: All variables of the phase by name.
            best: Values at the position's best epoch by name; empty without one.
        """
        if not self.is_writer:
            return
        new_epochs = position.history[self._num_event_epochs :]
        if new_epochs:
            _write_events(self._events_uri, new_epochs, first_step=self._num_event_epochs + 1)
            self._num_event_epochs = len(position.history)
        step = f"-{position.num_steps:06d}" if position.num_steps else ""
        outdated = {self.file_name, self.best_file_name, ""}
        self.file_name = f"{position.phase}-{position.epoch:05d}{step}.npz"
        self.write_file(self.file_name, _pack(values(variables)))
        best_file_name = f"{position.phase}-best-{position.best_epoch:05d}.npz" if best else ""
        if best and best_file_name != self.best_file_name:
            self.write_file(best_file_name, _pack(best))
        self.best_file_name = best_file_name
        write_record(
            self._uri(STATE_NAME),
            SavedState(
                training_id=self.training_id,
                file_name=self.file_name,
                position=position,
                best_file_name=best_file_name,
            ),
        )
        for name in outdated - {self.file_name, self.best_file_name, ""}:
            storage.delete(self._uri(name))

    def delete_old_features(self) -> None:
        """Delete the features that earlier versions kept beside the state of each training."""
        for info in storage.list_objects(self._folder_uri) if self.is_writer else ():
            if storage.relative_name(info.uri, self._folder_uri).startswith("features-"):
                storage.delete(info.uri)

    def delete(self) -> None:
        """Delete the state; a finished training does not need it."""
        storage.delete_folder(self._folder_uri)

    def read_file(self, name: str) -> bytes | None:
        """Return a file kept beside the state, or None if it does not exist."""
        try:
            return storage.read_bytes(self._uri(name))
        except NotFoundError:
            return None

    def require_file(self, name: str) -> bytes:
        """Return a file kept beside the state.

        Raises:
            StorageError: It disappeared.
        """
        data = self.read_file(name)
        if data is None:
            raise StorageError(
                f"{self._uri(name)} must stay while the training runs; it is gone. Start the "
                "training again."
            )
        return data

    def write_file(self, name: str, data: bytes) -> None:
        """Keep a file beside the state; does nothing unless this process writes."""
        if self.is_writer:
            storage.write_bytes(self._uri(name), data)

    def delete_file(self, name: str) -> None:
        """Delete a file kept beside the state, if it exists."""
        if self.is_writer:
            storage.delete(self._uri(name))

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


def numbered(variables: Sequence[keras.Variable], prefix: str = "") -> dict[str, keras.Variable]:
    """Return variables by prefix and index; Keras' own names differ between processes."""
    return {f"{prefix}{i}": variable for i, variable in enumerate(variables)}


def values(variables: Mapping[str, keras.Variable]) -> dict[str, Any]:
    """Return copies of the values of variables, by the same names."""
    return {name: np.array(np.asarray(variable)) for name, variable in variables.items()}


def _pack(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpack(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data)) as arrays:
        return dict(arrays)


def _assign(variables: Mapping[str, keras.Variable], data: bytes) -> None:
    arrays = _unpack(data)
    for name, variable in variables.items():
        variable.assign(arrays[name])
