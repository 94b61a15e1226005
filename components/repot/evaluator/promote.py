"""Put a version in production by swapping champion.json, and take it out again.

A promotion happens only if the champion is still the one that the gate compared with. A rollback is a person's word:
it asks no gate, and the gate does not promote the version that was taken out again.
"""

import logging

from repot import layout, storage
from repot.champion import Champion, Pointer, read_champion
from repot.errors import ConflictError, ModelError, UsageError
from repot.evaluator.verdict import NO_CHAMPION
from repot.layout import MODEL_RECORD_NAME

_log = logging.getLogger(__name__)


def promote(storage_uri: str, model_name: str, version: str, expected_champion: str) -> None:
    """Make `version` the champion; nothing happens when it is already.

    Args:
        storage_uri: Where everything lies.
        model_name: The model.
        version: The published version.
        expected_champion: The version that the gate compared with, or "none" when there was no champion.

    Raises:
        ModelError: The version was never published.
        ConflictError: Another version was promoted since the gate compared.
    """
    uri = layout.champion_uri(storage_uri, model_name)
    pointer = read_champion(uri)
    if _version(pointer) == version:
        return
    if _version(pointer) != expected_champion:
        raise _overtaken(uri, pointer, version, expected_champion)
    rolled_back = pointer.champion.rolled_back if pointer.champion else ()
    champion = _new_champion(storage_uri, model_name, version, _version(pointer), rolled_back)
    try:
        storage.swap_bytes(uri, champion.to_bytes(), expected_version=pointer.object_version)
    except ConflictError as err:
        pointer = read_champion(uri)
        if _version(pointer) != version:
            raise _overtaken(uri, pointer, version, expected_champion) from err
    _log.info("%s: champion is now %s, before %s", model_name, version, expected_champion)


def rollback(storage_uri: str, model_name: str, to_version: str = "") -> Champion:
    """Put an earlier version back into production and return the new champion.

    Args:
        storage_uri: Where everything lies.
        model_name: The model.
        to_version: A published version; "" takes the one that was in production before.

    Raises:
        UsageError: There is no champion, or nothing to go back to.
        ModelError: The version was never published.
        ConflictError: Somebody else swapped the champion at the same moment.
    """
    uri = layout.champion_uri(storage_uri, model_name)
    champion, object_version = read_champion(uri)
    if champion is None:
        raise UsageError(
            f"A model must have a champion to be rolled back; there is no {uri}. Check the model's name."
        )
    version = to_version or champion.previous
    if not version:
        raise UsageError(
            f"{champion.version} is the first champion of {model_name}. Give --to a version to go back to."
        )
    if version == champion.version:
        raise UsageError(
            f"{version} is the champion of {model_name} already. Give --to another version."
        )
    rolled_back = sorted({*champion.rolled_back, champion.version} - {version})
    restored = _new_champion(storage_uri, model_name, version, champion.version, tuple(rolled_back))
    storage.swap_bytes(uri, restored.to_bytes(), expected_version=object_version)
    _log.info("%s: rolled back from %s to %s", model_name, champion.version, version)
    return restored


def _new_champion(
    storage_uri: str, model_name: str, version: str, previous: str, rolled_back: tuple[str, ...]
) -> Champion:
    facts_uri = storage.join(layout.model_uri(storage_uri, model_name, version), MODEL_RECORD_NAME)
    if not storage.exists(facts_uri):
        raise ModelError(
            f"A version must be published before it is promoted; there is no {facts_uri}. Evaluate first."
        )
    facts = storage.read_json(facts_uri)
    return Champion(
        model_name=model_name,
        version=version,
        dataset_id=facts["dataset_id"],
        precision_at_1=facts["metrics"]["precision_at_1"],
        previous="" if previous == NO_CHAMPION else previous,
        rolled_back=rolled_back,
    )


def _version(pointer: Pointer) -> str:
    return pointer.champion.version if pointer.champion else NO_CHAMPION


def _overtaken(uri: str, pointer: Pointer, version: str, expected_champion: str) -> ConflictError:
    return ConflictError(
        f"{uri} must still name {expected_champion}, the version that {version} was compared with; got "
        f"{_version(pointer)}. Another run promoted in between: run again, the gate then compares with the new "
        "champion (training and evaluation are not repeated)."
    )
