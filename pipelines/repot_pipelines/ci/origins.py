"""What two versions of a model were made from, read from the storage, and in what they differ."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from repot import layout, storage
from repot.errors import ModelError, RepotError


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What one version was made from.

    Attributes:
        dataset_id: Its data set.
        num_examples: Pictures by split, "train" and "validation".
        labels: Its labels.
        settings: Everything else by name: recipe, checkpoint, versions of the programs.
    """

    dataset_id: str
    num_examples: dict[str, int]
    labels: tuple[str, ...]
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origins:
    """What challenger and champion were made from.

    Attributes:
        challenger, champion: None for what is not there or cannot be read.
        problem: Why the challenger's cannot be read; "" where it was.
    """

    challenger: Origin | None = None
    champion: Origin | None = None
    problem: str = ""


def read_origins(storage_uri: str, *, version: str, champion_version: str) -> Origins:
    """Return what both versions were made from; a storage that cannot be read is no failure of the run.

    Args:
        storage_uri: Where everything lies.
        version: The challenger.
        champion_version: The champion; "" for none.
    """
    try:
        challenger = _read_origin(storage_uri, version)
    except RepotError as err:
        return Origins(problem=str(err))
    try:
        champion = _read_origin(storage_uri, champion_version) if champion_version else None
    except RepotError:
        champion = None  # an old run's folder may have been deleted; its published model is all that must stay
    return Origins(challenger=challenger, champion=champion)


def differing_settings(challenger: Origin, champion: Origin) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name, the champion's and the challenger's value of every setting that differs; None for a missing."""
    for name in sorted({*challenger.settings, *champion.settings}):
        old, new = champion.settings.get(name), challenger.settings.get(name)
        if old != new:
            yield name, old, new


def _read_origin(storage_uri: str, version: str) -> Origin:
    uri = storage.join(layout.run_uri(storage_uri, version), layout.TRAINING_NAME)
    facts = storage.read_json(uri)
    try:
        return Origin(
            dataset_id=str(facts["dataset_id"]),
            num_examples=dict(facts["num_examples"]),
            labels=tuple(facts["labels"]),
            settings={
                **facts["settings"],
                "checkpoint": facts["checkpoint_id"],
                **facts.get("versions", {}),
            },
        )
    except (KeyError, TypeError, AttributeError) as err:
        raise ModelError(
            f"{uri} must be what a training writes; {type(err).__name__}: {err}."
        ) from err
