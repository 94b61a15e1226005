"""Training pictures whose label is probably wrong, by cross-validation on the stored features.

Heads are fitted to the features without the picture that they judge; copies of a picture, and the
pictures of a group, are in one fold. With few pictures, several divisions into folds are averaged.
Heads are fitted to a sample of at most MAX_FITTED pictures, so that time and memory are bounded;
the other pictures are judged by a head that is fitted to the whole sample. The labels of the most
similar pictures of the sample are a second opinion.
`repot.label_suspects` has the model of wrong labels.

Only training pictures take part. The result is kept beside the state before the training continues,
so a resumed training does not compute it again; `write_suspects` publishes it at the end.
"""

import hashlib
import logging

import numpy as np
import numpy.typing as npt

from repot import storage
from repot.label_suspects import (
    FloatArray,
    IntArray,
    LabelNoise,
    LabelSuspects,
    choose_suspects,
    fit_label_noise,
    join_judgements,
    judge_labels,
)
from repot.layout import SUSPECTS_NAME
from repot.trainer.auto.heads import MAX_ROWS, assign_folds, cross_validate, fit_head, softmax
from repot.trainer.auto.selection import Candidate, TrainingFeatures
from repot.trainer.blas_threads import multiply, one_thread
from repot.trainer.state import StateStore

NUM_FOLDS = 5
NUM_DIVISIONS = 3
"""Divisions into folds that are averaged, up to MAX_DIVIDED pictures; one beyond."""
MAX_DIVIDED = 2048
MAX_FITTED = 4096
MAX_LOGITS = 1_000_000
"""Most pictures that heads are fitted to, and most of their logits: with more than 244 labels,
fewer pictures. It takes about half a minute of processor time."""

PENALTIES = (1e-4, 3e-4, 1e-3)
"""See `repot.trainer.auto.heads.fit_head`; the likelihood of the given labels chooses."""

EXPECTED_TEMPERATURE = 0.4
"""Center of the prior of the temperature of both opinions together. For seven sets of pictures
(`benchmarks/suspects.py`), .6 to 1.1 is fitted. The center is lower because a high temperature
would explain wrong labels as well as a high rate does; with 1.1, recall is .01 lower."""

HEAD_TEMPERATURE = 0.5
"""What the logits of the heads are divided by before they are averaged with the votes: out of fold,
these heads are too cautious."""

NUM_NEIGHBOURS, VOTE_SCALE, VOTE_PRIOR = 20, 0.1, 0.3
"""Neighbours vote by the exponential of their similarity, a cosine, divided by VOTE_SCALE.
VOTE_PRIOR of a vote goes to each label. Whichever six of the seven sets choose these numbers and
HEAD_TEMPERATURE, these or almost these are chosen."""

MIN_PICTURES = 5
"""Different pictures that a label needs so that its pictures are judged. One that is alone with its
label would look wrong to every head that is fitted without it."""

_log = logging.getLogger(__name__)


def keep_suspects(store: StateStore, features: TrainingFeatures) -> None:
    """Find the suspects and keep them beside the state, unless they are there.

    Of several workers, only the one that writes does anything.
    """
    if not store.is_writer or store.read_file(SUSPECTS_NAME) is not None:
        return
    found = find_suspects(features)
    _log.info(
        "%d of %d training pictures probably have a wrong label",
        len(found.suspects),
        found.num_examples,
    )
    store.write_file(SUSPECTS_NAME, found.to_text().encode())


def write_suspects(store: StateStore, run_uri: str) -> None:
    """Publish what `keep_suspects` kept, if it did: recipe inception_2016 has no features."""
    data = store.read_file(SUSPECTS_NAME)
    if data is not None:
        storage.write_bytes(storage.join(run_uri, SUSPECTS_NAME), data)


@one_thread()
def find_suspects(features: TrainingFeatures) -> LabelSuspects:
    """Judge the label of every training picture by heads that were not fitted to it."""
    candidate = _widest(features)
    sample = _sample(features)
    is_judged = _enough_pictures(features, sample)
    logits, penalty, noise = _cross_validate(features, candidate, sample, is_judged[sample])
    rest = np.setdiff1d(np.arange(len(features.classes)), sample)
    judgements = [judge_labels(logits, features.classes[sample], noise)]
    if len(rest):
        head = fit_head(
            lambda which: features.rows(candidate, sample[which]),
            sum(features.part_sizes(candidate)),
            features.classes[sample],
            features.num_classes,
            penalty=penalty,
        )
        neighbours = _Neighbours(features, candidate, sample)
        for first in range(0, len(rest), MAX_ROWS):
            part = rest[first : first + MAX_ROWS]
            scores = _with_votes(
                head.logits(features.rows(candidate, part)),
                neighbours.votes(features.rows(candidate, part), features.keys(part)),
            )
            judgements.append(judge_labels(scores, features.classes[part], noise))
    numbers = np.concatenate([sample, rest])
    return choose_suspects(
        join_judgements(judgements),
        features.classes[numbers],
        noise=noise,
        numbers=numbers,
        is_judged=is_judged[numbers],
    )


def _widest(features: TrainingFeatures) -> Candidate:
    """Return the candidate with all features that there are."""
    return Candidate(name="", views=tuple(features.tables), use_depths=len(features.sizes) > 1)


def _sample(features: TrainingFeatures) -> IntArray:
    """Return the rows that heads are fitted to: all, or a fixed sample by content."""
    size = min(MAX_FITTED, max(1, MAX_LOGITS // features.num_classes))
    if len(features.classes) <= size:
        return np.arange(len(features.classes))
    # Not in the order of the digests themselves, which other choices follow.
    keys = np.array([_salted(digest, 0) for digest in features.digests], "S32")
    return np.sort(np.argsort(keys, kind="stable")[:size])


def _enough_pictures(features: TrainingFeatures, sample: IntArray) -> np.ndarray:
    """Return whether the label of each row has enough different pictures in the sample."""
    pairs = {
        (class_, bytes(digest))
        for class_, digest in zip(
            features.classes[sample].tolist(), features.digests[sample], strict=True
        )
    }
    counts = np.bincount([class_ for class_, _ in pairs], minlength=features.num_classes)
    return counts[features.classes] >= MIN_PICTURES


def _cross_validate(
    features: TrainingFeatures, candidate: Candidate, sample: IntArray, is_judged: np.ndarray
) -> tuple[FloatArray, float, LabelNoise]:
    """Return out-of-fold logits of the sample, the penalty of the heads, and the fitted model."""
    classes = features.classes[sample]
    rows = features.rows(candidate, sample)
    num_divisions = NUM_DIVISIONS if len(sample) <= MAX_DIVIDED else 1
    logits: dict[float, FloatArray] = {}
    for division in range(num_divisions):
        keys = [_salted(key, division) for key in features.keys(sample)]
        found = cross_validate(
            rows,
            classes,
            features.num_classes,
            folds=assign_folds(keys, classes, NUM_FOLDS),
            penalties=PENALTIES,
        )
        for penalty, scores in found.items():
            logits[penalty] = logits.get(penalty, 0.0) + scores / num_divisions
    neighbours = _Neighbours(features, candidate, sample)
    votes = neighbours.votes(rows, features.keys(sample))
    logits = {penalty: _with_votes(scores, votes) for penalty, scores in logits.items()}
    fits = {
        penalty: fit_label_noise(
            scores[is_judged], classes[is_judged], expected_temperature=EXPECTED_TEMPERATURE
        )
        for penalty, scores in logits.items()
    }
    chosen = max(fits, key=lambda penalty: fits[penalty].score)
    return logits[chosen], chosen, fits[chosen]


class _Neighbours:
    """The labels of the most similar pictures, as a second opinion beside the heads.

    It errs elsewhere: with both, the list has fewer right labels (`benchmarks/suspects.py`).

    Args:
        features, candidate: The features.
        sample: int64 [n], the pictures that vote.
    """

    def __init__(self, features: TrainingFeatures, candidate: Candidate, sample: IntArray) -> None:
        rows = features.rows(candidate, sample)
        self._mean, self._scale = rows.mean(axis=0), rows.std(axis=0) + 1e-6
        self._rows = self._standardise(rows)
        self._labels, self._num_labels = features.classes[sample], features.num_classes
        keys = np.array(features.keys(sample), object)
        self._names, self._groups = np.unique(keys, return_inverse=True)

    def votes(self, rows: FloatArray, keys: list[bytes]) -> FloatArray:
        """Return the logarithm of the share of votes for each label: float64 [n, N].

        Args:
            rows: float64 [n, features], see `TrainingFeatures.rows`.
            keys: What each belongs to: nothing that belongs to it votes.
        """
        similar = multiply(self._standardise(rows), self._rows.T)
        places = {name: place for place, name in enumerate(self._names.tolist())}
        own = np.array([places.get(key, -1) for key in keys])
        similar[own[:, np.newaxis] == self._groups] = -np.inf
        number = min(NUM_NEIGHBOURS, similar.shape[1])
        nearest = np.argpartition(-similar, number - 1, axis=1)[:, :number]
        weights = np.exp(np.take_along_axis(similar, nearest, axis=1) / VOTE_SCALE)
        counts = np.zeros((len(rows), self._num_labels))
        for place in range(number):
            labels = self._labels[nearest[:, place]]
            counts[np.arange(len(rows)), labels] += weights[:, place]
        counts += VOTE_PRIOR * weights.mean(axis=1, keepdims=True) + 1e-9
        votes: FloatArray = np.log(counts / counts.sum(axis=1, keepdims=True))
        return votes

    def _standardise(self, rows: FloatArray) -> npt.NDArray[np.float32]:
        standard: npt.NDArray[np.float32] = ((rows - self._mean) / self._scale).astype(np.float32)
        lengths = np.linalg.norm(standard, axis=1, keepdims=True)
        standard /= np.maximum(lengths, 1e-6)
        return standard


def _with_votes(logits: FloatArray, votes: FloatArray) -> FloatArray:
    """Return the mean of what heads and neighbours say, as logarithms of probabilities."""
    both: FloatArray = (np.log(softmax(logits / HEAD_TEMPERATURE) + 1e-12) + votes) / 2
    return both


def _salted(digest: bytes, salt: int) -> bytes:
    return hashlib.sha256(b"suspects" + bytes([salt]) + bytes(digest)).digest()
