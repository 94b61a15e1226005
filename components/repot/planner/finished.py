"""Find a run's dataset, checkpoint and finished training in the storage, so that it can skip them.

This does not depend on KFP's cache: a run whose training is finished starts no trainer pod, even if
the cache is empty or the images have other digests.
"""

import logging
from dataclasses import dataclass

from repot import layout, storage
from repot.checkpoint_record import find_checkpoint, find_sha256
from repot.data_checks import DataLimits, is_accepted, read_checks
from repot.errors import NotFoundError
from repot.json_record import read_record
from repot.layout import CHECKPOINT_NAME, MANIFEST_NAME, TRAINING_NAME
from repot.manifest import Manifest
from repot.planner.plan import PlannedWork, plan_work
from repot.planner.preflight import Parameters
from repot.pruning.uses import Use, note_use
from repot.training_record import training_id

ALL_STEPS, GATE_ONLY = "all", "gate"
"""What a run does after Plan: everything, or only evaluate and judge a finished training."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedWork:
    """What the storage has of a run.

    Attributes:
        checkpoint_id: The converted checkpoint; "" if it has to be fetched.
        training_id: The finished training; "" if there is none, or if the dataset has more rejected
            pictures than the run allows, which a builder then reports.
    """

    checkpoint_id: str
    training_id: str

    @property
    def steps(self) -> str:
        """Return ALL_STEPS or GATE_ONLY."""
        return GATE_ONLY if self.training_id else ALL_STEPS


def plan_run(
    parameters: Parameters, *, checkpoint_version: str | None, run_id: str = ""
) -> tuple[PlannedWork, FinishedWork]:
    """Plan a run's dataset, find what is finished, and note that the run uses it.

    If `repot prune` deletes something between the moments when it was found and when its use was
    noted, that is noticed, and everything is planned again.

    Args:
        parameters: The checked parameters of the run.
        checkpoint_version: Current version of the checkpoint's files; None if unknown.
        run_id: The run, see `plan_work`.

    Raises:
        RepotError: As `plan_work` and `find_finished_work`.
    """
    storage_uri = parameters.run.storage_uri
    while True:
        work = plan_work(parameters, run_id=run_id)
        finished = find_finished_work(
            parameters, dataset_id=work.dataset_id, checkpoint_version=checkpoint_version
        )
        use = Use(
            dataset_id=work.dataset_id,
            checkpoint_id=finished.checkpoint_id,
            training_id=finished.training_id,
        )
        note_use(storage_uri, use)
        found = [
            (work.is_built, layout.dataset_uri(storage_uri, use.dataset_id), MANIFEST_NAME),
            (
                bool(use.checkpoint_id),
                layout.checkpoint_uri(storage_uri, use.checkpoint_id),
                CHECKPOINT_NAME,
            ),
            (bool(use.training_id), layout.run_uri(storage_uri, use.training_id), TRAINING_NAME),
        ]
        if all(
            storage.exists(storage.join(uri, name)) for is_found, uri, name in found if is_found
        ):
            return work, finished
        _log.warning("something that the run uses was deleted while it was planned: once more")


def find_finished_work(
    parameters: Parameters, *, dataset_id: str, checkpoint_version: str | None
) -> FinishedWork:
    """Return what the storage has for a run's pictures, checkpoint, settings and code version.

    Args:
        parameters: The checked parameters of the run.
        dataset_id: The planned dataset.
        checkpoint_version: Current version of the checkpoint's files; None if unknown.

    Raises:
        StorageError: Reading failed.
        DataError: The manifest of the dataset is invalid.
        CheckpointError: The record of a stored checkpoint is invalid.
    """
    storage_uri, settings = parameters.run.storage_uri, parameters.training
    source, checkpoints_uri = parameters.checkpoint, layout.checkpoints_uri(storage_uri)
    sha256 = source.sha256 or find_sha256(
        checkpoints_uri, source_uri=source.uri, version=checkpoint_version
    )
    if not sha256:
        return FinishedWork(checkpoint_id="", training_id="")
    values = parameters.checkpoint_settings.checkpoint_values
    checkpoint_id = find_checkpoint(
        checkpoints_uri, sha256=sha256, backbone=settings.backbone, values=values
    )
    found_id = training_id(dataset_id, checkpoint_id, settings, parameters.run.rebuild)
    record_uri = storage.join(layout.run_uri(storage_uri, found_id), TRAINING_NAME)
    is_finished = (
        bool(checkpoint_id) and storage.exists(record_uri) and _is_accepted(dataset_id, parameters)
    )
    if is_finished:
        _log.info("training %s is finished: nothing is built, fetched or trained", found_id)
    return FinishedWork(checkpoint_id=checkpoint_id, training_id=found_id if is_finished else "")


def _is_accepted(dataset_id: str, parameters: Parameters) -> bool:
    """Return whether the dataset exists, within the limits of the run."""
    uri = layout.dataset_uri(parameters.run.storage_uri, dataset_id)
    try:
        manifest = read_record(storage.join(uri, MANIFEST_NAME), Manifest)
    except NotFoundError:
        return False
    limits = DataLimits.from_settings(parameters.gate)
    return is_accepted(manifest, read_checks(uri), limits)
