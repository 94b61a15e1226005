"""Which pictures are kept while a split is scored, and which promises of the model come true."""

import dataclasses

import numpy as np
import pytest

from repot.evaluator import scoring
from repot.evaluator.outcomes import ScoredPicture, make_outcomes
from repot.evaluator.scoring import MAX_PER_PAIR, _KeptPromises, _PairPictures
from repot.metrics import calibration, calibration_error
from repot.model_spec import ModelCalibration, ModelSpec
from tests.unit.evaluator.samples import make_outcome

LABELS = ("cat", "dog", "emu")
PROMISED = ModelCalibration(
    method="drawn",
    num_examples=50,
    error_before=0.1,
    error_after=0.02,
    coverage=0.9,
    set_threshold=0.3,
    mean_set_size=1.4,
    unlike_rate=0.05,
)
LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 0.1, 0.0], [-1.0, 3.0, 1.0], [0.0, 0.0, 2.0]])


def picture(i: int, label: str, predicted: str, probability: float) -> ScoredPicture:
    outcome = dataclasses.replace(make_outcome(i, label, predicted), probability=probability)
    return ScoredPicture(outcome=outcome, jpeg=b"x" * 100)


def kept(pairs: _PairPictures) -> dict[tuple[str, str], list[float]]:
    return {
        pair: [each.outcome.probability for each in pictures]
        for pair, pictures in pairs.pictures().items()
    }


def test_most_confident_mistakes_and_least_confident_right_ones_are_kept() -> None:
    pairs = _PairPictures(has_right=True)
    for i in range(2 * MAX_PER_PAIR):
        pairs.add(i, picture(i, "a", "b", i / 10))
        pairs.add(i, picture(i, "a", "a", i / 10))

    assert kept(pairs) == {("a", "b"): [0.7, 0.6, 0.5, 0.4], ("a", "a"): [0.0, 0.1, 0.2, 0.3]}


def test_right_ones_are_not_kept_with_many_labels() -> None:
    pairs = _PairPictures(has_right=False)
    pairs.add(0, picture(0, "a", "a", 0.5))

    assert kept(pairs) == {}


def test_frequent_pairs_keep_their_pictures_when_all_together_are_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "MAX_PAIR_BYTES", 1000)
    pairs = _PairPictures(has_right=True)
    for i in range(30):
        pairs.add(i, picture(i, "a", "b", 0.5))
        pairs.add(i, picture(i, "a", f"rare {i}", 0.5))
        assert sum(map(len, kept(pairs).values())) <= 10

    assert len(kept(pairs)["a", "b"]) == MAX_PER_PAIR


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_promises_are_counted_over_all_batches() -> None:
    spec = ModelSpec(backbone="", image_size=64, temperature=2.0, calibration=PROMISED)
    promises = _KeptPromises(spec, LABELS)
    truth = ["cat", "cat", "emu", "a label that the model does not have"]
    probabilities = softmax(LOGITS / 2).astype(np.float32)
    unlike = np.array([0.2, 1.5, 1.0, 1.01], np.float32)
    outcomes = make_outcomes(["1", "2", "3", "4"], ["0" * 32] * 4, truth, probabilities, LABELS)
    for rows in (slice(0, 3), slice(3, 4)):
        promises.add(outcomes[rows], probabilities[rows], unlike[rows])

    record = promises.record()

    assert record is not None
    assert record.promised is PROMISED
    # Sets: {cat}, all three, {dog}, {emu}; only the first two have the right label.
    assert (record.num_covered, record.mean_set_size, record.num_empty_sets) == (2, 1.5, 0)
    assert record.num_unlike == 2  # 1 itself is not above 1
    before = softmax(LOGITS).max(axis=1)
    expected = calibration_error(calibration(before, np.array([True, False, False, False])))
    assert record.error_before == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spec", [None, ModelSpec(backbone="", image_size=64)])
def test_model_of_an_earlier_version_promises_nothing(spec: ModelSpec | None) -> None:
    promises = _KeptPromises(spec, LABELS)
    promises.add([], np.empty((0, 3)), np.empty(0))

    assert promises.record() is None
