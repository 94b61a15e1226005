"""The pointer to the version in production: models/<name>/champion.json."""

import dataclasses
import json
from dataclasses import dataclass
from typing import NamedTuple

from repot import storage
from repot.errors import ModelError

CHAMPION_NAME = "champion.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion:
    """What champion.json says.

    Attributes:
        model_name: The model whose versions are compared.
        version: The version in production.
        dataset_id: The data set that it was trained and scored on.
        precision_at_1: Its score there.
        previous: The version that was in production before, or "".
        rolled_back: Versions that a person took out of production; the gate promotes none of them again.
    """

    model_name: str
    version: str
    dataset_id: str
    precision_at_1: float
    previous: str = ""
    rolled_back: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        return (json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n").encode()


class Pointer(NamedTuple):
    """A champion, and the stored version of the file that names it; both None when there is no file."""

    champion: Champion | None
    object_version: str | None


def read_champion(uri: str) -> Pointer:
    """Read a champion.json.

    Raises:
        ModelError: The file is there but does not say what a champion.json says.
    """
    info = storage.stat(uri)
    if info is None:
        return Pointer(None, None)
    try:
        facts = json.loads(storage.read_bytes(uri, version=info.version))
        champion = Champion(**{**facts, "rolled_back": tuple(facts.get("rolled_back", ()))})
    except (ValueError, TypeError) as err:
        names = ", ".join(field.name for field in dataclasses.fields(Champion))
        raise ModelError(
            f"{uri} must be a JSON object of {names}; got {err}. Repair or delete it."
        ) from err
    return Pointer(champion, info.version)
