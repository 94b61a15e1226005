"""What champion and challenger were trained from, and the comment's section on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from repot import layout, storage
from repot.errors import ModelError, RepotError
from repot.json_record import read_record
from repot.training_record import TrainingRecord
from repot_pipelines.ci.markdown import code, escape, table

_MAX_LABELS = 10
_SINGLE_SETTINGS = ("backbone", "recipe", "checkpoint")
"""Settings that are listed when there is no champion to compare with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """Training records of both versions.

    Attributes:
        challenger, champion: None if the record does not exist or cannot be read.
        problem: Why the challenger's record cannot be read; "" if it can.
    """

    challenger: TrainingRecord | None = None
    champion: TrainingRecord | None = None
    problem: str = ""


def read_lineage(storage_uri: str, *, version: str, champion_version: str) -> Lineage:
    """Read the training records of both versions; unreadable storage does not fail the job.

    Args:
        storage_uri: The storage URI of the run.
        version: Training id of the challenger.
        champion_version: Training id of the champion; "" for none.
    """
    try:
        challenger = _read_training(storage_uri, version)
    except RepotError as err:
        return Lineage(problem=str(err))
    try:
        champion = _read_training(storage_uri, champion_version) if champion_version else None
    except RepotError:
        # An old run's folder may have been deleted: only its published model has to stay.
        champion = None
    return Lineage(challenger=challenger, champion=champion)


def lineage_section(lineage: Lineage) -> str:
    """Return, in Markdown, what changed from champion to challenger, or why that is unknown."""
    challenger, champion = lineage.challenger, lineage.champion
    if challenger is None:
        reason = escape(lineage.problem)
        return f"What changed is unknown because the storage cannot be read: {reason}"
    if champion is None:
        return f"Trained from\n\n{table(['', 'challenger'], _single_rows(challenger))}"
    differences = list(differing_settings(challenger, champion))
    rows = [
        ["dataset", code(champion.dataset_id), code(challenger.dataset_id)],
        ["pictures, training + validation", _num_pictures(champion), _num_pictures(challenger)],
        *([_setting_name(name), _value(old), _value(new)] for name, old, new in differences),
    ]
    return "\n\n".join(
        [
            _summary(challenger, champion, is_setting_changed=bool(differences)),
            table(["", "champion", "challenger"], rows),
            *_label_changes(challenger.labels, champion.labels),
        ]
    )


def differing_settings(
    challenger: TrainingRecord, champion: TrainingRecord
) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, champion's value and challenger's value of every setting that differs.

    Checkpoint and package versions count as settings. The value is None where a record lacks one.
    """
    old_settings, new_settings = _settings(champion), _settings(challenger)
    for name in sorted({*old_settings, *new_settings}):
        old, new = old_settings.get(name), new_settings.get(name)
        if old != new:
            yield name, old, new


def _read_training(storage_uri: str, version: str) -> TrainingRecord:
    uri = storage.join(layout.run_uri(storage_uri, version), layout.TRAINING_NAME)
    return read_record(uri, TrainingRecord, error=ModelError)


def _settings(record: TrainingRecord) -> dict[str, Any]:
    return {**record.settings.to_json(), "checkpoint": record.checkpoint_id, **record.versions}


def _single_rows(record: TrainingRecord) -> list[list[str]]:
    settings = _settings(record)
    return [
        ["dataset", code(record.dataset_id)],
        ["pictures, training + validation", _num_pictures(record)],
        ["labels", f"{len(record.labels):,}"],
        *([_setting_name(name), _value(settings[name])] for name in _SINGLE_SETTINGS),
    ]


def _summary(
    challenger: TrainingRecord, champion: TrainingRecord, *, is_setting_changed: bool
) -> str:
    changes = [
        *(["the data"] if challenger.dataset_id != champion.dataset_id else []),
        *(["the settings"] if is_setting_changed else []),
    ]
    if not changes:
        return "Data and settings are the same as the champion's."
    return f"What changed: {' and '.join(changes)}."


def _num_pictures(record: TrainingRecord) -> str:
    counts = record.num_examples
    test = f" + {counts['test']:,} for test" if counts.get("test") else ""
    return f"{counts.get('train', 0):,} + {counts.get('validation', 0):,}{test}"


def _setting_name(name: str) -> str:
    return escape(name.replace("_", " "))


def _value(value: object) -> str:
    return "–" if value is None else code(str(value))


def _label_changes(new: Sequence[str], old: Sequence[str]) -> list[str]:
    added = [label for label in new if label not in old]
    removed = [label for label in old if label not in new]
    return [
        f"Labels {change}: {_label_names(labels)}"
        for change, labels in (("added", added), ("removed", removed))
        if labels
    ]


def _label_names(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _MAX_LABELS} more" if len(labels) > _MAX_LABELS else ""
    return ", ".join(map(code, labels[:_MAX_LABELS])) + more
