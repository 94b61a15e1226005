"""Train once: start or resume a training, or return the record of a finished one."""

import logging
from collections.abc import Callable

from repot import quiet_tensorflow
from repot.errors import RepotError
from repot.trainer.request import TrainingRequest, find_finished
from repot.training_record import TrainingRecord

_log = logging.getLogger(__name__)


def train(
    request: TrainingRequest, *, should_stop: Callable[[], bool] = lambda: False
) -> TrainingRecord:
    """Train a classifier and write model/, history.csv and events/, then training.json.

    The model holds the weights after the last epoch. Choosing the epoch with the best validation
    score would make the reported score too high, because it is computed on the same pictures.

    A process killed by SIGTERM or SIGKILL resumes from its last saved position at the next start.
    On the same machine without a GPU, the resulting weights are bit-identical to those of an
    uninterrupted training. If another run finishes the same training first, its record is returned.

    Args:
        request: What to train.
        should_stop: Called before every call of the compiled steps: each step on a CPU, several on
            a GPU. If it returns True on any worker, all workers stop after that call and the state
            is saved.

    Returns:
        The record in training.json.

    Raises:
        UsageError: The run folder holds another training.
        DataError: The dataset is missing or has no training picture.
        CorruptShardError: The bytes of a shard differ from its receipt.
        CheckpointError: The weights do not fit the backbone.
        TrainingError: The loss is not finite.
        StoppedError: `should_stop` returned True.
    """
    finished = find_finished(request)
    if finished is not None:
        _log.info("training %s is already finished", request.training_id)
        return finished
    quiet_tensorflow.import_tensorflow()
    from repot.trainer.run_training import run_training  # TensorFlow takes seconds to import

    try:
        return run_training(request, should_stop=should_stop)
    except RepotError as err:
        # A run that starts with the same inputs at the same time trains in the same folder, and
        # deletes the state when it has finished.
        finished = find_finished(request)
        if finished is None:
            raise
        _log.warning(
            "another run has finished training %s; here, it failed: %s", request.training_id, err
        )
        return finished
