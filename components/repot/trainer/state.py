"""The training state on storage: what a killed training goes on from.

<run>/state/<phase>-<epoch>.npz   variables of the phase's model and of its optimizer, by position
<run>/state/latest.json           written after it: which file counts, and the history up to there
"""

import io
import logging
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from repot import storage
from repot.errors import NotFoundError, UsageError

PHASES = ("head", "fine_tune")
_LATEST_NAME = "latest.json"

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """The last saved moment of a training; `phase` is "" before the first save.

    Attributes:
        folder_uri: The folder of the state.
        training_id: The training that it belongs to.
        phase: The phase that was saved last.
        epoch: Epochs of that phase that are done.
        file_name: Where its variables are.
        history: The rows of the history up to there.
        seconds_before: Seconds that earlier starts took up to there.
    """

    folder_uri: str
    training_id: str
    phase: str = ""
    epoch: int = 0
    file_name: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds_before: float = 0.0

    @classmethod
    def load(cls, run_uri: str, training_id: str) -> Self:
        """Return the state that a run's folder holds, or that of a training that has not begun.

        Raises:
            UsageError: The state is another training's.
        """
        folder_uri = storage.join(run_uri, "state")
        try:
            facts = storage.read_json(storage.join(folder_uri, _LATEST_NAME))
        except NotFoundError:
            return cls(folder_uri=folder_uri, training_id=training_id)
        if facts["training_id"] != training_id:
            raise UsageError(
                f"A training folder must hold one training; {folder_uri} is the state of {facts['training_id']}, with "
                f"other data, another checkpoint or other settings than {training_id}. Choose another folder."
            )
        _log.info("going on after epoch %d of phase %s", facts["epoch"], facts["phase"])
        return cls(folder_uri=folder_uri, **facts)

    def is_past(self, phase: str) -> bool:
        """Return whether a later phase than `phase` was saved."""
        return self.phase != "" and PHASES.index(self.phase) > PHASES.index(phase)

    def epochs_done(self, phase: str) -> int:
        """Return how many epochs of a phase that is not past are done."""
        return self.epoch if self.phase == phase else 0

    def restore(self, phase: str, model: Any, optimizer: Any) -> None:
        """Put the saved variables into the model and the optimizer, if it is this phase that was saved."""
        if self.phase != phase:
            return
        with np.load(io.BytesIO(storage.read_bytes(storage.join(self.folder_uri, self.file_name)))) as arrays:
            for name, variable in _named_variables(model, optimizer).items():
                variable.assign(arrays[name])

    def save(
        self, *, phase: str, epoch: int, model: Any, optimizer: Any, history: list[dict[str, Any]], seconds: float
    ) -> None:
        """Save a moment: the variables first, then latest.json; then the file that counted before is deleted."""
        outdated = self.file_name
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in _named_variables(model, optimizer).items()}
        np.savez(buffer, **arrays)
        self.phase, self.epoch, self.file_name = phase, epoch, f"{phase}-{epoch:05d}.npz"
        self.history, self.seconds_before = list(history), seconds
        self.write_file(self.file_name, buffer.getvalue())
        facts = {
            "training_id": self.training_id,
            "phase": self.phase,
            "epoch": self.epoch,
            "file_name": self.file_name,
            "history": self.history,
            "seconds_before": self.seconds_before,
        }
        storage.write_json(storage.join(self.folder_uri, _LATEST_NAME), facts)
        if outdated not in ("", self.file_name):
            storage.delete(storage.join(self.folder_uri, outdated))

    def read_file(self, name: str) -> bytes | None:
        """Return a file that was kept beside the state, or None."""
        try:
            return storage.read_bytes(storage.join(self.folder_uri, name))
        except NotFoundError:
            return None

    def write_file(self, name: str, data: bytes) -> None:
        """Keep a file beside the state."""
        storage.write_bytes(storage.join(self.folder_uri, name), data)


def _named_variables(model: Any, optimizer: Any) -> dict[str, Any]:
    """Return every variable by kind and position; names are Keras' and change from process to process."""
    named = {f"model/{i}": variable for i, variable in enumerate(model.variables)}
    return named | {f"optimizer/{i}": variable for i, variable in enumerate(optimizer.variables)}
