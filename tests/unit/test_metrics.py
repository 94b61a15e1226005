"""Scores, compared with values computed by hand or published with the formulas."""

import math

import numpy as np
import pytest

from repot import metrics

# Three labels; the true labels rank 1, 2, 3 and 1.
PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5]], dtype=np.float32
)
LABELS = np.array([0, 1, 0, 2])


def test_label_ranks_counts_more_probable_labels() -> None:
    assert metrics.label_ranks(PROBABILITIES, LABELS).tolist() == [1, 2, 3, 1]


def test_label_ranks_breaks_ties_like_argmax() -> None:
    equal = np.full((3, 3), 1 / 3, dtype=np.float32)

    assert metrics.label_ranks(equal, np.array([0, 1, 2])).tolist() == [1, 2, 3]


def test_precision_at_1_is_the_share_of_rank_1() -> None:
    assert metrics.precision_at_1(np.array([1, 2, 3, 1])) == 0.5


@pytest.mark.parametrize(("k", "value"), [(1, 0.5), (2, 0.75), (3, 1.0)])
def test_recall_at_k_includes_rank_k(k: int, value: float) -> None:
    assert metrics.recall_at_k(np.array([1, 2, 3, 1]), k, num_labels=3) == (value, k)


@pytest.mark.parametrize(("num_labels", "k"), [(4, 4), (5, 5), (6, 5)])
def test_recall_at_5_returns_the_number_of_labels_if_there_are_fewer(
    num_labels: int, k: int
) -> None:
    recall = metrics.recall_at_k(np.array([1, num_labels]), 5, num_labels)

    assert recall is not None
    assert recall.k == k
    assert recall.value == (1.0 if num_labels <= 5 else 0.5)


def test_scores_without_examples_are_none() -> None:
    empty = np.array([], dtype=np.int64)

    assert metrics.precision_at_1(empty) is None
    assert metrics.recall_at_k(empty, 5, 3) is None
    assert metrics.calibration_error([]) is None
    assert metrics.calibration_error_by_chance([]) is None


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_agrees_with_newcombe(
    successes: int, n: int, low: float, high: float
) -> None:
    assert metrics.wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_is_symmetric_and_exact_at_0_and_1() -> None:
    low, high = metrics.wilson_interval(29, 29)

    assert high == 1.0
    assert low == pytest.approx(1 - metrics.wilson_interval(0, 29)[1])
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_interval_is_wider_for_higher_confidence() -> None:
    narrow, wide = metrics.wilson_interval(7, 10, 0.5), metrics.wilson_interval(7, 10, 0.99)

    assert wide[0] < narrow[0] < 0.7 < narrow[1] < wide[1]


def test_confusion_matrix_has_true_labels_as_rows() -> None:
    matrix = metrics.confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)

    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_label_scores_by_hand() -> None:
    first, second, third = metrics.label_scores(np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]]))

    assert (first.precision, first.recall, first.f1) == (1 / 2, 1 / 2, 1 / 2)
    assert (second.precision, second.recall, second.f1) == (1 / 2, 1.0, 2 / 3)
    assert (third.precision, third.recall, third.f1) == (None, 0.0, 0.0)


def test_scores_of_a_label_that_never_occurs_are_none() -> None:
    (unused, _) = metrics.label_scores(np.array([[0, 0], [0, 3]]))

    assert (unused.precision, unused.recall, unused.f1) == (None, None, None)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (0, 1, 1.0),
        (5, 5, 1.0),
        # 2 * (1 + 8) / 2**8
        (1, 7, 18 / 256),
        (7, 1, 18 / 256),
        # 2 / 2**6
        (6, 0, 2 / 64),
    ],
)
def test_mcnemar_p_is_twice_the_smaller_binomial_tail(
    only_first: int, only_second: int, p: float
) -> None:
    assert metrics.mcnemar_p(only_first, only_second) == pytest.approx(p, rel=1e-12)


def test_mcnemar_p_of_large_counts_agrees_with_the_normal_distribution() -> None:
    p = metrics.mcnemar_p(4900, 5100)

    # Continuity-corrected: z = (|5100 - 4900| - 1) / sqrt(10000).
    assert p == pytest.approx(math.erfc(1.99 / math.sqrt(2)), rel=1e-3)
    assert metrics.mcnemar_p(0, 5000) == 0.0


def test_paired_difference_by_hand() -> None:
    difference = metrics.paired_difference(1, 7, 21)

    # Bonett and Price: p12 = 2/23, p21 = 8/23, centre 6/23, variance (10/23 - 36/529) / 23.
    margin = 1.959964 * math.sqrt((10 / 23 - 36 / 529) / 23)
    assert difference.value == 6 / 21
    assert difference.interval == pytest.approx((6 / 23 - margin, 6 / 23 + margin), abs=1e-6)


def test_paired_difference_stays_within_one() -> None:
    assert metrics.paired_difference(0, 2, 2).interval[1] == 1.0
    assert metrics.paired_difference(2, 0, 2).interval[0] == -1.0
    assert metrics.paired_difference(0, 0, 0) == (0.0, (-1.0, 1.0))


def test_calibration_puts_a_bin_edge_into_the_lower_bin() -> None:
    confidences = np.array([0.0, 0.5, 0.500001, 1.0])

    bins = metrics.calibration(confidences, np.array([False, True, True, True]), num_bins=2)

    assert [(each.low, each.high, each.num_examples, each.num_correct) for each in bins] == [
        (0.0, 0.5, 2, 1),
        (0.5, 1.0, 2, 2),
    ]
    assert bins[0].mean_probability == 0.25


def test_calibration_omits_empty_bins() -> None:
    bins = metrics.calibration(np.array([0.95, 0.99]), np.array([True, False]))

    assert [(each.low, each.high) for each in bins] == [(0.9, 1.0)]


def test_calibration_error_is_weighted_by_examples() -> None:
    bins = metrics.calibration(np.array([0.6, 0.6, 0.6, 0.9]), np.array([True, True, False, False]))

    # 3/4 * |2/3 - 0.6| + 1/4 * |0 - 0.9|
    assert metrics.calibration_error(bins) == pytest.approx(0.05 + 0.225)


@pytest.mark.parametrize("num_examples", [1, 2, 7, 300])
@pytest.mark.parametrize("probability", [0.0, 0.03, 0.5, 0.97, 1.0])
def test_calibration_error_by_chance_is_the_mean_over_all_outcomes(
    num_examples: int, probability: float
) -> None:
    confidences = np.full(num_examples, probability)
    n = num_examples
    errors = [
        metrics.calibration_error(metrics.calibration(confidences, np.arange(n) < num_correct))
        for num_correct in range(n + 1)
    ]
    chances = [
        math.comb(n, k) * probability**k * (1 - probability) ** (n - k) for k in range(n + 1)
    ]
    expected = sum(chance * (error or 0.0) for chance, error in zip(chances, errors, strict=True))

    bins = metrics.calibration(confidences, np.zeros(n, np.bool_))

    assert metrics.calibration_error_by_chance(bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_by_chance_is_what_a_perfectly_calibrated_model_shows() -> None:
    rng = np.random.default_rng(0)
    errors, by_chance = [], []
    for _ in range(300):
        confidences = 1 - 0.8 * rng.random(40) ** 2
        bins = metrics.calibration(confidences, rng.random(40) < confidences)
        errors.append(metrics.calibration_error(bins) or 0.0)
        by_chance.append(metrics.calibration_error_by_chance(bins) or 0.0)

    assert np.mean(by_chance) == pytest.approx(np.mean(errors), rel=0.05)
    assert np.mean(by_chance) > 0.1


def test_interval_of_macro_scores_combines_those_of_the_labels() -> None:
    one = [metrics.LabelScore(num_examples=50, num_predicted=45, num_correct=40)]
    assert metrics.macro_recall_interval(one) == pytest.approx(metrics.wilson_interval(40, 50))
    low, high = metrics.wilson_interval(40, 55)
    expected = (2 * low / (1 + low), 2 * high / (1 + high))
    assert metrics.macro_f1_interval(one) == pytest.approx(expected)

    # Four labels alike: the same mean, and half of the width.
    four_low, four_high = metrics.macro_recall_interval(one * 4)
    low, high = metrics.wilson_interval(40, 50)
    assert 0.8 - four_low == pytest.approx((0.8 - low) / 2)
    assert four_high - 0.8 == pytest.approx((high - 0.8) / 2)
    empty = metrics.LabelScore(num_examples=0, num_predicted=0, num_correct=0)
    assert metrics.macro_recall_interval([*one, empty]) == metrics.macro_recall_interval(one)


def test_interval_of_macro_recall_contains_the_true_value_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    recalls, sizes = np.array([0.95, 0.8, 0.6, 0.3]), np.array([100, 30, 15, 8])
    covered = 0
    for correct in rng.binomial(sizes, recalls, size=(1000, 4)):
        scores = [
            metrics.LabelScore(num_examples=int(n), num_predicted=int(n), num_correct=int(k))
            for n, k in zip(sizes, correct, strict=True)
        ]
        low, high = metrics.macro_recall_interval(scores)
        covered += low <= recalls.mean() <= high
    assert 0.93 <= covered / 1000 <= 0.98


def test_prediction_set_has_the_labels_from_the_threshold_on() -> None:
    probabilities = np.array([[0.6, 0.3, 0.1], [0.4, 0.4, 0.2], [0.29, 0.31, 0.4]])

    assert metrics.prediction_sets(probabilities, 0.3).tolist() == [
        [True, True, False],
        [True, True, False],
        [False, True, True],
    ]
    assert metrics.prediction_sets(probabilities, 0.0).all()
    assert not metrics.prediction_sets(probabilities, 0.7).any()


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 times 4, 3, 2, 1; never below an earlier one.
    assert metrics.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert metrics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert metrics.holm([]) == []


def excess(*strata: tuple[int, int, int, int]) -> float | None:
    return metrics.stratified_excess(*(np.array(each) for each in zip(*strata, strict=True)))


def test_excess_of_one_stratum_is_fishers_exact_test() -> None:
    # Fisher's lady tasting tea: 3 or 4 of her 4 cups right, of 8 cups with 4 of each kind.
    assert excess((4, 3, 8, 4)) == pytest.approx(17 / 70)
    assert excess((4, 4, 8, 4)) == pytest.approx(1 / 70)
    assert excess((4, 0, 8, 4)) == pytest.approx(1.0)


def test_excess_over_strata_is_the_sum_of_their_counts() -> None:
    # Two strata with one mark among two items: 0, 1 or 2 marks with 1/4, 1/2, 1/4.
    assert excess((1, 1, 2, 1), (1, 1, 2, 1)) == pytest.approx(1 / 4)
    assert excess((1, 1, 2, 1), (1, 0, 2, 1)) == pytest.approx(3 / 4)
    # A stratum inside of the group, or without a mark, says nothing.
    assert excess((1, 1, 2, 1), (9, 9, 9, 9), (3, 0, 7, 0)) == pytest.approx(1 / 2)


@pytest.mark.parametrize("stratum", [(3, 1, 3, 1), (0, 0, 5, 2), (2, 0, 5, 0), (2, 2, 5, 5)])
def test_excess_that_cannot_be_told_is_none(stratum: tuple[int, int, int, int]) -> None:
    assert excess(stratum) is None


def test_excess_of_many_items_is_normal_and_agrees_with_the_exact_sum() -> None:
    # Just below and above a variance of 25, where the formula changes.
    below = excess(*[(50, 6, 100, 10)] * 11)
    above = excess(*[(50, 6, 100, 10)] * 12)
    assert below is not None
    assert above is not None
    assert 0.01 < above < below < 0.02
    # One in a hundred thousand strata.
    assert excess(*[(1, 1, 2, 1)] * 100_000) == pytest.approx(0.0, abs=1e-9)


def test_excess_is_rarely_small_by_chance() -> None:
    rng = np.random.default_rng(0)
    is_inside = rng.random((400, 60)) < 0.3
    strata = np.arange(60) % 5
    small = 0
    for row in is_inside:
        marked = rng.random(60) < 0.1 + 0.15 * strata  # Strata differ, the group does not.
        counts = [
            np.bincount(strata[chosen], minlength=5)
            for chosen in (row, row & marked, np.ones(60, bool), marked)
        ]
        p_value = metrics.stratified_excess(*counts)
        small += p_value is not None and p_value <= 0.05
    assert small <= 0.07 * 400
