"""The table of outcomes: comparison by label name, and CSV that comes back as it was."""

from pathlib import Path

import numpy as np
import pytest

from repot.errors import DataError
from repot.evaluator.outcomes import Outcome, outcomes_of, read_outcomes, write_outcomes

PROBABILITIES = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.0, 0.0, 1.0]], dtype=np.float32)


def test_outcomes_are_matched_by_name_whatever_the_order_of_the_labels() -> None:
    said = outcomes_of(["a", "b", "c"], ["cat", "dog", "dog"], PROBABILITIES, ["dog", "cat", "cow"])

    assert [(one.guess, one.label_rank, one.correct) for one in said] == [
        ("cat", 1, True),
        ("dog", 1, True),
        ("cow", 2, False),
    ]
    assert said[0].probability == said[0].label_probability == pytest.approx(0.7)


def test_label_that_the_model_does_not_have_is_never_right() -> None:
    (one, *_) = outcomes_of(
        ["a", "b", "c"], ["fox", "dog", "dog"], PROBABILITIES, ["dog", "cat", "cow"]
    )

    assert (one.guess, one.label_rank, one.label_probability) == ("cat", 4, 0.0)


def test_probability_that_was_rounded_to_zero_has_a_logarithm() -> None:
    (*_, one) = outcomes_of(
        ["a", "b", "c"], ["dog", "dog", "dog"], PROBABILITIES, ["dog", "cat", "cow"]
    )

    assert one.label_probability > 0


def test_outcomes_come_back_from_csv_as_they_were(tmp_path: Path) -> None:
    outcomes = [
        Outcome(
            filename=name,
            label='a "quoted", label',
            guess="é花",
            probability=1 / 3,
            label_probability=1e-38,
            label_rank=2,
        )
        for name in ("plain.jpg", "a,b.jpg", "line\nbreak.jpg", "carriage\rreturn.jpg")
    ]

    write_outcomes(str(tmp_path / "predictions.csv"), outcomes)

    assert read_outcomes(str(tmp_path / "predictions.csv")) == outcomes


def test_csv_with_other_columns_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")

    with pytest.raises(DataError, match=r"other\.csv must have the columns filename, label"):
        read_outcomes(str(tmp_path / "other.csv"))
