"""States of a network after some epochs, and their averages.

An average of weights along one training, or of those before and after it, often classifies more
pictures correctly than either, and takes no longer.

Source: Wortsman et al. 2022, Model soups, recipe 1 (greedy), and Robust fine-tuning of zero-shot
models, section 3 (the weights before and after).
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repot.json_record import JsonRecord
from repot.trainer.state import StateStore

NUM_STATES = 3
"""States after the best epochs that may be averaged."""

Values = list[Any]
"""Values of a model's trainable variables."""


class KeptStates:
    """Values of a model after some epochs, kept beside the state of the training.

    A resumed training repeats the epoch that was interrupted; what is kept of it is replaced.

    Args:
        store: Keeps the files.
        name: Start of their names.
        model: The model.
        most: Number of states that are kept: those with the highest scores.
    """

    def __init__(self, store: StateStore, name: str, model: Any, *, most: int) -> None:
        self._store = store
        self._name = name
        self._model = model
        self._most = most

    def keep(self, epoch: int, score: float | None) -> None:
        """Keep the model's current state if it is among the best.

        Args:
            epoch: Number of finished epochs.
            score: Higher is better; None if all are kept.
        """
        if not self._store.is_writer:
            return
        buffer = io.BytesIO()
        np.savez(buffer, *values_of(self._model))
        self._store.write_file(self._file_name(epoch), buffer.getvalue())
        old = self._read_index()
        scores = {each: old[each] for each in old if each < epoch} | {epoch: score or 0.0}
        best = sorted(scores, key=lambda each: (-scores[each], each))[: self._most]
        index = _Index(epochs=tuple(best), scores=tuple(scores[each] for each in best))
        self._store.write_file(self._index_name, index.to_text().encode())
        for each in {*old, epoch} - {*best}:
            self._store.delete_file(self._file_name(each))

    def best_first(self) -> list[int]:
        """Return the epochs of the states that are kept."""
        return list(self._read_index())

    def read(self, epoch: int) -> Values:
        """Return the state that is kept of an epoch.

        Raises:
            StorageError: Its file disappeared.
        """
        data = self._store.require_file(self._file_name(epoch))
        with np.load(io.BytesIO(data)) as arrays:
            return [arrays[name] for name in arrays.files]

    def _read_index(self) -> dict[int, float]:
        data = self._store.read_file(self._index_name)
        if data is None:
            return {}
        index = _Index.from_text(data.decode())
        return dict(zip(index.epochs, index.scores, strict=True))

    @property
    def _index_name(self) -> str:
        return f"{self._name}-states.json"

    def _file_name(self, epoch: int) -> str:
        return f"{self._name}-{epoch:05d}.npz"


def average_greedily(
    epochs: Sequence[int], read: Callable[[int], Values], loss_of: Callable[[Values], float]
) -> tuple[list[int], Values, float]:
    """Average states one by one, each only if the average does not get worse by it.

    Args:
        epochs: The epochs of the states, the best one first.
        read: (epoch) -> the state after it.
        loss_of: (state) -> its loss.

    Returns:
        The epochs in the average, the average, and its loss.
    """
    chosen, total = [epochs[0]], read(epochs[0])
    average, loss = total, loss_of(total)
    for epoch in epochs[1:]:
        new_total = [old + new for old, new in zip(total, read(epoch), strict=True)]
        new_average = [values / (len(chosen) + 1) for values in new_total]
        new_loss = loss_of(new_average)
        if new_loss <= loss:
            chosen.append(epoch)
            total, average, loss = new_total, new_average, new_loss
    return chosen, average, loss


def values_of(model: Any) -> Values:
    """Return the values of a model's trainable variables."""
    return [np.array(np.asarray(variable)) for variable in model.trainable_variables]


def assign(model: Any, values: Values) -> None:
    """Set the trainable variables of a model."""
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)


def average_with(before: Values, after: Values, share: float) -> Values:
    """Return the average of two states; `share` is that of the second."""
    return [(1 - share) * old + share * new for old, new in zip(before, after, strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Index(JsonRecord):
    """The epochs whose states are kept, the best one first, and their scores."""

    epochs: tuple[int, ...]
    scores: tuple[float, ...]
