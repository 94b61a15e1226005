"""Chance, labels that are never found, and labels that are lost."""

import random

import pytest

from repot.evaluator.comparison import judge
from repot.evaluator.floors import check_chance, find_lost, find_missed
from repot.evaluator.outcomes import Outcome
from repot.evaluator.verdict import Verdict
from repot.settings import GateSettings
from tests.unit.evaluator.samples import make_outcome


def predict(*pairs: tuple[str, str, int]) -> list[Outcome]:
    """Return outcomes from (label, predicted label, number)."""
    rows = [(label, predicted) for label, predicted, count in pairs for _ in range(count)]
    return [make_outcome(i, label, predicted) for i, (label, predicted) in enumerate(rows)]


def judge_first(outcomes: list[Outcome], **settings: object) -> Verdict:
    return judge(
        outcomes,
        None,
        model_name="m",
        version="new",
        champion_version="none",
        settings=GateSettings(**settings),  # type: ignore[arg-type]
        decided_at="2026-11-27T14:05:00Z",
    )


def judge_against(champion: list[Outcome], challenger: list[Outcome]) -> Verdict:
    return judge(
        challenger,
        champion,
        model_name="m",
        version="new",
        champion_version="old",
        settings=GateSettings(),
        decided_at="2026-11-27T14:05:00Z",
    )


# A fifth of 5,000 and of 5 pictures.
RARE_NEVER_FOUND = predict(("common", "common", 1000), ("rare", "common", 1))


def test_model_that_never_finds_the_rare_label_is_not_promoted_unless_allowed() -> None:
    verdict = judge_first(RARE_NEVER_FOUND)
    allowed = judge_first(RARE_NEVER_FOUND, allow_poor_model=True)

    assert verdict.challenger.precision_at_1 > 0.998
    assert verdict.challenger.macro_recall == 0.5
    assert verdict.decision == "reject"
    assert "is not above chance" in verdict.headline
    assert any(
        "never finds the label 'rare' (0 of 1 right [0.00, 0.79])" in each
        for each in verdict.reasons
    )
    assert [each.label for each in verdict.missed_labels] == ["rare"]
    assert "--allow-poor-model" in verdict.reasons[0]
    assert allowed.decision == "promote"


def test_sixty_randomly_filled_labels_are_not_promoted() -> None:
    draw = random.Random(0)
    labels = [f"label {i}" for i in range(60)]
    pairs = [(draw.choice(labels), draw.choice(labels), 1) for _ in range(600)]

    verdict = judge_first(predict(*pairs))

    assert verdict.challenger.precision_at_1 < 0.03
    assert verdict.decision == "reject"
    assert "is not above chance" in verdict.headline


@pytest.mark.parametrize(
    "pairs",
    [
        [("a", "a", 95), ("b", "a", 5)],
        [("a", "a", 50), ("b", "a", 50)],
        [("a", "a", 45), ("a", "b", 5), ("b", "a", 45), ("b", "b", 5)],
        [("a", "b", 2), ("b", "a", 2)],
        [("a", "a", 3), ("b", "a", 1)],
    ],
)
def test_predictions_that_ignore_the_picture_are_not_better_than_chance(
    pairs: list[tuple[str, str, int]],
) -> None:
    assert not check_chance(predict(*pairs)).is_better


@pytest.mark.parametrize(
    "pairs",
    [
        # Finds three of five rare pictures, at the cost of one mistake.
        [("a", "a", 94), ("a", "b", 1), ("b", "b", 3), ("b", "a", 2)],
        [("a", "a", 9), ("b", "b", 9), ("a", "b", 1), ("b", "a", 1)],
        # Too few for a test, but nothing is wrong.
        [("a", "a", 2), ("b", "b", 2)],
        [("a", "a", 1), ("b", "b", 1)],
    ],
)
def test_informed_predictions_are_better_than_chance(pairs: list[tuple[str, str, int]]) -> None:
    assert check_chance(predict(*pairs)).is_better


def test_chance_may_explain_a_missed_label_with_one_picture_among_many_labels() -> None:
    labels = [f"label {i}" for i in range(60)]
    pairs = [(label, label if i % 5 else "label 0", 1) for i, label in enumerate(labels)]

    missed, is_chance = find_missed(predict(*pairs))

    assert len(missed) == 11
    assert is_chance
    verdict = judge_first(predict(*pairs))
    assert verdict.decision == "promote"
    assert any("With so few pictures, that may be chance." in each for each in verdict.reasons)


@pytest.mark.parametrize("num_pictures", [2, 3, 10])
def test_missed_label_is_not_explained_by_chance(num_pictures: int) -> None:
    outcomes = predict(("a", "a", 20), ("b", "b", 20), ("c", "a", num_pictures))

    missed, is_chance = find_missed(outcomes)

    assert [each.label for each in missed] == ["c"]
    assert not is_chance
    verdict = judge_first(outcomes)
    assert verdict.decision == "reject"
    assert verdict.headline.startswith(
        f"Not promoted: it never finds the label 'c' (0 of {num_pictures} right [0.00, 0."
    )


def test_label_that_the_champion_recognises_must_not_be_lost() -> None:
    champion = predict(("a", "a", 300), ("a", "b", 100), ("c", "c", 30))
    challenger = predict(("a", "a", 400), ("c", "a", 20), ("c", "c", 10))

    verdict = judge_against(champion, challenger)

    # It gets 80 more right in all.
    assert verdict.comparison is not None
    assert verdict.comparison.rule is not None
    assert verdict.comparison.rule.ruling == "better"
    assert verdict.decision == "reject"
    assert verdict.headline == (
        "Not promoted: it is worse than the champion on 'c' (10 of 30 right [0.19, 0.51], the "
        "champion 30 of 30 right [0.89, 1.00])."
    )


def test_label_that_the_champion_does_not_find_either_does_not_protect_the_champion() -> None:
    champion = predict(("a", "a", 60), ("a", "b", 40), ("b", "b", 100), ("c", "a", 10))
    challenger = predict(("a", "a", 100), ("b", "b", 100), ("c", "a", 10))

    verdict = judge_against(champion, challenger)

    assert verdict.decision == "promote"
    assert [each.label for each in verdict.missed_labels] == ["c"]


def test_of_many_labels_some_are_worse_by_chance() -> None:
    """Holm's correction: the same loss decides alone, but not among two hundred labels."""

    def both(num_others: int) -> tuple[list[Outcome], list[Outcome]]:
        others = [(f"label {i}", f"label {i}", 1) for i in range(num_others)]
        return (
            predict(("a", "a", 8), *others),
            predict(("a", "b", 7), ("a", "a", 1), *others),
        )

    assert [each.label for each in find_lost(*both(1))] == ["a"]
    assert find_lost(*both(200)) == []


def test_false_losses_are_rare_with_any_number_of_labels() -> None:
    draw = random.Random(1)
    false = 0
    for _ in range(200):
        rows = [(i % 20, draw.random() < 0.8, draw.random() < 0.8) for i in range(400)]
        old, new = (
            [
                make_outcome(i, f"l{row[0]}", f"l{row[0]}" if row[k] else "x")
                for i, row in enumerate(rows)
            ]
            for k in (1, 2)
        )
        false += bool(find_lost(old, new))
    assert false <= 200 * 0.05
