"""Slices: which there are, how they compare, and what chance explains."""

import random

import pytest

from repot.evaluator.outcomes import Outcome
from repot.evaluator.report.data import SliceRecord, SliceSummary
from repot.evaluator.slices import MAX_VALUES, MIN_PICTURES, compare_slices
from tests.unit.evaluator.samples import make_outcome


def outcomes_of(labels: str, right: str) -> list[Outcome]:
    """Return an outcome per letter of `labels`; right where `right` has a 1."""
    return [
        make_outcome(i, label, label if mark == "1" else "other")
        for i, (label, mark) in enumerate(zip(labels, right, strict=True))
    ]


def compare(outcomes: list[Outcome], **columns: list[str]) -> SliceSummary:
    summary = compare_slices(outcomes, columns)
    assert summary is not None
    return summary


def test_bad_slice_comes_first_with_its_numbers() -> None:
    outcomes = outcomes_of("a" * 40, "1" * 5 + "0" * 5 + "1" * 30)

    summary = compare(outcomes, camera=["old"] * 10 + ["new"] * 30)

    first, second = summary.slices
    assert (first.column, first.value, first.num_examples, first.num_correct) == (
        *("camera", "old"),
        *(10, 5),
    )
    assert (first.precision_at_1, first.others) == (0.5, 1.0)
    assert first.interval[0] < 0.5 < first.interval[1]
    # Fisher: C(10, 5) / C(40, 5), times two slices.
    assert first.p_value == pytest.approx(2 * 252 / 658_008)
    assert first.is_worse
    assert (second.value, second.p_value, second.is_worse) == ("new", 1.0, False)
    assert summary.num_tested == 2


def test_slice_of_a_hard_label_is_not_worse() -> None:
    # All mistakes are of b; the old camera has nearly all of b, but does no worse there.
    outcomes = outcomes_of("a" * 30 + "b" * 20, "1" * 30 + "01" * 10)
    camera = ["new"] * 30 + ["old"] * 16 + ["new"] * 4

    old = next(each for each in compare(outcomes, camera=camera).slices if each.value == "old")

    assert old.precision_at_1 == 0.5
    assert old.others == 0.5
    assert not old.is_worse
    assert old.p_value == 1.0


def test_p_values_are_corrected_for_the_number_of_slices() -> None:
    outcomes = outcomes_of("a" * 40, "1" * 5 + "0" * 5 + "1" * 30)
    camera = ["old"] * 10 + ["new"] * 30
    others = {f"column {i}": ["x", "y"] * 20 for i in range(100)}

    alone, among_many = compare(outcomes, camera=camera), compare(outcomes, camera=camera, **others)

    assert among_many.num_tested == 202
    assert alone.slices[0].p_value is not None
    assert among_many.slices[0].p_value == pytest.approx(101 * alone.slices[0].p_value)
    assert alone.slices[0].is_worse
    assert not among_many.slices[0].is_worse


def test_slices_that_are_no_worse_are_rarely_called_worse() -> None:
    rng = random.Random(0)
    num_wrong_calls = 0
    for _ in range(100):
        outcomes = outcomes_of(
            "".join(rng.choice("ab") for _ in range(80)),
            "".join("1" if rng.random() < 0.8 else "0" for _ in range(80)),
        )
        columns = {name: [rng.choice("uvwxyz") for _ in range(80)] for name in "pqrs"}
        num_wrong_calls += any(each.is_worse for each in compare(outcomes, **columns).slices)
    assert num_wrong_calls <= 9  # 5 % are promised; 10 or more have a probability of 3 %.


def test_column_that_is_the_label_is_left_out() -> None:
    outcomes = outcomes_of("a" * 10 + "b" * 10, "10" * 10)

    assert compare_slices(outcomes, {"folder": ["a"] * 10 + ["b"] * 10}) is None
    assert compare_slices(outcomes, {"folder": [""] * 20, "format": ["JPEG"] * 20}) is None


@pytest.mark.parametrize("count", [MIN_PICTURES - 1, MIN_PICTURES])
def test_small_slices_are_left_out(count: int) -> None:
    outcomes = outcomes_of("a" * 30, "10" * 15)

    summary = compare(outcomes, camera=["few"] * count + ["many"] * (30 - count))

    assert ("few" in {each.value for each in summary.slices}) == (count == MIN_PICTURES)


@pytest.mark.parametrize("num_values", [MAX_VALUES, MAX_VALUES + 1])
def test_column_has_slices_of_its_most_frequent_values(num_values: int) -> None:
    camera = [f"c{i}" for i in range(num_values) for _ in range(MIN_PICTURES + (i > 0))]
    outcomes = outcomes_of("a" * len(camera), ("10" * len(camera))[: len(camera)])

    values = {each.value for each in compare(outcomes, camera=camera).slices}

    assert len(values) == MAX_VALUES
    assert ("c0" in values) == (num_values == MAX_VALUES)


def test_numbers_are_divided_into_quarters() -> None:
    outcomes = outcomes_of("a" * 40, "0" * 10 + "1" * 30)

    slices = compare(outcomes, age=[str(i) for i in range(40)]).slices

    assert [(each.value, each.num_examples) for each in slices[:1]] == [("below 9", 9)]
    assert {each.value for each in slices} == {
        *("below 9", "9 to below 19", "19 to below 29", "29 and more"),
    }


def test_few_numbers_are_categories_and_unknown_values_no_slice() -> None:
    outcomes = outcomes_of("a" * 20, "10" * 10)

    slices = compare(outcomes, year=["2024", "2025", ""] * 6 + ["2024"] * 2).slices

    assert {(each.value, each.num_examples) for each in slices} == {("2024", 8), ("2025", 6)}


def test_summary_round_trips_through_json() -> None:
    summary = compare(outcomes_of("a" * 20, "10" * 10), camera=["x", "y"] * 10)

    assert SliceSummary.from_json(summary.to_json()) == summary
    assert isinstance(summary.slices[0], SliceRecord)
