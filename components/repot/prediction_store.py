"""Stored predictions: what a model answered for pictures, so that it answers once for each.

    <storage_uri>/predictions/<id>/    parts as in `repot.feature_store`: digests of pictures, and
                                       vectors of N probabilities and the model's `unlike`

The id is that of the model's files, of who computed it, and of the code in between. The evaluation
trusts its own answers. Those of a trainer on a GPU are used after a sample of them was verified;
then they are stored again as the evaluation's. A damaged part is deleted and computed again. The
folder is a cache: it may be deleted whenever no pipeline runs.
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from repot import layout, storage
from repot.example_digests import Digests
from repot.feature_store import FEATURES_VERSION, VectorStore
from repot.predictor import model_digest

Author = Literal["evaluate", "train"]
"""Who computed the answers."""
AUTHORS = get_args(Author)

PART_ROWS = 4096
"""Answers in a part, at most."""

_DIGEST = "S32"  # of the parts; an example's digest fills the first half
_Answers = npt.NDArray[np.float32]


class PredictionStore:
    """The stored answers of one model.

    Args:
        predictions_uri: Folder of all predictions.
        model_uri: Folder of the model.
        num_labels: N.
        author: Who computed them.
    """

    def __init__(
        self, predictions_uri: str, model_uri: str, *, num_labels: int, author: Author = "evaluate"
    ) -> None:
        name = folder_name(model_uri, num_labels=num_labels, author=author)
        folder_uri = storage.join(predictions_uri, name)
        self._vectors = VectorStore(folder_uri, num_columns=num_labels + 1)
        self._vectors.refresh()

    def fill(self, digests: Digests, answers: _Answers, is_filled: npt.NDArray[np.bool_]) -> None:
        """Write the stored answers for some pictures into a table.

        Args:
            digests: Of the pictures, see `repot.example_digests`.
            answers: float32 [n, N + 1], see `answers_of`.
            is_filled: bool [n], which rows have their answer; updated. Others are left alone.
        """
        self._vectors.fill(digests, answers, is_filled)

    def add(self, digests: Digests, answers: _Answers) -> None:
        """Store answers, float32 [n, N + 1]."""
        for start in range(0, len(digests), PART_ROWS):
            part = slice(start, start + PART_ROWS)
            self._vectors.add(digests[part].astype(_DIGEST), answers[part])


def folder_name(model_uri: str, *, num_labels: int, author: Author) -> str:
    """Return the name of the folder of a model's answers; the arguments are those of the store."""
    return layout.content_id((model_digest(model_uri), num_labels, author, FEATURES_VERSION))


def answers_of(probabilities: _Answers, unlike: _Answers) -> _Answers:
    """Return the rows that are stored: float32 [n, N + 1], probabilities and `unlike`."""
    return np.concatenate([probabilities, unlike[:, np.newaxis]], axis=1, dtype=np.float32)
