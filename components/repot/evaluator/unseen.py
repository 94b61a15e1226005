"""Which pictures neither champion nor challenger was trained on: only those compare them fairly.

When a dataset grows, a picture may cross from train to validation, and a picture may be renamed or
get another label. The champion knows such a picture. Pictures are therefore matched by content, see
`repot.example_digests`, with the training pictures of both versions.

Of files with the same content and label, one counts. Both versions give all of them the same
answers, so they are one observation, and the gate's test is about independent ones.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from repot import storage
from repot.errors import DataError, NotFoundError
from repot.evaluator.outcomes import Outcome
from repot.evaluator.verdict import ComparedPictures
from repot.example_digests import Digests, join_digests, read_digests, read_stored
from repot.layout import TRAINED_ON_NAME
from repot.manifest import read_manifest

MIN_COMPARED = 30
"""Fewest unseen pictures for a comparison, or half of the split, if that is fewer: below it, the
95 % interval of precision@1 is wider than 0.3, and chance decides."""

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unseen:
    """The pictures of a split that neither version was trained on, each content once.

    Attributes:
        is_unseen: One per scored picture, in order; False also for a copy of an earlier one.
        pictures: Their numbers.
    """

    is_unseen: tuple[bool, ...]
    pictures: ComparedPictures

    def select(self, rows: Sequence[_T]) -> list[_T]:
        """Return the rows of the unseen pictures, of one row per scored picture."""
        return [row for row, is_kept in zip(rows, self.is_unseen, strict=True) if is_kept]


def find_unseen(
    outcomes: Sequence[Outcome],
    *,
    dataset_uri: str,
    champion_uri: str,
    champion_dataset_uri: str,
) -> Unseen:
    """Return which scored pictures are in the training split of neither dataset, without copies.

    Args:
        outcomes: The challenger's outcomes.
        dataset_uri: The challenger's dataset.
        champion_uri: Folder of the champion, which has the digests of its training pictures.
        champion_dataset_uri: The champion's dataset, for a champion without digests, published by
            an earlier version of repot. If it was deleted or is damaged, the champion's training
            pictures are unknown, which the result states.

    Raises:
        DataError: The challenger's dataset is missing or damaged.
        StorageError: A dataset cannot be read at present.
    """
    scored = join_digests(bytes.fromhex(outcome.digest) for outcome in outcomes)
    by_challenger = np.isin(scored, _training_digests(dataset_uri))
    by_champion, problem = np.zeros(len(scored), bool), ""
    if champion_dataset_uri != dataset_uri:
        try:
            stored = read_stored(storage.join(champion_uri, TRAINED_ON_NAME))
            digests = _training_digests(champion_dataset_uri) if stored is None else stored
            by_champion = np.isin(scored, digests)
        except (DataError, NotFoundError) as err:
            problem = str(err)
            _log.warning("The champion's training pictures are unknown: %s", problem)
    else:
        by_champion = by_challenger
    is_copy = _find_copies(outcomes)
    is_unseen = ~(by_challenger | by_champion | is_copy)
    num_scored = len(outcomes)
    num_copies = int(is_copy.sum())
    return Unseen(
        is_unseen=tuple(is_unseen.tolist()),
        pictures=ComparedPictures(
            num_scored=num_scored,
            num_compared=int(is_unseen.sum()),
            num_required=min(MIN_COMPARED, -(-(num_scored - num_copies) // 2)),
            num_trained_on_by_champion=int((by_champion & ~is_copy).sum()),
            num_trained_on_by_version=int((by_challenger & ~is_copy).sum()),
            num_copies=num_copies,
            problem=problem,
        ),
    )


def _find_copies(outcomes: Sequence[Outcome]) -> npt.NDArray[np.bool_]:
    """Return which outcomes have the content and label of an earlier one."""
    seen: set[tuple[str, str]] = set()
    is_copy = np.zeros(len(outcomes), np.bool_)
    for i, outcome in enumerate(outcomes):
        key = (outcome.digest, outcome.label)
        is_copy[i] = key in seen
        seen.add(key)
    return is_copy


def _training_digests(dataset_uri: str) -> Digests:
    return read_digests(dataset_uri, read_manifest(dataset_uri), "train", task="gate")
