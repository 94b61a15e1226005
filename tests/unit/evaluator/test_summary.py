"""Scores from outcomes: each worked out by hand."""

import math

import pytest

from repot.evaluator.outcomes import Outcome
from repot.evaluator.summary import confusion_of, summarise


def outcome(
    label: str, guess: str, probability: float, label_probability: float, rank: int
) -> Outcome:
    return Outcome(
        filename="x.jpg",
        label=label,
        guess=guess,
        probability=probability,
        label_probability=label_probability,
        label_rank=rank,
    )


OUTCOMES = [
    outcome("a", "a", 0.8, 0.8, 1),
    outcome("a", "b", 0.6, 0.3, 2),
    outcome("b", "b", 0.9, 0.9, 1),
    outcome("c", "a", 0.5, 0.1, 6),
]
LABELS = list("abcdef")


def test_summarise_by_hand() -> None:
    facts = summarise(OUTCOMES, LABELS)

    assert facts["num_examples"] == 4
    assert facts["num_correct"] == 2
    assert facts["precision_at_1"] == 0.5
    assert facts["precision_at_1_interval"] == pytest.approx([0.15004, 0.84996], abs=1e-5)
    assert (facts["recall_at_5"], facts["recall_k"]) == (0.75, 5)
    assert facts["loss"] == pytest.approx(-math.log(0.8 * 0.3 * 0.9 * 0.1) / 4)
    assert facts["labels"] == LABELS


def test_summarise_scores_every_label_by_name() -> None:
    by_label = {row["label"]: row for row in summarise(OUTCOMES, LABELS)["per_class"]}

    assert by_label["a"] == {
        "label": "a",
        "num_examples": 2,
        "num_guessed": 2,
        "num_correct": 1,
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
    }
    assert by_label["c"]["precision"] is None
    assert by_label["f"]["f1"] is None


def test_confusion_of_gives_back_the_matrix() -> None:
    facts = summarise(OUTCOMES, ["a", "b", "c"])

    assert facts["confusion_matrix"] == {"a": {"a": 1, "b": 1}, "b": {"b": 1}, "c": {"a": 1}}
    assert confusion_of(facts).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_loss_is_none_when_a_label_is_none_of_the_models() -> None:
    assert summarise([*OUTCOMES, outcome("x", "a", 0.5, 0.0, 7)], [*LABELS, "x"])["loss"] is None


def test_calibration_is_summed_up() -> None:
    calibration = summarise(OUTCOMES, LABELS)["calibration"]

    # Bins (0.4, 0.5], (0.5, 0.6], (0.7, 0.8], (0.8, 0.9] with one example each.
    assert [each["num_examples"] for each in calibration["bins"]] == [1, 1, 1, 1]
    assert calibration["error"] == pytest.approx((0.5 + 0.6 + 0.2 + 0.1) / 4)
