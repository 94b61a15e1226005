"""The training state on storage: what a killed training goes on from.

<run>/state/<phase>-<epoch>.npz   variables of the phase's model and of its optimizer, by position
<run>/state/latest.json           written after it: which file counts, and the history up to there
"""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from repot import storage
from repot.errors import NotFoundError, UsageError
from repot.trainer.step import Sums

PHASES = ("head", "fine_tune")
_LATEST_NAME = "latest.json"
_SUMS_NAME = "sums"

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """The last saved moment of a training; `phase` is "" before the first save.

    Attributes:
        folder_uri: The folder of the state.
        training_id: The training that it belongs to.
        phase: The phase that was saved last.
        epoch: Epochs of that phase that are done.
        step: Steps that are done of the epoch after them.
        sums: Of each of these steps.
        epoch_seconds: What these steps took.
        file_name: Where its variables are.
        history: The rows of the history up to there.
        seconds_before: Seconds that earlier starts took up to there.
        is_writer: Whether this process saves anything; of several workers one does.
    """

    folder_uri: str
    training_id: str
    phase: str = ""
    epoch: int = 0
    step: int = 0
    sums: list[Sums] = field(default_factory=list)
    epoch_seconds: float = 0.0
    file_name: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds_before: float = 0.0
    is_writer: bool = True

    @classmethod
    def load(cls, run_uri: str, training_id: str, *, is_writer: bool = True) -> Self:
        """Return the state that a run's folder holds, or that of a training that has not begun.

        Raises:
            UsageError: The state is another training's.
        """
        folder_uri = storage.join(run_uri, "state")
        try:
            facts = storage.read_json(storage.join(folder_uri, _LATEST_NAME))
        except NotFoundError:
            return cls(folder_uri=folder_uri, training_id=training_id, is_writer=is_writer)
        if facts["training_id"] != training_id:
            raise UsageError(
                f"A training folder must hold one training; {folder_uri} is the state of {facts['training_id']}, with "
                f"other data, another checkpoint or other settings than {training_id}. Choose another folder."
            )
        if not storage.exists(storage.join(folder_uri, facts["file_name"])):
            # Two pods of one training, one given up for lost, may have deleted each other's files.
            _log.warning(
                "%s names %s, which is gone; training begins anew", _LATEST_NAME, facts["file_name"]
            )
            return cls(folder_uri=folder_uri, training_id=training_id, is_writer=is_writer)
        at = f" and {facts['step']} steps" if facts["step"] else ""
        _log.info("going on after epoch %d%s of phase %s", facts["epoch"], at, facts["phase"])
        return cls(folder_uri=folder_uri, is_writer=is_writer, **facts)

    def is_past(self, phase: str) -> bool:
        """Return whether a later phase than `phase` was saved."""
        return self.phase != "" and PHASES.index(self.phase) > PHASES.index(phase)

    def epochs_done(self, phase: str) -> int:
        """Return how many epochs of a phase that is not past are done."""
        return self.epoch if self.phase == phase else 0

    def steps_done(self, phase: str, epoch: int) -> tuple[list[Sums], float]:
        """Return the Sums of the steps of an epoch in [0, epochs) that are done, and their seconds; after `restore`."""
        if (self.phase, self.epoch) != (phase, epoch):
            return [], 0.0
        return list(self.sums), self.epoch_seconds

    def restore(self, phase: str, model: Any, optimizer: Any) -> None:
        """Put the saved variables into the model and the optimizer, if it is this phase that was saved."""
        if self.phase != phase:
            return
        with np.load(
            io.BytesIO(storage.read_bytes(storage.join(self.folder_uri, self.file_name)))
        ) as arrays:
            for name, variable in _named_variables(model, optimizer).items():
                variable.assign(arrays[name])
            self.sums = [Sums(*row) for row in arrays[_SUMS_NAME].tolist()]

    def save(
        self,
        *,
        phase: str,
        epoch: int,
        sums: Sequence[Sums] = (),
        epoch_seconds: float = 0.0,
        model: Any,
        optimizer: Any,
        history: list[dict[str, Any]],
        seconds: float,
    ) -> None:
        """Save a moment: the variables first, then latest.json; then the file that counted before is deleted.

        Args:
            phase: Of the moment.
            epoch: Epochs of the phase that are done.
            sums: Of each step that is done of the epoch after them.
            epoch_seconds: What these steps took.
            model, optimizer: All of their variables are saved.
            history: The rows up to there.
            seconds: What the whole training took up to there.
        """
        outdated = self.file_name
        self.phase, self.epoch, self.step = phase, epoch, len(sums)
        self.sums, self.epoch_seconds = list(sums), epoch_seconds
        self.file_name = f"{phase}-{epoch:05d}{f'-{self.step:06d}' if self.step else ''}.npz"
        self.history, self.seconds_before = list(history), seconds
        if not self.is_writer:
            return
        self.write_file(self.file_name, _packed(_named_variables(model, optimizer), self.sums))
        facts = {
            "training_id": self.training_id,
            "phase": self.phase,
            "epoch": self.epoch,
            "step": self.step,
            "epoch_seconds": self.epoch_seconds,
            "file_name": self.file_name,
            "history": self.history,
            "seconds_before": self.seconds_before,
        }
        storage.write_json(storage.join(self.folder_uri, _LATEST_NAME), facts)
        if outdated not in ("", self.file_name):
            storage.delete(storage.join(self.folder_uri, outdated))

    def delete(self) -> None:
        """Delete what a finished training no longer needs."""
        storage.delete_folder(self.folder_uri)

    def read_file(self, name: str) -> bytes | None:
        """Return a file that was kept beside the state, or None."""
        try:
            return storage.read_bytes(storage.join(self.folder_uri, name))
        except NotFoundError:
            return None

    def write_file(self, name: str, data: bytes) -> None:
        """Keep a file beside the state, if this process saves anything."""
        if self.is_writer:
            storage.write_bytes(storage.join(self.folder_uri, name), data)


def _packed(variables: dict[str, Any], sums: Sequence[Sums]) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(variable) for name, variable in variables.items()}
    # sums: float64 [steps, 3]
    arrays[_SUMS_NAME] = np.array(sums, np.float64).reshape(-1, len(Sums._fields))
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _named_variables(model: Any, optimizer: Any) -> dict[str, Any]:
    """Return every variable by kind and position; names are Keras' and change from process to process."""
    named = {f"model/{i}": variable for i, variable in enumerate(model.variables)}
    return named | {f"optimizer/{i}": variable for i, variable in enumerate(optimizer.variables)}
