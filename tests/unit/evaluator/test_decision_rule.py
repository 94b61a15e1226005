"""The gate's decision rule: exact error rates, spending, pictures needed, selection."""

import math

import numpy as np
import pytest
from benchmarks import gate

from repot.evaluator.decision_rule import (
    MARGIN,
    YEARLY_ERROR,
    PairedCounts,
    Pairing,
    correct_selection,
    decide_comparison,
    next_alpha,
    num_needed,
    p_not_worse,
)

STEADY = 365
"""Earlier comparisons after which the level hardly changes any more."""


def counts(only_champion: int, only_challenger: int, num_compared: int) -> PairedCounts:
    return PairedCounts(
        only_champion=only_champion, only_challenger=only_challenger, num_compared=num_compared
    )


@pytest.mark.parametrize("margin", [0.01, 0.04])
@pytest.mark.parametrize("num_pictures", [25, 40])
def test_p_value_is_exact_for_every_discordance(num_pictures: int, margin: float) -> None:
    p_values = {
        (b, c): p_not_worse(counts(b, c, num_pictures), margin)
        for b in range(num_pictures + 1)
        for c in range(b + 1, num_pictures + 1 - b)
    }
    for discordance in np.linspace(margin, 1, 25):
        # A challenger that is worse by exactly the margin.
        worse, better = (discordance + margin) / 2, (discordance - margin) / 2
        same = 1 - discordance
        probability = {
            (b, c): math.comb(num_pictures, b)
            * math.comb(num_pictures - b, c)
            * worse**b
            * better**c
            * same ** (num_pictures - b - c)
            for b, c in p_values
        }
        for level in (0.05, 0.005, 1e-4, 1e-5):
            error = math.fsum(probability[each] for each, p in p_values.items() if p <= level)
            assert error <= level


def test_more_pictures_that_only_the_challenger_gets_right_never_raise_the_p_value() -> None:
    p_values = [p_not_worse(counts(20 - c, c, 300)) for c in range(21)]

    assert p_values == sorted(p_values, reverse=True)
    assert p_values[:11] == [1.0] * 11


@pytest.mark.parametrize(
    ("only_champion", "only_challenger", "num_compared"),
    [(0, 0, 200), (7, 7, 200), (0, 1, 200), (10, 11, 500), (0, 4, 40), (3, 0, 40), (9, 4, 200)],
)
def test_tie_or_small_difference_is_undecided_and_states_how_many_pictures_are_needed(
    only_champion: int, only_challenger: int, num_compared: int
) -> None:
    result = decide_comparison(counts(only_champion, only_challenger, num_compared), next_alpha(0))

    assert result.ruling == "undecided"
    assert result.num_needed is not None
    assert num_compared < result.num_needed < 100_000
    low, high = result.interval
    assert low < 0 < high


def test_clear_differences_are_decided_at_the_first_comparison_and_after_a_year() -> None:
    for num_earlier in (0, STEADY):
        assert decide_comparison(counts(3, 30, 500), next_alpha(num_earlier)).ruling == "better"
        worse = decide_comparison(counts(30, 3, 500), next_alpha(num_earlier))
        assert (worse.ruling, worse.num_needed) == ("worse", None)


def test_first_comparisons_have_a_higher_level() -> None:
    # Ten pictures of forty, all in favour of the challenger.
    assert decide_comparison(counts(0, 10, 40), next_alpha(0)).ruling == "better"
    assert decide_comparison(counts(0, 10, 40), next_alpha(STEADY)).ruling == "undecided"


def test_levels_of_any_year_of_comparisons_add_up_to_the_yearly_error_at_most() -> None:
    for per_year in (1, 2, 12, 52, 365, 5000):
        levels = [next_alpha(t, per_year) for t in range(per_year + 800)]
        for first in (0, 1, 7, 800):
            assert math.fsum(levels[first : first + per_year]) <= YEARLY_ERROR * (1 + 1e-9)
        assert min(levels) >= 0.8 * YEARLY_ERROR / per_year


def test_a_version_as_good_as_seen_is_promoted_with_the_stated_number_of_pictures() -> None:
    seen = counts(10, 16, 400)
    alpha = next_alpha(STEADY)
    needed = num_needed(seen, alpha)
    rng = np.random.default_rng(0)
    shares = [10 / 400, 16 / 400, 374 / 400]

    wins = [
        p_not_worse(counts(int(b), int(c), needed)) <= alpha
        for b, c, _ in rng.multinomial(needed, shares, size=60)
    ]

    assert decide_comparison(seen, next_alpha(STEADY)).num_needed == needed
    assert 0.65 <= np.mean(wins) <= 1


def test_impossible_counts_raise_an_error() -> None:
    with pytest.raises(ValueError, match="add up to at most num_compared"):
        counts(3, 4, 6)


def test_selection_correction_moves_a_score_to_the_mean_by_the_share_of_noise() -> None:
    # Difference .1, noise 20 / 100**2 / 2 = .001, variance of (0, -.1) = .005: a fifth of .05.
    pairing = Pairing(champion="a", challenger="b", counts=counts(5, 15, 100))

    assert correct_selection("b", [pairing]) == pytest.approx(-0.05 / 5)
    assert correct_selection("a", [pairing]) == pytest.approx(+0.05 / 5)
    assert correct_selection("c", [pairing]) == 0.0
    assert correct_selection("b", []) == 0.0


def test_selection_correction_follows_a_chain_of_champions() -> None:
    chain = [
        Pairing(champion="a", challenger="b", counts=counts(0, 10, 100)),
        Pairing(champion="b", challenger="c", counts=counts(0, 10, 100)),
        Pairing(champion="x", challenger="y", counts=counts(0, 90, 100)),
    ]

    # Scores relative to c: 0, -.1, -.2; variance .01, noise .0005.
    assert correct_selection("c", chain) == pytest.approx(-0.1 * 0.0005 / 0.01)


def test_versions_that_differ_by_noise_alone_get_their_mean() -> None:
    pairings = [
        Pairing(champion="a", challenger=f"v{i}", counts=counts(10, 10 + gain, 200))
        for i, gain in enumerate((-2, 1, 2, 0, -1, 3))
    ]

    assert correct_selection("v5", pairings) == pytest.approx((3 / 7 - 3) / 200)


def test_simulated_years_keep_what_the_rule_promises() -> None:
    levels = np.array([next_alpha(night) for night in range(365)])
    before, *_, rule = gate.rules(200, levels)
    assert (before.name, rule.name) == ("as many right (before)", "repot")

    old, new = (
        gate.simulate(each, 200, deviation=MARGIN, years=200, seed=1) for each in (before, rule)
    )

    assert old["bad"] > 0.4
    assert new["bad"] <= YEARLY_ERROR
    assert abs(old["bias"]) > 0.01
    assert abs(new["bias"]) < 0.005
    assert new["promotions"] > 0.1
    *_, rule = gate.rules(500, levels)
    assert gate.power(rule, 500, gain=0.03, first_night=200, years=1000, seed=1) >= 0.8
