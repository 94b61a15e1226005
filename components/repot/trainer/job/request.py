"""What the task asks the Job's pods to do: a JSON file in the run's folder, read by every pod."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from repot import storage
from repot.settings import TrainingSettings

_FOLDER = "job"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest:
    """One training; the fields are the arguments of `repot.trainer.train.train`."""

    dataset_uri: str
    weights_uri: str
    run_uri: str
    training_id: str
    checkpoint_id: str
    settings: TrainingSettings

    @property
    def uri(self) -> str:
        """Return where it is stored."""
        return storage.join(self.run_uri, _FOLDER, "request.json")

    @property
    def heartbeat_uri(self) -> str:
        """Return what the task rewrites for as long as it waits."""
        return storage.join(self.run_uri, _FOLDER, "heartbeat.json")

    def write(self) -> None:
        """Store it."""
        facts: dict[str, Any] = {
            each.name: getattr(self, each.name) for each in dataclasses.fields(self)
        }
        storage.write_json(self.uri, {**facts, "settings": self.settings.to_json()})

    @classmethod
    def read(cls, uri: str) -> Self:
        """Return what was stored.

        Raises:
            NotFoundError: There is none.
        """
        facts = storage.read_json(uri)
        return cls(**{**facts, "settings": TrainingSettings.from_json(facts["settings"])})
