"""Versions of a model: publish a run as a version, promote a version, roll back to another one.

A promotion succeeds only if the champion is still the one that the gate compared with. A rollback
is a person's decision: it skips the gate, and the gate does not promote the rolled-back version
again.
"""

import logging

from repot import layout, storage
from repot.errors import ConflictError, ModelError, NotFoundError, UsageError
from repot.evaluator.report.data import ReportData
from repot.evaluator.report.model_card import render_model_card
from repot.evaluator.verdict import NO_CHAMPION
from repot.json_record import read_record, write_record
from repot.layout import (
    EVALUATION_FOLDER,
    METRICS_NAME,
    MODEL_CARD_NAME,
    MODEL_FOLDER,
    MODEL_RECORD_NAME,
    REPORT_DATA_NAME,
    TRAINING_NAME,
)
from repot.model_registry import Champion, ModelRecord, ModelScores, Pointer, read_champion

_log = logging.getLogger(__name__)


def publish(run_uri: str, storage_uri: str, *, model_name: str, version: str) -> str:
    """Copy a run's model, metrics and model card to models/<name>/<version>/, if not done already.

    The folder is self-contained, and its model.json is written last.

    Args:
        run_uri: Folder of an evaluated run.
        storage_uri: Root of all stored files.
        model_name: The model.
        version: The version: the id of the training.

    Returns:
        The folder of the version.

    Raises:
        NotFoundError: The run was not evaluated.
        ModelError: The run has no training record.
    """
    target_uri = layout.model_uri(storage_uri, model_name, version)
    record_uri = storage.join(target_uri, MODEL_RECORD_NAME)
    if storage.exists(record_uri):
        return target_uri
    evaluation_uri = storage.join(run_uri, EVALUATION_FOLDER)
    metrics_bytes = storage.read_bytes(storage.join(evaluation_uri, METRICS_NAME))
    data = read_record(storage.join(evaluation_uri, REPORT_DATA_NAME), ReportData)
    record = _model_record(data, run_uri, model_name, version)
    storage.copy_folder(storage.join(run_uri, MODEL_FOLDER), target_uri)
    storage.write_bytes(storage.join(target_uri, METRICS_NAME), metrics_bytes)
    card = render_model_card(data, model_name=model_name, version=version)
    storage.write_text(storage.join(target_uri, MODEL_CARD_NAME), card)
    write_record(record_uri, record)
    return target_uri


def promote(storage_uri: str, model_name: str, version: str, expected_champion: str) -> None:
    """Make a version the champion; do nothing if it already is.

    Args:
        storage_uri: Root of all stored files.
        model_name: The model.
        version: A published version.
        expected_champion: The version that the gate compared with, or "none".

    Raises:
        ModelError: The version was never published.
        ConflictError: Another version was promoted after the gate's comparison.
    """
    uri = layout.champion_uri(storage_uri, model_name)
    pointer = read_champion(uri)
    if _version(pointer) == version:
        return
    if _version(pointer) != expected_champion:
        raise _conflict(uri, pointer, version, expected_champion)
    rolled_back = pointer.champion.rolled_back if pointer.champion else ()
    champion = _new_champion(storage_uri, model_name, version, _version(pointer), rolled_back)
    try:
        storage.swap_bytes(uri, champion.to_bytes(), expected_version=pointer.object_version)
    except ConflictError as err:
        pointer = read_champion(uri)
        if _version(pointer) != version:
            raise _conflict(uri, pointer, version, expected_champion) from err
    _log.info("%s: champion is now %s, was %s", model_name, version, expected_champion)


def rollback(storage_uri: str, model_name: str, to_version: str = "") -> Champion:
    """Make an earlier version the champion again and return the new champion.

    Args:
        storage_uri: Root of all stored files.
        model_name: The model.
        to_version: A published version; "" for the previous champion.

    Raises:
        UsageError: There is no champion, or no version to roll back to.
        ModelError: The version was never published.
        ConflictError: Another process changed the champion at the same time.
    """
    uri = layout.champion_uri(storage_uri, model_name)
    champion, object_version = read_champion(uri)
    if champion is None:
        raise UsageError(
            f"A model must have a champion to be rolled back; {uri} does not exist. "
            "Check the model's name."
        )
    version = to_version or champion.previous
    if not version:
        raise UsageError(
            f"{champion.version} is the first champion of {model_name}, so there is no previous "
            "one. Name the version to roll back to with --to."
        )
    if version == champion.version:
        raise UsageError(
            f"{version} is already the champion of {model_name}. Name another version with --to."
        )
    rolled_back = sorted({*champion.rolled_back, champion.version} - {version})
    restored = _new_champion(storage_uri, model_name, version, champion.version, tuple(rolled_back))
    storage.swap_bytes(uri, restored.to_bytes(), expected_version=object_version)
    _log.info("%s: rolled back from %s to %s", model_name, champion.version, version)
    return restored


def _model_record(data: ReportData, run_uri: str, model_name: str, version: str) -> ModelRecord:
    training, evaluation = data.training, data.evaluation
    if training is None:
        raise ModelError(
            f"A run must have a {TRAINING_NAME} to be published; {run_uri} has none. Train first."
        )
    return ModelRecord(
        name=model_name,
        version=version,
        labels=training.labels,
        backbone=training.settings.backbone,
        image_size=training.image_size,
        dataset_id=training.dataset_id,
        training_id=training.training_id,
        metrics=ModelScores(
            precision_at_1=evaluation.precision_at_1,
            precision_at_1_interval=evaluation.precision_at_1_interval,
            recall_at_5=evaluation.recall_at_5,
            recall_k=evaluation.recall_k,
            loss=evaluation.loss,
            num_examples=evaluation.num_examples,
            subset=evaluation.subset,
        ),
    )


def _new_champion(
    storage_uri: str, model_name: str, version: str, previous: str, rolled_back: tuple[str, ...]
) -> Champion:
    version_uri = layout.model_uri(storage_uri, model_name, version)
    record_uri = storage.join(version_uri, MODEL_RECORD_NAME)
    try:
        record = read_record(record_uri, ModelRecord, error=ModelError)
    except NotFoundError as err:
        raise ModelError(
            f"A version must be published before it is promoted; {record_uri} does not exist. "
            "Evaluate first."
        ) from err
    return Champion(
        model_name=model_name,
        version=version,
        dataset_id=record.dataset_id,
        precision_at_1=record.metrics.precision_at_1,
        previous="" if previous == NO_CHAMPION else previous,
        rolled_back=rolled_back,
    )


def _version(pointer: Pointer) -> str:
    return pointer.champion.version if pointer.champion else NO_CHAMPION


def _conflict(uri: str, pointer: Pointer, version: str, expected_champion: str) -> ConflictError:
    return ConflictError(
        f"{uri} must still name {expected_champion}, the version that {version} was compared with; "
        f"got {_version(pointer)}. Another run was promoted in the meantime. Run again: the gate "
        "then compares with the new champion; training and evaluation are not repeated."
    )
