"""Scores of an evaluation, compared with values computed by hand."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from repot.evaluation_record import ClassRecord, EvaluationRecord
from repot.evaluator.outcomes import Outcome
from repot.evaluator.summary import comparable_metrics, summarise
from repot.evaluator.verdict import ComparedPictures, Decision, PairedComparison, Score, Verdict
from repot.json_record import RecordError
from tests.unit.evaluator.samples import make_promise


def make_outcome(
    label: str, predicted: str, probability: float, label_probability: float, rank: int
) -> Outcome:
    return Outcome(
        filename="x.jpg",
        digest="0" * 32,
        label=label,
        predicted=predicted,
        probability=probability,
        label_probability=label_probability,
        label_rank=rank,
    )


OUTCOMES = [
    make_outcome("a", "a", 0.8, 0.8, 1),
    make_outcome("a", "b", 0.6, 0.3, 2),
    make_outcome("b", "b", 0.9, 0.9, 1),
    make_outcome("c", "a", 0.5, 0.1, 6),
]
LABELS = tuple("abcdef")


def make_record(
    outcomes: Sequence[Outcome] = OUTCOMES, labels: Sequence[str] = LABELS
) -> EvaluationRecord:
    return summarise(
        outcomes,
        labels,
        evaluation_id="e",
        dataset_id="d",
        training_id="t",
        subset="validation",
        excluded={"copy_of_training": 3},
    )


def test_summarise_computes_the_scores() -> None:
    record = make_record()

    assert (record.evaluation_id, record.dataset_id) == ("e", "d")
    assert (record.training_id, record.subset) == ("t", "validation")
    assert (record.num_examples, record.excluded) == (4, {"copy_of_training": 3})
    assert record.num_correct == 2
    assert record.precision_at_1 == 0.5
    assert record.precision_at_1_interval == pytest.approx((0.15004, 0.84996), abs=1e-5)
    assert (record.recall_at_5, record.recall_k) == (0.75, 5)
    assert record.loss == pytest.approx(-math.log(0.8 * 0.3 * 0.9 * 0.1) / 4)
    assert record.labels == LABELS


def test_summarise_scores_each_label() -> None:
    by_label = {scores.label: scores for scores in make_record().per_class}

    assert by_label["a"] == ClassRecord(
        label="a", num_examples=2, num_predicted=2, num_correct=1, precision=0.5, recall=0.5, f1=0.5
    )
    assert by_label["c"].precision is None
    assert by_label["f"].f1 is None


def test_confusion_matrix_has_non_zero_counts_only() -> None:
    record = make_record(labels=["a", "b", "c"])

    assert record.confusion_matrix == {"a": {"a": 1, "b": 1}, "b": {"b": 1}, "c": {"a": 1}}


def test_loss_is_none_if_the_model_lacks_a_label() -> None:
    unknown = make_outcome("x", "a", 0.5, 0.0, 7)

    assert make_record([*OUTCOMES, unknown], [*LABELS, "x"]).loss is None


def test_calibration_has_bins_and_error() -> None:
    calibration = make_record().calibration

    # Bins (0.4, 0.5], (0.5, 0.6], (0.7, 0.8], (0.8, 0.9] with one example each.
    assert [each.num_examples for each in calibration.bins] == [1, 1, 1, 1]
    assert calibration.error == pytest.approx((0.5 + 0.6 + 0.2 + 0.1) / 4)


def test_summarise_needs_an_outcome() -> None:
    with pytest.raises(ValueError, match="at least one outcome"):
        make_record([])


def test_record_round_trips_through_json() -> None:
    assert EvaluationRecord.from_text(make_record().to_text()) == make_record()


def test_record_rejects_unknown_keys() -> None:
    with pytest.raises(RecordError, match="num_guessed"):
        EvaluationRecord.from_json({**make_record().to_json(), "num_guessed": 1})


def test_macro_scores_weigh_labels_equally() -> None:
    record = make_record()

    # Recall: a 1/2, b 1, c 0. F1: a 2/4, b 2/3, c 0. The labels d, e and f do not occur.
    assert record.macro_recall == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert record.macro_f1 == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)


def make_verdict(decision: Decision, *, has_champion: bool) -> Verdict:
    score = Score(precision_at_1=0.5, interval=(0.15, 0.85), num_examples=4)
    return Verdict(
        decision=decision,
        reasons=("It is so.",),
        model_name="m",
        version="new",
        champion_version="old" if has_champion else "none",
        min_precision=0.0,
        challenger=score,
        champion=replace(score, precision_at_1=0.25) if has_champion else None,
        comparison=PairedComparison(
            both_right=1,
            only_champion=0,
            only_challenger=1,
            both_wrong=2,
            difference=0.25,
            interval=(-0.2, 0.7),
            p_value=1.0,
        )
        if has_champion
        else None,
        decided_at="2026-11-27T14:05:00Z",
    )


def test_comparable_metrics_have_verdict_interval_and_champion() -> None:
    record = make_record()

    metrics = comparable_metrics(record, make_verdict("reject", has_champion=True))

    low, high = record.precision_at_1_interval
    assert metrics == {
        "verdict": "reject",
        "champion_version": "old",
        "champion_precision_at_1": 0.25,
        "difference_to_champion": 0.25,
        "difference_to_champion_low": -0.2,
        "difference_to_champion_high": 0.7,
        "precision_at_1": 0.5,
        "precision_at_1_low": low,
        "precision_at_1_high": high,
        "recall_at_5": 0.75,
        "macro_recall": record.macro_recall,
        "macro_recall_low": pytest.approx(0.20298, abs=1e-5),
        "macro_recall_high": pytest.approx(0.79702, abs=1e-5),
        "macro_f1": record.macro_f1,
        "macro_f1_low": pytest.approx(0.18031, abs=1e-5),
        "macro_f1_high": pytest.approx(0.72405, abs=1e-5),
        "calibration_error": pytest.approx(0.35),
        "calibration_error_by_chance": pytest.approx((0.32 + 0.48 + 0.18 + 0.5) / 4),
        "num_examples": 4,
    }


def test_comparable_metrics_have_the_promised_coverage_and_the_real_one() -> None:
    record = dataclasses.replace(make_record(), promise=make_promise())

    metrics = comparable_metrics(record, make_verdict("promote", has_champion=False))

    assert (metrics["set_coverage"], metrics["set_coverage_promised"]) == (0.5, 0.9)


@pytest.mark.parametrize("num_labels", [4, 5, 6])
def test_name_of_recall_has_the_k_that_was_counted(num_labels: int) -> None:
    record = make_record(OUTCOMES[:3], LABELS[:num_labels])

    metrics = comparable_metrics(record, make_verdict("promote", has_champion=False))

    assert [name for name in metrics if name.startswith("recall")] == [
        f"recall_at_{min(num_labels, 5)}"
    ]


def test_comparable_metrics_leave_out_what_is_unknown() -> None:
    first = comparable_metrics(make_record(), make_verdict("promote", has_champion=False))
    unchanged = comparable_metrics(make_record(), make_verdict("unchanged", has_champion=False))

    assert None not in first.values()
    assert not {"champion_precision_at_1", "difference_to_champion"} & set(first)
    # The champion is the version itself.
    assert unchanged["champion_precision_at_1"] == 0.5


def test_comparable_metrics_have_test_and_what_was_compared() -> None:
    record = replace(make_record(), test=make_record().scores)
    verdict = replace(
        make_verdict("promote", has_champion=True),
        subset="test",
        compared=ComparedPictures(
            num_scored=4,
            num_compared=3,
            num_required=2,
            num_trained_on_by_champion=1,
            num_trained_on_by_version=0,
        ),
    )

    metrics = comparable_metrics(record, verdict)

    low, high = record.precision_at_1_interval
    assert {name: value for name, value in metrics.items() if name.startswith("test_")} == {
        "test_precision_at_1": 0.5,
        "test_precision_at_1_low": low,
        "test_precision_at_1_high": high,
        "test_recall_at_5": 0.75,
        "test_macro_recall": record.macro_recall,
        "test_macro_f1": record.macro_f1,
        "test_num_examples": 4,
    }
    assert (metrics["gate_split"], metrics["num_compared"], metrics["num_left_out"]) == (
        "test",
        3,
        1,
    )
