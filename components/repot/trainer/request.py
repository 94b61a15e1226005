"""The training request: everything that defines one training, as one object.

`repot.trainer.train.train` takes it; in job mode it travels to the Job's pods as a JSON file.
"""

from dataclasses import dataclass
from typing import Self

from repot import layout, storage
from repot.errors import UsageError
from repot.json_record import JsonRecord, read_record
from repot.settings import TrainingSettings
from repot.training_record import TrainingRecord, training_id


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRequest(JsonRecord):
    """One training: its inputs, its settings and the folder for its results.

    Attributes:
        dataset_uri: Folder of the dataset.
        weights_uri: Folder of the converted checkpoint.
        run_uri: Folder of the training. It holds the results, and until the training is finished
            the state that the next start resumes from.
        training_id: Id of the training, see `repot.training_record.training_id`.
        checkpoint_id: Id of the converted checkpoint, for the training record.
        settings: Training settings.
        features_uri: Folder of the features of frozen backbones, which trainings may share; "" for
            one in the folder of the training.
        predictions_uri: Folder of all stored predictions, see `repot.prediction_store`; "" for
            none.
    """

    dataset_uri: str
    weights_uri: str
    run_uri: str
    training_id: str
    checkpoint_id: str
    settings: TrainingSettings
    features_uri: str = ""
    predictions_uri: str = ""

    @classmethod
    def from_ids(
        cls,
        storage_uri: str,
        *,
        dataset_id: str,
        checkpoint_id: str,
        settings: TrainingSettings,
        rebuild: str = "",
    ) -> Self:
        """Build the request for a dataset and a checkpoint in the storage of a pipeline.

        Args:
            storage_uri: Root of the pipeline's storage.
            dataset_id: Id of the dataset.
            checkpoint_id: Id of the converted checkpoint.
            settings: Training settings.
            rebuild: See `repot.training_record.training_id`.
        """
        run_id = training_id(dataset_id, checkpoint_id, settings, rebuild)
        return cls(
            dataset_uri=layout.dataset_uri(storage_uri, dataset_id),
            weights_uri=layout.checkpoint_uri(storage_uri, checkpoint_id),
            run_uri=layout.run_uri(storage_uri, run_id),
            training_id=run_id,
            checkpoint_id=checkpoint_id,
            settings=settings,
            features_uri=layout.features_uri(storage_uri),
            predictions_uri=layout.predictions_uri(storage_uri),
        )

    @property
    def uri(self) -> str:
        """The file through which the Job's pods receive the request."""
        return storage.join(self.run_uri, layout.JOB_FOLDER, layout.REQUEST_NAME)

    @property
    def heartbeat_uri(self) -> str:
        """The file that the pipeline task rewrites for as long as it waits for its Job."""
        return storage.join(self.run_uri, layout.JOB_FOLDER, layout.HEARTBEAT_NAME)


def find_finished(request: TrainingRequest) -> TrainingRecord | None:
    """Return the record of a finished training, or None while it is not finished.

    Raises:
        UsageError: The run folder holds another training.
        DataError: training.json is not a valid record.
    """
    uri = storage.join(request.run_uri, layout.TRAINING_NAME)
    if not storage.exists(uri):
        return None
    record = read_record(uri, TrainingRecord)
    if record.training_id != request.training_id:
        raise UsageError(
            f"A training folder must hold one training; {uri} belongs to {record.training_id}, "
            "which has another dataset, another checkpoint or other settings than "
            f"{request.training_id}. Choose another folder."
        )
    return record
