"""Train once: a finished training is only looked up, an interrupted one goes on where its state was saved."""

import logging
from collections.abc import Callable
from typing import Any

import repot
from repot import layout, quiet_tensorflow, storage
from repot.errors import UsageError
from repot.settings import TrainingSettings

TRAINING_NAME = layout.TRAINING_NAME

_log = logging.getLogger(__name__)


def train(
    dataset_uri: str,
    weights_uri: str,
    run_uri: str,
    *,
    training_id: str,
    checkpoint_id: str,
    settings: TrainingSettings,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train a classifier and write model/, history.csv and events/, and training.json last.

    The weights after the last epoch are kept: choosing an epoch by its validation score would flatter the score that
    is reported on the same pictures. A process that is killed, by SIGTERM or SIGKILL, goes on after its last saved
    epoch at the next start; on the same machine without a GPU the result is the same, bit by bit.

    Args:
        dataset_uri: The data set.
        weights_uri: Folder of the converted checkpoint.
        run_uri: Folder of this training; state/ in it is what a second start goes on from.
        training_id: See `repot.trainer.train`.
        checkpoint_id: Id of the checkpoint, for the record.
        settings: How to train.
        should_stop: Asked before every step; once it says True to any worker, all save the state and stop.

    Returns:
        What training.json holds.

    Raises:
        UsageError: The folder holds another training.
        DataError: There is no data set, or no picture to train on.
        CorruptShardError: A shard's bytes are not those of its receipt.
        CheckpointError: The weights do not fit the backbone.
        TrainingError: The loss is not finite.
        StoppedError: It was asked to stop.
    """
    done = find_finished(run_uri, training_id)
    if done is not None:
        _log.info("training %s was finished before", training_id)
        return done
    quiet_tensorflow.import_tensorflow()
    from repot.trainer.training import run_training  # TensorFlow takes seconds to import

    return run_training(
        dataset_uri,
        weights_uri,
        run_uri,
        training_id=training_id,
        checkpoint_id=checkpoint_id,
        settings=settings,
        should_stop=should_stop,
    )


def find_finished(run_uri: str, training_id: str) -> dict[str, Any] | None:
    """Return what training.json holds, or None while the training is not finished.

    Raises:
        UsageError: The folder holds another training.
    """
    uri = storage.join(run_uri, TRAINING_NAME)
    if not storage.exists(uri):
        return None
    facts: dict[str, Any] = storage.read_json(uri)
    if facts["training_id"] != training_id:
        raise UsageError(
            f"A training folder must hold one training; {uri} is of {facts['training_id']}, with other data, another "
            f"checkpoint or other settings than {training_id}. Choose another folder."
        )
    return facts


def training_id(
    dataset_id: str, checkpoint_id: str, settings: TrainingSettings, rebuild: str = ""
) -> str:
    """Return the id of a training: of its data, its checkpoint, its settings and the code's version.

    Args:
        dataset_id: Id of the data set.
        checkpoint_id: Id of the converted checkpoint.
        settings: How to train.
        rebuild: Any text; another text is another training.
    """
    return layout.content_id(
        {
            "dataset": dataset_id,
            "checkpoint": checkpoint_id,
            "settings": settings.to_json(),
            "version": repot.__version__,
            "rebuild": rebuild,
        }
    )
