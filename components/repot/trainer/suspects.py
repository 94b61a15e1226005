"""Training pictures whose label is probably wrong, by cross-validation on the stored features.

Heads are fitted to the features without the picture that they judge; copies of a picture, and the
pictures of a group, are in one fold. With few pictures, several divisions into folds are averaged.
Heads are fitted to a sample of at most MAX_FITTED pictures, so that time and memory are bounded;
the other pictures are judged by a head that is fitted to the whole sample.
`repot.label_suspects` has the model of wrong labels.

Only training pictures take part. The result is kept beside the state before the training goes on,
so a resumed training does not compute it again; `write_suspects` publishes it at the end.
"""

import hashlib
import logging

import numpy as np

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
from repot.trainer.auto.heads import MAX_ROWS, assign_folds, cross_validate, fit_head
from repot.trainer.auto.selection import Candidate, TrainingFeatures
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
"""What suits out-of-fold logits of these heads, which are too cautious: .4 to .8 for seven sets of
pictures (`benchmarks/suspects.py`)."""

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
        for first in range(0, len(rest), MAX_ROWS):
            part = rest[first : first + MAX_ROWS]
            scores = head.logits(features.rows(candidate, part))
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
    fits = {
        penalty: fit_label_noise(
            scores[is_judged], classes[is_judged], expected_temperature=EXPECTED_TEMPERATURE
        )
        for penalty, scores in logits.items()
    }
    chosen = max(fits, key=lambda penalty: fits[penalty].score)
    return logits[chosen], chosen, fits[chosen]


def _salted(digest: bytes, salt: int) -> bytes:
    return hashlib.sha256(b"suspects" + bytes([salt]) + bytes(digest)).digest()
