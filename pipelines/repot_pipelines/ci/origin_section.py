"""The part of the comment that says what a version was made from, and what of that is new."""

from collections.abc import Sequence
from typing import Any

from repot_pipelines.ci.markdown import code, plain, table
from repot_pipelines.ci.origins import Origin, Origins, differing_settings

_MAX_LABELS = 10


def origin_section(origins: Origins) -> str:
    """Return what changed from champion to challenger; what is not known is said."""
    challenger, champion = origins.challenger, origins.champion
    if challenger is None:
        return f"What changed is not known here, for the storage cannot be read: {plain(origins.problem)}"
    if champion is None:
        return f"Made from\n\n{table(['', 'challenger'], _single_rows(challenger))}"
    rows = [
        ["data set", code(champion.dataset_id), code(challenger.dataset_id)],
        ["pictures, training + validation", _pictures(champion), _pictures(challenger)],
        *(_setting_row(name, old, new) for name, old, new in differing_settings(challenger, champion)),
    ]
    parts = [_summary(challenger, champion), table(["", "champion", "challenger"], rows)]
    return "\n\n".join([*parts, *_label_lines(challenger, champion)])


def _single_rows(origin: Origin) -> list[list[str]]:
    shown = ("backbone", "recipe", "checkpoint")
    return [
        ["data set", code(origin.dataset_id)],
        ["pictures, training + validation", _pictures(origin)],
        ["labels", f"{len(origin.labels):,}"],
        *([plain(name), _value(origin.settings[name])] for name in shown if name in origin.settings),
    ]


def _summary(challenger: Origin, champion: Origin) -> str:
    changed = [
        *(["the data"] if challenger.dataset_id != champion.dataset_id else []),
        *(["the settings"] if any(differing_settings(challenger, champion)) else []),
    ]
    if not changed:
        return "Data and settings are those of the champion."
    return f"What changed: {' and '.join(changed)}."


def _pictures(origin: Origin) -> str:
    counts = origin.num_examples
    return f"{counts.get('train', 0):,} + {counts.get('validation', 0):,}"


def _setting_row(name: str, old: Any, new: Any) -> list[str]:
    return [plain(name.replace("_", " ")), _value(old), _value(new)]


def _value(value: Any) -> str:
    return "–" if value is None else code(str(value))


def _label_lines(challenger: Origin, champion: Origin) -> list[str]:
    added = [label for label in challenger.labels if label not in champion.labels]
    removed = [label for label in champion.labels if label not in challenger.labels]
    return [f"Labels {word}: {_names(labels)}" for word, labels in (("added", added), ("removed", removed)) if labels]


def _names(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _MAX_LABELS} more" if len(labels) > _MAX_LABELS else ""
    return ", ".join(map(code, labels[:_MAX_LABELS])) + more
