"""Which pictures are kept while a split is scored."""

import dataclasses

import pytest

from repot.evaluator import scoring
from repot.evaluator.outcomes import ScoredPicture
from repot.evaluator.scoring import MAX_PER_PAIR, _PairPictures
from tests.unit.evaluator.samples import make_outcome


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
