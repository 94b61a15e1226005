"""models/<name>/comparisons.json: which versions of a model were compared on which pictures.

The level of a comparison depends on how many were made before, so each is recorded before it is
decided, by compare-and-set. A comparison of the same versions on the same pictures is the same
comparison: a pod that was killed and starts again finds its entry and spends nothing again. The
file is bounded: old entries are dropped, and only their number is kept.
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from repot import layout, storage
from repot.errors import ConflictError, ModelError, NotFoundError
from repot.evaluator.decision_rule import PairedCounts, Pairing, next_alpha
from repot.evaluator.outcomes import Outcome
from repot.json_record import JsonRecord, RecordError, checked_text

MAX_ENTRIES = 1000
"""Entries that are kept: almost three years of nightly comparisons, in about 300 KB."""

_MAX_ATTEMPTS = 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonEntry(JsonRecord):
    """One comparison.

    Attributes:
        number: 1 for the first comparison of the model.
        champion, challenger: The versions.
        pictures_id: Id of the compared pictures and their labels.
        only_champion, only_challenger, num_compared: See `PairedCounts`.
        alpha: The level that it spent.
    """

    number: int
    champion: str
    challenger: str
    pictures_id: str
    only_champion: int
    only_challenger: int
    num_compared: int
    alpha: float

    @property
    def pairing(self) -> Pairing:
        """Return the versions and how they fared."""
        return Pairing(
            champion=self.champion,
            challenger=self.challenger,
            counts=PairedCounts(
                only_champion=self.only_champion,
                only_challenger=self.only_challenger,
                num_compared=self.num_compared,
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonLog(JsonRecord):
    """What comparisons.json holds.

    Attributes:
        num_comparisons: All comparisons of the model, dropped ones included.
        entries: The latest ones, oldest first.
    """

    num_comparisons: int = 0
    entries: tuple[ComparisonEntry, ...] = ()

    def find(self, champion: str, challenger: str, pictures_id: str) -> ComparisonEntry | None:
        """Return the entry of a comparison, or None."""
        key = (champion, challenger, pictures_id)
        for entry in self.entries:
            if (entry.champion, entry.challenger, entry.pictures_id) == key:
                return entry
        return None

    def pairings(self, up_to: int) -> list[Pairing]:
        """Return the comparisons up to a number."""
        return [entry.pairing for entry in self.entries if entry.number <= up_to]


def record_comparison(
    storage_uri: str,
    model_name: str,
    *,
    champion: str,
    challenger: str,
    pictures_id: str,
    counts: PairedCounts,
    comparisons_per_year: int,
) -> tuple[ComparisonEntry, ComparisonLog]:
    """Record a comparison, if it is not recorded yet, and return its entry and the log.

    Args:
        storage_uri, model_name: The model.
        champion, challenger, pictures_id, counts: See `ComparisonEntry`.
        comparisons_per_year: See `repot.evaluator.decision_rule.next_alpha`.

    Raises:
        ModelError: The file is damaged.
        ConflictError: Other processes kept changing it.
    """
    uri = layout.comparisons_uri(storage_uri, model_name)
    attempts_left = _MAX_ATTEMPTS
    while True:
        log, object_version = _read(uri)
        entry = log.find(champion, challenger, pictures_id)
        if entry is not None:
            _log.info("comparison %d of %s is recorded already", entry.number, model_name)
            return entry, log
        entry = ComparisonEntry(
            number=log.num_comparisons + 1,
            champion=champion,
            challenger=challenger,
            pictures_id=pictures_id,
            only_champion=counts.only_champion,
            only_challenger=counts.only_challenger,
            num_compared=counts.num_compared,
            alpha=next_alpha(log.num_comparisons, comparisons_per_year),
        )
        changed = ComparisonLog(
            num_comparisons=entry.number, entries=(*log.entries, entry)[-MAX_ENTRIES:]
        )
        content = checked_text(changed.to_json(), indent=None).encode()
        try:
            storage.swap_bytes(uri, content, expected_version=object_version)
        except ConflictError:
            # Another run of this model was faster; read again.
            attempts_left -= 1
            if not attempts_left:
                raise
        else:
            return entry, changed


def read_comparisons(storage_uri: str, model_name: str) -> ComparisonLog:
    """Return the comparisons of a model; none if there is no file.

    Raises:
        ModelError: The file is damaged.
    """
    return _read(layout.comparisons_uri(storage_uri, model_name))[0]


def pictures_id(outcomes: Sequence[Outcome]) -> str:
    """Return the id of the pictures of some outcomes and their labels, in any order."""
    return layout.content_id(sorted((row.digest, row.label) for row in outcomes))


def _read(uri: str) -> tuple[ComparisonLog, str | None]:
    try:
        content = storage.read_object(uri)
    except NotFoundError:
        return ComparisonLog(), None
    try:
        return ComparisonLog.from_text(content.data.decode()), content.info.version
    except (RecordError, UnicodeDecodeError) as err:
        names = ", ".join(field.name for field in dataclasses.fields(ComparisonLog))
        raise ModelError(
            f"{uri} must be a JSON object of {names}; got {err}. Restore it, or delete it: then "
            "the comparisons of this model are counted from 1 again."
        ) from err
