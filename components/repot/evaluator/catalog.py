"""What a storage has: models, their versions and verdicts, and runs, for tables and JSON.

Everything is read from the files that runs leave; there is no index that could be out of date.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from repot import layout, storage
from repot.errors import UsageError, join_names
from repot.evaluation_record import EvaluationRecord, ScoringTime
from repot.evaluator.comparison_log import read_comparisons
from repot.evaluator.verdict import Verdict
from repot.json_record import JsonRecord, read_or_none
from repot.layout import (
    CHAMPION_NAME,
    EVALUATION_FOLDER,
    GATE_FOLDER,
    METRICS_NAME,
    MODEL_RECORD_NAME,
    REMOVED_NAME,
    RUN_REQUEST_NAME,
    SCORING_TIME_NAME,
    STATE_FOLDER,
    TRAINING_NAME,
    VERDICT_NAME,
)
from repot.metrics import Interval
from repot.model_registry import (
    Champion,
    ChampionChange,
    ModelRecord,
    read_champion,
    read_model_record,
)
from repot.model_spec import MAX_RECORD_BYTES
from repot.requested_run import RequestedRun
from repot.training_record import RemovedTraining, TrainingRecord

_MAX_NAMES = 20
_NUM_READERS = 32
_Record = TypeVar("_Record", bound=JsonRecord)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSummary(JsonRecord):
    """One model.

    Attributes:
        name: The model.
        champion: The version in production; "" if there is none.
        since: When it came into production; "" if unknown.
        precision_at_1, interval: Its score when it was evaluated, with the 95 % interval.
        num_versions: Published versions.
        num_comparisons: Comparisons with a champion so far.
    """

    name: str
    champion: str
    since: str
    precision_at_1: float | None
    interval: Interval | None
    num_versions: int
    num_comparisons: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionSummary(JsonRecord):
    """One published version of a model.

    Attributes:
        version: The version.
        state: "champion", "rolled back", or "".
        precision_at_1, interval, num_examples, subset: Its score, with the 95 % interval.
        num_labels, backbone, dataset_id: What was trained.
        verdict: The latest verdict in one sentence; "" without one.
        brief_verdict: The same in a few words.
        decided_at: When that was reached first.
    """

    version: str
    state: str
    precision_at_1: float
    interval: Interval
    num_examples: int
    subset: str
    num_labels: int
    backbone: str
    dataset_id: str
    verdict: str
    brief_verdict: str
    decided_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionDetails(JsonRecord):
    """Everything about a published version.

    Attributes:
        summary: Its line of the list.
        uri: Its folder.
        record: Its model.json.
        verdicts: Every verdict on it, oldest first.
        history: When it came into production.
    """

    summary: VersionSummary
    uri: str
    record: ModelRecord
    verdicts: tuple[Verdict, ...]
    history: tuple[ChampionChange, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary(JsonRecord):
    """One training run.

    Attributes:
        run: The run; it is also the version that it publishes.
        state: "evaluated", "trained", "unfinished", or "removed" by `repot prune`.
        backbone, recipe, dataset_id, epochs, seconds: What was trained; empty if unfinished.
        precision_at_1, interval, num_examples: Its score on validation; None if not evaluated.
        macro_recall: Mean recall of the labels.
        num_train_examples: Training pictures.
        verdict: The latest verdict in one sentence; "" without one.
        brief_verdict: The same in a few words.
        decided_at: When that was reached first.
    """

    run: str
    state: str
    backbone: str = ""
    recipe: str = ""
    dataset_id: str = ""
    epochs: int = 0
    seconds: float = 0.0
    precision_at_1: float | None = None
    interval: Interval | None = None
    num_examples: int = 0
    macro_recall: float | None = None
    num_train_examples: int = 0
    verdict: str = ""
    brief_verdict: str = ""
    decided_at: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDetails(JsonRecord):
    """Everything about a run.

    Attributes:
        summary: Its line of the list.
        uri: Its folder.
        training: Its training.json; None if it is unfinished.
        evaluation: Its metrics.json; None if it was not evaluated.
        verdicts: Every verdict on it, oldest first.
        request: What it was asked for; None if unknown.
        scoring_time: How long scoring took; None if unknown.
    """

    summary: RunSummary
    uri: str
    training: TrainingRecord | None
    evaluation: EvaluationRecord | None
    verdicts: tuple[Verdict, ...]
    request: RequestedRun | None = None
    scoring_time: ScoringTime | None = None


@dataclass(kw_only=True, slots=True)
class _Folder:
    """The files in a folder, by their names in it, and when one was last written."""

    names: set[str] = field(default_factory=set)
    written_at: float = 0.0


def list_models(storage_uri: str) -> list[ModelSummary]:
    """Return every model that has a version or a champion, by name."""
    counts: Counter[str] = Counter()
    for model, _, rest in _names(layout.models_uri(storage_uri)):
        if rest == CHAMPION_NAME:
            counts[model] += 0
        elif rest.count("/") == 1 and rest.endswith(f"/{MODEL_RECORD_NAME}"):
            counts[model] += 1
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        names = sorted(counts)
        return list(pool.map(lambda name: _model_summary(storage_uri, name, counts[name]), names))


def list_versions(
    storage_uri: str, model_name: str, *, limit: int = 0
) -> tuple[list[VersionSummary], int]:
    """Return the published versions of a model; the latest verdict first, the others after it.

    Args:
        storage_uri, model_name: The model.
        limit: Return only this many, those that were written last; 0 returns all.

    Returns:
        The versions, and how many there are.

    Raises:
        UsageError: There is no such model; lists those that exist.
    """
    folders = _published(storage_uri, model_name)
    champion = read_champion(layout.champion_uri(storage_uri, model_name)).champion
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        summaries = pool.map(
            lambda version: _read_version(storage_uri, model_name, version, champion).summary,
            _last_written(folders, limit),
        )
        found = sorted(summaries, key=lambda each: (each.decided_at, each.version), reverse=True)
    return found, len(folders)


def show_version(storage_uri: str, model_name: str, version: str) -> VersionDetails:
    """Return everything about a version.

    Args:
        storage_uri, model_name: The model.
        version: The version; "" for the champion.

    Raises:
        UsageError: It was never published, or there is no champion.
    """
    known = sorted(_published(storage_uri, model_name))
    champion = read_champion(layout.champion_uri(storage_uri, model_name)).champion
    chosen = version or (champion.version if champion else "")
    if chosen not in known:
        raise UsageError(
            f"A version must be a published one of {model_name}; got {version!r}. Name one of "
            f"these: {join_names(known, _MAX_NAMES)}."
        )
    return _read_version(storage_uri, model_name, chosen, champion)


def list_runs(storage_uri: str, *, limit: int = 0) -> tuple[list[RunSummary], int]:
    """Return the runs; the latest verdict first, runs without a verdict before them.

    The storage is listed once, and the records are read at the same time.

    Args:
        storage_uri: Root of all stored files.
        limit: Return only this many, those in which something was written last; 0 returns all.

    Returns:
        The runs, and how many there are.
    """
    folders = _list_folders(layout.runs_uri(storage_uri))
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        summaries = pool.map(
            lambda run: _read_run(storage_uri, run, folders[run].names).summary,
            _last_written(folders, limit),
        )
        found = sorted(
            summaries,
            key=lambda each: (not each.decided_at, each.decided_at, each.run),
            reverse=True,
        )
    return found, len(folders)


def show_run(storage_uri: str, run: str) -> RunDetails:
    """Return everything about a run.

    Raises:
        UsageError: There is no such run; lists those that exist.
    """
    uri = layout.run_uri(storage_uri, run)
    names = {storage.relative_name(each.uri, uri) for each in storage.list_objects(uri)}
    if not names:
        runs = sorted(_list_folders(layout.runs_uri(storage_uri)))
        raise UsageError(
            f"A run must be one of {storage_uri}; got {run!r}. "
            + (
                f"Name one of these: {join_names(runs, _MAX_NAMES)}."
                if runs
                else "It has none: check --storage-uri, or run the pipeline first."
            )
        )
    return dataclasses.replace(
        _read_run(storage_uri, run, names),
        request=read_or_none(storage.join(uri, RUN_REQUEST_NAME), RequestedRun),
        scoring_time=read_or_none(
            storage.join(uri, EVALUATION_FOLDER, SCORING_TIME_NAME), ScoringTime
        ),
    )


def _read_run(storage_uri: str, run: str, names: Collection[str]) -> RunDetails:
    """Return a run, without request and scoring time.

    Args:
        storage_uri, run: The run.
        names: Its files: no request is made for one that does not exist.
    """
    uri = layout.run_uri(storage_uri, run)

    def read(name: str, record: type[_Record]) -> _Record | None:
        return read_or_none(storage.join(uri, name), record) if name in names else None

    training = read(TRAINING_NAME, TrainingRecord)
    evaluation = read(f"{EVALUATION_FOLDER}/{METRICS_NAME}", EvaluationRecord)
    verdicts = _read_verdicts(uri, names)
    latest = _latest(verdicts)
    is_open = any(name.startswith(f"{STATE_FOLDER}/") for name in names)
    is_gone = training is None and not is_open
    removed = read(REMOVED_NAME, RemovedTraining) if is_gone else None
    summary = RunSummary(
        run=run,
        state=_state(training, evaluation, removed),
        verdict=latest.headline if latest else "",
        brief_verdict=latest.brief_text if latest else "",
        decided_at=latest.decided_at if latest else "",
    )
    if training is not None:
        summary = dataclasses.replace(
            summary,
            backbone=training.settings.backbone,
            recipe=training.settings.recipe,
            dataset_id=training.dataset_id,
            epochs=training.epochs,
            seconds=training.seconds,
            num_train_examples=training.num_examples["train"],
        )
    if evaluation is not None:
        summary = dataclasses.replace(
            summary,
            precision_at_1=evaluation.precision_at_1,
            interval=evaluation.precision_at_1_interval,
            num_examples=evaluation.num_examples,
            macro_recall=evaluation.macro_recall,
        )
    if removed is not None:
        fields = dataclasses.fields(RemovedTraining)
        values = {field.name: getattr(removed, field.name) for field in fields}
        del values["removed_at"]
        summary = dataclasses.replace(summary, **values)
    return RunDetails(
        summary=summary,
        uri=uri,
        training=training,
        evaluation=evaluation,
        verdicts=tuple(verdicts),
    )


def _state(
    training: TrainingRecord | None,
    evaluation: EvaluationRecord | None,
    removed: RemovedTraining | None,
) -> str:
    if removed is not None:
        return "removed"
    return "evaluated" if evaluation else "trained" if training else "unfinished"


def _names(folder_uri: str) -> Iterator[tuple[str, str, str]]:
    """Yield the first part, the separator and the rest of every name below a folder."""
    for each in storage.list_objects(folder_uri):
        yield storage.relative_name(each.uri, folder_uri).partition("/")


def _list_folders(folder_uri: str) -> dict[str, _Folder]:
    """Return the folders directly in a folder, with all their files, by name."""
    folders: dict[str, _Folder] = {}
    for stored in storage.scan_stored(folder_uri):
        name, _, rest = storage.relative_name(stored.uri, folder_uri).partition("/")
        if rest and not stored.is_hidden:
            folder = folders.setdefault(name, _Folder())
            folder.names.add(rest)
            folder.written_at = max(folder.written_at, stored.written_at)
    return folders


def _last_written(folders: Mapping[str, _Folder], limit: int) -> list[str]:
    """Return the names of the folders that were written last; all of them for 0."""
    newest_first = sorted(folders, key=lambda name: (-folders[name].written_at, name))
    return newest_first[: limit or None]


def _published(storage_uri: str, model_name: str) -> dict[str, _Folder]:
    """Return the folders of the published versions of a model.

    Raises:
        UsageError: It has none; lists the models that have one.
    """
    folders = _list_folders(storage.join(layout.models_uri(storage_uri), model_name))
    published = {name: each for name, each in folders.items() if MODEL_RECORD_NAME in each.names}
    if not published:
        models = [each.name for each in list_models(storage_uri)]
        raise UsageError(
            f"A model must have a published version; {storage_uri} has none of {model_name!r}. "
            + (
                f"Name one of these with --model-name: {join_names(models, _MAX_NAMES)}."
                if models
                else "No model there has one: check --storage-uri, or run the pipeline first."
            )
        )
    return published


def _model_summary(storage_uri: str, name: str, num_versions: int) -> ModelSummary:
    champion = read_champion(layout.champion_uri(storage_uri, name)).champion
    score = None
    if champion is not None:
        uri = layout.model_uri(storage_uri, name, champion.version)
        record_uri = storage.join(uri, MODEL_RECORD_NAME)
        storage.check_size(record_uri, MAX_RECORD_BYTES)
        record = read_or_none(record_uri, ModelRecord)
        score = record.metrics if record else None
    return ModelSummary(
        name=name,
        champion=champion.version if champion else "",
        since=champion.history[-1].time if champion and champion.history else "",
        precision_at_1=score.precision_at_1 if score else None,
        interval=score.precision_at_1_interval if score else None,
        num_versions=num_versions,
        num_comparisons=read_comparisons(storage_uri, name).num_comparisons,
    )


def _read_version(
    storage_uri: str, model_name: str, version: str, champion: Champion | None
) -> VersionDetails:
    """Return a published version."""
    uri = layout.model_uri(storage_uri, model_name, version)
    record = read_model_record(uri)
    run_uri = layout.run_uri(storage_uri, version)
    gate_uri = storage.join(run_uri, GATE_FOLDER)
    names = [storage.relative_name(each.uri, run_uri) for each in storage.list_objects(gate_uri)]
    verdicts = [each for each in _read_verdicts(run_uri, names) if each.model_name == model_name]
    latest = _latest(verdicts)
    state = ""
    if champion is not None and champion.version == version:
        state = "champion"
    elif champion is not None and version in champion.rolled_back:
        state = "rolled back"
    summary = VersionSummary(
        version=version,
        state=state,
        precision_at_1=record.metrics.precision_at_1,
        interval=record.metrics.precision_at_1_interval,
        num_examples=record.metrics.num_examples,
        subset=record.metrics.subset,
        num_labels=len(record.labels),
        backbone=record.backbone,
        dataset_id=record.dataset_id,
        verdict=latest.headline if latest else "",
        brief_verdict=latest.brief_text if latest else "",
        decided_at=latest.decided_at if latest else "",
    )
    history = champion.history if champion else ()
    return VersionDetails(
        summary=summary,
        uri=uri,
        record=record,
        verdicts=tuple(verdicts),
        history=tuple(each for each in history if each.version == version),
    )


def _read_verdicts(run_uri: str, names: Iterable[str]) -> list[Verdict]:
    """Return every readable verdict among the files of a run, oldest first."""
    verdicts = [
        read_or_none(storage.join(run_uri, name), Verdict)
        for name in sorted(names)
        if name.startswith(f"{GATE_FOLDER}/") and name.endswith(f"/{VERDICT_NAME}")
    ]
    return sorted((each for each in verdicts if each is not None), key=lambda each: each.decided_at)


def _latest(verdicts: Sequence[Verdict]) -> Verdict | None:
    """Return the latest verdict that decided something: not that a champion is the champion."""
    decided = [each for each in verdicts if each.decision != "unchanged"] or verdicts
    return decided[-1] if decided else None
