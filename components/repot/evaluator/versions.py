"""Versions of a model: publish a run as a version, promote a version, roll back to another one.

A promotion succeeds only if the champion is still the one that the gate compared with. A rollback
is a person's decision: it skips the gate, and the gate does not promote the rolled-back version
again.
"""

import dataclasses
import logging
from collections.abc import Sequence

from repot import layout, progress, storage
from repot.errors import ConflictError, ModelError, NotFoundError, UsageError, join_names
from repot.evaluation_record import SplitScores
from repot.evaluator.export_record import ExportRecord, publish_exports, read_exports
from repot.evaluator.report.data import ReportData
from repot.evaluator.report.model_card import render_model_card
from repot.evaluator.verdict import NO_CHAMPION
from repot.example_digests import read_digests, write_digests
from repot.folder_checksums import list_files
from repot.json_record import checked_text, read_record
from repot.layout import (
    CHAMPION_NAME,
    EVALUATION_FOLDER,
    EXPORTS_FOLDER,
    METRICS_NAME,
    MODEL_CARD_NAME,
    MODEL_FOLDER,
    MODEL_RECORD_NAME,
    REPORT_DATA_NAME,
    TRAINED_ON_NAME,
    TRAINING_NAME,
)
from repot.manifest import read_manifest
from repot.model_registry import (
    Champion,
    ChampionChange,
    ModelRecord,
    ModelScores,
    Pointer,
    check_version,
    read_champion,
    read_model_record,
)
from repot.model_spec import read_model_spec
from repot.signatures import check_signature, sign_version

_MAX_NAMES = 20

_log = logging.getLogger(__name__)


def publish(run_uri: str, storage_uri: str, *, model_name: str, version: str) -> str:
    """Copy a run's model, metrics and model card to models/<name>/<version>/, if not done already.

    The folder also gets the accepted exports of the run, and the digests of the training pictures,
    for later comparisons. It is self-contained, and its model.json is written last.

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
    exports = read_exports(run_uri)
    if storage.exists(record_uri):
        _report_unpublished(exports, run_uri, target_uri)
        return target_uri
    evaluation_uri = storage.join(run_uri, EVALUATION_FOLDER)
    metrics_bytes = storage.read_bytes(storage.join(evaluation_uri, METRICS_NAME))
    data = read_record(storage.join(evaluation_uri, REPORT_DATA_NAME), ReportData)
    record = _model_record(data, run_uri, model_name, version)
    storage.copy_folder(storage.join(run_uri, MODEL_FOLDER), target_uri)
    storage.write_bytes(storage.join(target_uri, METRICS_NAME), metrics_bytes)
    _write_trained_on(storage.join(target_uri, TRAINED_ON_NAME), storage_uri, record.dataset_id)
    publish_exports(exports, run_uri, target_uri)
    card = render_model_card(data, model_name=model_name, version=version, exports=exports)
    storage.write_text(storage.join(target_uri, MODEL_CARD_NAME), card)
    files = list_files(target_uri, skip=layout.ADDED_TO_VERSIONS)
    record = dataclasses.replace(record, files=files)
    text = checked_text(record.to_json())
    sign_version(target_uri, text)
    storage.write_text(record_uri, text)
    return target_uri


def _report_unpublished(exports: Sequence[ExportRecord], run_uri: str, version_uri: str) -> None:
    """Say where exports are that were made after the version was published: it never changes."""
    published = {record.format for record in read_exports(version_uri)}
    late = [each.format for each in exports if not each.problem and each.format not in published]
    if late:
        progress.notice(
            "evaluate",
            f"The version was published without {join_names(late)}; the exports are in "
            f"{storage.join(run_uri, EXPORTS_FOLDER)}.",
        )


def promote(
    storage_uri: str, model_name: str, change: ChampionChange, *, expected_champion: str
) -> None:
    """Make a version the champion; do nothing if it already is.

    Args:
        storage_uri: Root of all stored files.
        model_name: The model.
        change: The published version, and when, by which run and on which verdict it is promoted.
        expected_champion: The version that the gate compared with, or "none".

    Raises:
        ModelError: The version was never published.
        ConflictError: Another version was promoted after the gate's comparison.
    """
    uri, version = layout.champion_uri(storage_uri, model_name), change.version
    pointer = read_champion(uri)
    if _version(pointer) == version:
        return
    if _version(pointer) != expected_champion:
        raise _conflict(uri, pointer, version, expected_champion)
    # A promotion that a person forced lifts an earlier rollback.
    earlier = pointer.champion.rolled_back if pointer.champion else ()
    rolled_back = tuple(each for each in earlier if each != version)
    champion = _new_champion(storage_uri, model_name, change, pointer.champion, rolled_back)
    try:
        storage.swap_bytes(uri, champion.to_bytes(), expected_version=pointer.object_version)
    except ConflictError as err:
        pointer = read_champion(uri)
        if _version(pointer) != version:
            raise _conflict(uri, pointer, version, expected_champion) from err
    _log.info("%s: champion is now %s, was %s", model_name, version, expected_champion)


def promote_by_hand(
    storage_uri: str, model_name: str, version: str, *, reason: str, time: str
) -> Champion:
    """Make a published version the champion by a person's decision, without the gate.

    A version that was rolled back may be promoted again. Unlike a rollback, it does not mark the
    version that it replaces as rolled back.

    Args:
        storage_uri: Root of all stored files.
        model_name: The model.
        version: The version.
        reason: Why; the history keeps it.
        time: The present time, see `ChampionChange`.

    Raises:
        UsageError: The version is the champion already or was never published, or there is no
            reason.
        ConflictError: Another process changed the champion at the same time.
    """
    if not reason.strip():
        raise UsageError("A promotion without the gate must have a reason; got ''. Give --reason.")
    uri = layout.champion_uri(storage_uri, model_name)
    champion, object_version = read_champion(uri)
    published = _published_versions(storage_uri, model_name)
    if version not in published:
        raise UsageError(
            f"A version must be published to be promoted; {model_name} has no {version!r}. "
            f"Published versions: {join_names(published, _MAX_NAMES) or 'none'}."
        )
    if champion is not None and champion.version == version:
        raise UsageError(f"{version} is already the champion of {model_name}. Name another one.")
    earlier = champion.rolled_back if champion else ()
    change = ChampionChange(version=version, action="promote", time=time, reason=reason)
    promoted = _new_champion(
        storage_uri,
        model_name,
        change,
        champion,
        tuple(each for each in earlier if each != version),
    )
    storage.swap_bytes(uri, promoted.to_bytes(), expected_version=object_version)
    _log.info("%s: champion is now %s, by hand: %s", model_name, version, reason)
    return promoted


def rollback(storage_uri: str, model_name: str, to_version: str = "", *, time: str) -> Champion:
    """Make an earlier version the champion again and return the new champion.

    Args:
        storage_uri: Root of all stored files.
        model_name: The model.
        to_version: A published version; "" for the previous champion.
        time: The present time, see `ChampionChange`.

    Raises:
        UsageError: There is no champion, no version to roll back to, or the version was never
            published; lists the published ones.
        ConflictError: Another process changed the champion at the same time.
    """
    uri = layout.champion_uri(storage_uri, model_name)
    champion, object_version = read_champion(uri)
    if champion is None:
        raise UsageError(
            f"A model must have a champion to be rolled back; {uri} does not exist. "
            f"{_list_models(storage_uri)}"
        )
    version = to_version or champion.previous
    if not version:
        raise UsageError(
            f"{champion.version} is the first champion of {model_name}, so there is no previous "
            "one. Name the version to roll back to with --to. "
            f"{_list_versions(storage_uri, champion)}"
        )
    if version == champion.version:
        raise UsageError(
            f"{version} is already the champion of {model_name}. Name another version with --to. "
            f"{_list_versions(storage_uri, champion)}"
        )
    if version not in _published_versions(storage_uri, model_name):
        raise UsageError(
            f"A rollback must lead to a published version of {model_name}; got {version!r}. Name "
            f"another version with --to. {_list_versions(storage_uri, champion)}"
        )
    rolled_back = sorted({*champion.rolled_back, champion.version} - {version})
    change = ChampionChange(version=version, action="rollback", time=time)
    restored = _new_champion(storage_uri, model_name, change, champion, tuple(rolled_back))
    storage.swap_bytes(uri, restored.to_bytes(), expected_version=object_version)
    _log.info("%s: rolled back from %s to %s", model_name, champion.version, version)
    return restored


def _write_trained_on(uri: str, storage_uri: str, dataset_id: str) -> None:
    """Keep with a version which pictures it was trained on, for the gate."""
    dataset_uri = layout.dataset_uri(storage_uri, dataset_id)
    manifest = read_manifest(dataset_uri)
    write_digests(uri, read_digests(dataset_uri, manifest, "train", task="evaluate"))


def _model_record(data: ReportData, run_uri: str, model_name: str, version: str) -> ModelRecord:
    training, evaluation = data.training, data.evaluation
    spec = read_model_spec(storage.join(run_uri, MODEL_FOLDER))
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
        metrics=_model_scores(evaluation.scores, evaluation.subset),
        test_metrics=_model_scores(evaluation.test, "test") if evaluation.test else None,
        network=spec.network if spec else None,
    )


def _model_scores(scores: SplitScores, subset: str) -> ModelScores:
    return ModelScores(
        precision_at_1=scores.precision_at_1,
        precision_at_1_interval=scores.precision_at_1_interval,
        recall_at_5=scores.recall_at_5,
        recall_k=scores.recall_k,
        loss=scores.loss,
        num_examples=scores.num_examples,
        subset=subset,
    )


def _new_champion(
    storage_uri: str,
    model_name: str,
    change: ChampionChange,
    previous: Champion | None,
    rolled_back: tuple[str, ...],
) -> Champion:
    """Return the champion after a change.

    Raises:
        ModelError: The version was never published, its files have changed since, or it is not
            signed as `repot.signatures` requires.
    """
    version_uri = layout.model_uri(storage_uri, model_name, change.version)
    try:
        record = read_model_record(version_uri)
    except NotFoundError as err:
        record_uri = storage.join(version_uri, MODEL_RECORD_NAME)
        raise ModelError(
            f"A version must be published before it is promoted; {record_uri} does not exist. "
            "Evaluate first."
        ) from err
    check_version(version_uri, record)
    check_signature(version_uri)
    history = (*(previous.history if previous else ()), change)
    promotions = [each for each in history if each.action == "promote"]
    return Champion(
        model_name=model_name,
        version=change.version,
        dataset_id=record.dataset_id,
        precision_at_1=record.metrics.precision_at_1,
        previous=previous.version if previous else "",
        rolled_back=rolled_back,
        promotion=next(
            (each for each in reversed(promotions) if each.version == change.version), None
        ),
        history=history,
    )


def _published_versions(storage_uri: str, model_name: str) -> list[str]:
    """Return every version that has a model.json, sorted."""
    folder_uri = storage.join(layout.models_uri(storage_uri), model_name)
    names = [
        storage.relative_name(each.uri, folder_uri) for each in storage.list_objects(folder_uri)
    ]
    return [
        version
        for version, _, name in (n.partition("/") for n in names)
        if name == MODEL_RECORD_NAME
    ]


def _list_versions(storage_uri: str, champion: Champion) -> str:
    """Return a sentence that lists the published versions of the champion's model."""
    versions = _published_versions(storage_uri, champion.model_name)
    marks = {
        **dict.fromkeys(champion.rolled_back, " (rolled back)"),
        champion.version: " (champion)",
    }
    names = [version + marks.get(version, "") for version in versions]
    return f"Published versions: {join_names(names, _MAX_NAMES) or 'none'}."


def _list_models(storage_uri: str) -> str:
    """Return a sentence that lists the models that have a champion."""
    folder_uri = layout.models_uri(storage_uri)
    names = [
        storage.relative_name(each.uri, folder_uri) for each in storage.list_objects(folder_uri)
    ]
    models = [
        model for model, _, name in (n.partition("/") for n in names) if name == CHAMPION_NAME
    ]
    if not models:
        return "No model there has one: check --storage-uri, or run the pipeline first."
    return f"Name one of these with --model-name: {join_names(models, _MAX_NAMES)}."


def _version(pointer: Pointer) -> str:
    return pointer.champion.version if pointer.champion else NO_CHAMPION


def _conflict(uri: str, pointer: Pointer, version: str, expected_champion: str) -> ConflictError:
    return ConflictError(
        f"{uri} must still name {expected_champion}, the version that {version} was compared with; "
        f"got {_version(pointer)}. Another run was promoted in the meantime. Run again: the gate "
        "then compares with the new champion; training and evaluation are not repeated."
    )
