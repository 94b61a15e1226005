"""Put a version in production: swap champion.json, if the champion is still the one that the gate compared with."""

import logging

from repot import layout, storage
from repot.champion import Champion, Pointer, read_champion
from repot.errors import ConflictError, ModelError
from repot.evaluator.publish import MODEL_FACTS_NAME
from repot.evaluator.verdict import NO_CHAMPION

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
    champion = _new_champion(storage_uri, model_name, version, pointer)
    try:
        storage.swap_bytes(uri, champion.to_bytes(), expected_version=pointer.object_version)
    except ConflictError as err:
        pointer = read_champion(uri)
        if _version(pointer) != version:
            raise _overtaken(uri, pointer, version, expected_champion) from err
    _log.info("%s: champion is now %s, before %s", model_name, version, expected_champion)


def _new_champion(storage_uri: str, model_name: str, version: str, pointer: Pointer) -> Champion:
    facts_uri = storage.join(layout.model_uri(storage_uri, model_name, version), MODEL_FACTS_NAME)
    if not storage.exists(facts_uri):
        raise ModelError(f"A version must be published before it is promoted; there is no {facts_uri}. Evaluate first.")
    facts = storage.read_json(facts_uri)
    return Champion(
        model_name=model_name,
        version=version,
        dataset_id=facts["dataset_id"],
        precision_at_1=facts["metrics"]["precision_at_1"],
        previous=pointer.champion.version if pointer.champion else "",
    )


def _version(pointer: Pointer) -> str:
    return pointer.champion.version if pointer.champion else NO_CHAMPION


def _overtaken(uri: str, pointer: Pointer, version: str, expected_champion: str) -> ConflictError:
    return ConflictError(
        f"{uri} must still name {expected_champion}, the version that {version} was compared with; got "
        f"{_version(pointer)}. Another run promoted in between: run again, the gate then compares with the new "
        "champion (training and evaluation are not repeated)."
    )
