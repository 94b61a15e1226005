"""Train once: a finished training is only looked up, an interrupted one goes on where its state was saved."""

import logging
from typing import Any

from repot import quiet_tensorflow, storage
from repot.errors import UsageError
from repot.settings import TrainingSettings

TRAINING_NAME = "training.json"

_log = logging.getLogger(__name__)


def train(
    dataset_uri: str,
    weights_uri: str,
    run_uri: str,
    *,
    training_id: str,
    checkpoint_id: str,
    settings: TrainingSettings,
) -> dict[str, Any]:
    """Train a classifier and write model/, history.csv and events/, and training.json last.

    The weights after the last epoch are kept: choosing an epoch by its validation score would flatter the score that
    is reported on the same pictures.

    Args:
        dataset_uri: The data set.
        weights_uri: Folder of the converted checkpoint.
        run_uri: Folder of this training; state/ in it is what a second start goes on from.
        training_id: See `repot.trainer.identity`.
        checkpoint_id: Id of the checkpoint, for the record.
        settings: How to train.

    Returns:
        What training.json holds.

    Raises:
        UsageError: The folder holds another training.
        DataError: There is no data set, or no picture to train on.
        CorruptShardError: A shard's bytes are not those of its receipt.
        CheckpointError: The weights do not fit the backbone.
        TrainingError: The loss is not finite.
    """
    done = _finished(storage.join(run_uri, TRAINING_NAME), training_id)
    if done is not None:
        _log.info("training %s was finished before", training_id)
        return done
    quiet_tensorflow.import_tensorflow()
    from repot.trainer.session import run_training  # TensorFlow takes seconds to import

    facts = run_training(dataset_uri, weights_uri, run_uri, training_id=training_id, settings=settings)
    facts = {**facts, "training_id": training_id, "checkpoint_id": checkpoint_id}
    storage.write_json(storage.join(run_uri, TRAINING_NAME), facts)
    return facts


def _finished(uri: str, training_id: str) -> dict[str, Any] | None:
    if not storage.exists(uri):
        return None
    facts: dict[str, Any] = storage.read_json(uri)
    if facts["training_id"] != training_id:
        raise UsageError(
            f"A training folder must hold one training; {uri} is of {facts['training_id']}, with other data, another "
            f"checkpoint or other settings than {training_id}. Choose another folder."
        )
    return facts
