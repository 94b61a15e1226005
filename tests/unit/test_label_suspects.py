"""The model of wrong labels: it finds their share, and its probabilities are right."""

import numpy as np
import pytest

from repot.label_suspects import (
    MIN_MEAN_CONFIDENCE,
    FloatArray,
    IntArray,
    LabelSuspects,
    choose_suspects,
    fit_label_noise,
    judge_labels,
)

NUM_LABELS = 6


def _given_labels(
    *, rate: float, spread: float, num_pictures: int = 4000
) -> tuple[FloatArray, IntArray, IntArray]:
    """Return logits, true labels and given labels, drawn from the model itself.

    Args:
        rate: Share of labels that are drawn at random.
        spread: Standard deviation of the logits: the larger, the easier the pictures.
        num_pictures: Number of pictures.
    """
    rng = np.random.default_rng(0)
    logits = spread * rng.normal(size=(num_pictures, NUM_LABELS))
    powers = np.exp(logits)
    ends = np.cumsum(powers / powers.sum(axis=1, keepdims=True), axis=1)
    true = (rng.random((num_pictures, 1)) > ends).sum(axis=1)
    is_random = rng.random(num_pictures) < rate
    given = np.where(is_random, rng.integers(0, NUM_LABELS, num_pictures), true)
    return logits, true, given


@pytest.mark.parametrize("rate", [0.02, 0.06, 0.2])
@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_rate_and_temperature_are_found(rate: float, scale: float) -> None:
    logits, _, given = _given_labels(rate=rate, spread=8.0)

    noise = fit_label_noise(scale * logits, given)

    assert noise.rate == pytest.approx(rate, abs=0.012)
    assert noise.temperature == pytest.approx(scale, rel=0.25)


@pytest.mark.parametrize("spread", [2.0, 8.0])
def test_confidence_is_the_probability_of_a_wrong_label(spread: float) -> None:
    logits, true, given = _given_labels(rate=0.1, spread=spread, num_pictures=40_000)

    judged = judge_labels(logits, given, fit_label_noise(logits, given))

    is_wrong = true != given
    assert judged.confidence.sum() == pytest.approx(is_wrong.sum(), rel=0.15)
    for low, high in ((0.05, 0.3), (0.3, 0.6), (0.6, 1.0)):
        inside = (judged.confidence >= low) & (judged.confidence < high)
        if inside.sum() > 200:
            mean = judged.confidence[inside].mean()
            assert is_wrong[inside].mean() == pytest.approx(mean, abs=0.08)


def test_list_has_wrong_labels_of_easy_pictures_and_few_of_hard_ones() -> None:
    shares = {}
    for spread in (1.0, 8.0):
        logits, true, given = _given_labels(rate=0.06, spread=spread)
        noise = fit_label_noise(logits, given)
        found = choose_suspects(judge_labels(logits, given, noise), given, noise=noise)
        is_wrong = true != given
        hits = [is_wrong[suspect.number] for suspect in found.suspects]
        shares[spread] = sum(hits) / is_wrong.sum()
        if hits:
            assert np.mean(hits) > MIN_MEAN_CONFIDENCE - 0.1
        confidences = [suspect.confidence for suspect in found.suspects]
        assert confidences == sorted(confidences, reverse=True)
        assert LabelSuspects.from_text(found.to_text()) == found
    assert shares[8.0] > 0.85
    assert shares[1.0] < 0.1


def test_likely_label_is_the_most_probable_other_one() -> None:
    logits = np.array([[0.0, 9.0, 5.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]] * 40)
    given = np.array([0, 0, 2] * 40)
    given[3] = 1

    noise = fit_label_noise(logits, given)
    judged = judge_labels(logits, given, noise)

    assert judged.likely[:4].tolist() == [1, 1, 0, 2]


def test_rows_that_are_not_judged_are_not_listed() -> None:
    logits, _, given = _given_labels(rate=0.06, spread=8.0)
    noise = fit_label_noise(logits, given)
    judged = judge_labels(logits, given, noise)
    is_judged = np.arange(len(given)) % 2 == 0

    found = choose_suspects(
        judged, given, noise=noise, numbers=np.arange(len(given)) + 7, is_judged=is_judged
    )

    assert found.num_judged == 2000
    assert found.suspects
    assert {(suspect.number - 7) % 2 for suspect in found.suspects} == {0}


def test_correct_labels_of_easy_pictures_give_no_list() -> None:
    logits, _, given = _given_labels(rate=0.0, spread=30.0, num_pictures=300)

    noise = fit_label_noise(logits, given)
    found = choose_suspects(judge_labels(logits, given, noise), given, noise=noise)

    assert len(found.suspects) <= 1
    assert (
        choose_suspects(judge_labels(logits[:0], given[:0], noise), given[:0], noise=noise).suspects
        == ()
    )
