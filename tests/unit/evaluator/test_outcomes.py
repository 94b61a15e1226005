"""predictions.csv: comparison by label name, and CSV that round-trips."""

from pathlib import Path

import numpy as np
import pytest

from repot.errors import DataError
from repot.evaluator.outcomes import Outcome, make_outcomes, read_outcomes, write_outcomes

PROBABILITIES = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.0, 0.0, 1.0]], dtype=np.float32)
DIGESTS = [f"{i:032x}" for i in range(3)]
MODEL_LABELS = ["dog", "cat", "cow"]


def _make_outcomes(true_labels: list[str]) -> list[Outcome]:
    return make_outcomes(["a", "b", "c"], DIGESTS, true_labels, PROBABILITIES, MODEL_LABELS)


def test_labels_are_matched_by_name_in_any_order() -> None:
    outcomes = make_outcomes(
        ["a", "b", "c"], DIGESTS, ["cat", "dog", "dog"], PROBABILITIES, MODEL_LABELS
    )

    assert [(each.predicted, each.label_rank, each.correct) for each in outcomes] == [
        ("cat", 1, True),
        ("dog", 1, True),
        ("cow", 2, False),
    ]
    assert [each.digest for each in outcomes] == DIGESTS
    assert outcomes[0].probability == outcomes[0].label_probability == pytest.approx(0.7)


def test_label_unknown_to_the_model_is_a_mistake() -> None:
    (first, *_) = make_outcomes(
        ["a", "b", "c"], DIGESTS, ["fox", "dog", "dog"], PROBABILITIES, MODEL_LABELS
    )

    assert (first.predicted, first.label_rank, first.label_probability) == ("cat", 4, 0.0)


def test_probability_rounded_to_zero_stays_positive() -> None:
    (*_, last) = make_outcomes(
        ["a", "b", "c"], DIGESTS, ["dog", "dog", "dog"], PROBABILITIES, MODEL_LABELS
    )

    assert last.label_probability > 0


def test_outcomes_round_trip_through_csv(tmp_path: Path) -> None:
    outcomes = [
        Outcome(
            filename=name,
            digest="0" * 32,
            label='a "quoted", label',
            predicted="é花",
            probability=1 / 3,
            label_probability=1e-38,
            label_rank=2,
        )
        for name in (
            "plain.jpg",
            "a,b.jpg",
            "line\nbreak.jpg",
            "carriage\rreturn.jpg",
            "=1+1.jpg",
            "'a.jpg",
        )
    ]

    write_outcomes(str(tmp_path / "predictions.csv"), outcomes)

    assert read_outcomes(str(tmp_path / "predictions.csv")) == outcomes


def test_csv_with_other_columns_raises_an_error_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")

    with pytest.raises(DataError, match=r"other\.csv must have the columns filename, digest, "):
        read_outcomes(str(tmp_path / "other.csv"))
