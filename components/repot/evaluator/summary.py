"""Compute the scores of an evaluation, the content of metrics.json, from its outcomes.

`comparable_metrics` selects the few that KFP shows.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repot import metrics
from repot.evaluation_record import (
    CalibrationRecord,
    ClassRecord,
    EvaluationRecord,
    PromiseRecord,
    SplitScores,
)
from repot.evaluator.outcomes import Outcome
from repot.evaluator.report.data import ReportData
from repot.evaluator.verdict import Verdict

RECALL_K = 5


def summarise(
    outcomes: Sequence[Outcome],
    labels: Sequence[str],
    *,
    evaluation_id: str,
    dataset_id: str,
    training_id: str,
    subset: str,
    excluded: Mapping[str, int],
    test: SplitScores | None = None,
    promise: PromiseRecord | None = None,
) -> EvaluationRecord:
    """Compute every score of at least one outcome.

    Args:
        outcomes: The scored pictures.
        labels: Every true or predicted label, in class order.
        evaluation_id, dataset_id, training_id, subset, excluded, test, promise: See
            `EvaluationRecord`.
    """
    ranks = np.array([outcome.label_rank for outcome in outcomes])
    precision = metrics.precision_at_1(ranks)
    recall = metrics.recall_at_k(ranks, RECALL_K, len(labels))
    bins = _calibration_bins(outcomes)
    calibration_error = metrics.calibration_error(bins)
    if precision is None or recall is None or calibration_error is None:
        raise ValueError("summarise must get at least one outcome; got none.")
    num_correct = int(np.sum(ranks == 1))
    return EvaluationRecord(
        evaluation_id=evaluation_id,
        dataset_id=dataset_id,
        training_id=training_id,
        subset=subset,
        num_examples=len(outcomes),
        num_correct=num_correct,
        precision_at_1=precision,
        precision_at_1_interval=metrics.wilson_interval(num_correct, len(outcomes)),
        recall_at_5=recall.value,
        recall_k=recall.k,
        loss=_loss(outcomes),
        labels=tuple(labels),
        per_class=_class_records(outcomes, labels),
        confusion_matrix=_confusion_counts(outcomes),
        calibration=CalibrationRecord(
            error=calibration_error,
            bins=tuple(bins),
            error_by_chance=metrics.calibration_error_by_chance(bins),
        ),
        excluded=dict(excluded),
        test=test,
        promise=promise,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What other services hear of a finished run.

    Attributes:
        data: The scores, the training and the dataset.
        verdict: The gate's verdict.
        version_uri: Folder of the published version.
        report_uri: The report with the verdict.
        run_id: Id of the pipeline run, "" if unknown.
    """

    data: ReportData
    verdict: Verdict
    version_uri: str
    report_uri: str
    run_id: str = ""


def comparable_metrics(evaluation: EvaluationRecord, verdict: Verdict) -> dict[str, float | str]:
    """Return what KFP shows for a run and compares between runs: scores, verdict and champion.

    The name of recall@k has the k that was counted. A score that is unknown is left out: KFP has no
    place for "none".
    """
    low, high = evaluation.precision_at_1_interval
    values: dict[str, float | str] = {
        "verdict": verdict.decision,
        "champion_version": verdict.champion_version,
        "precision_at_1": evaluation.precision_at_1,
        "precision_at_1_low": low,
        "precision_at_1_high": high,
        f"recall_at_{evaluation.recall_k}": evaluation.recall_at_5,
        "macro_recall": evaluation.macro_recall,
        **_bounds("macro_recall", evaluation.scores.macro_recall_interval),
        "macro_f1": evaluation.macro_f1,
        **_bounds("macro_f1", evaluation.scores.macro_f1_interval),
        **_probability_metrics(evaluation),
        "num_examples": evaluation.num_examples,
    }
    if evaluation.test is not None:
        values |= _test_metrics(evaluation.test)
    if verdict.subset != "validation":
        values["gate_split"] = verdict.subset
    # Nothing is compared with a version that is the champion itself.
    champion = verdict.challenger if verdict.decision == "unchanged" else verdict.champion
    if champion is not None:
        values["champion_precision_at_1"] = champion.precision_at_1
    if verdict.comparison is not None:
        low, high = verdict.comparison.interval
        values["difference_to_champion"] = verdict.comparison.difference
        values["difference_to_champion_low"] = low
        values["difference_to_champion_high"] = high
        rule = verdict.comparison.rule
        if rule is not None:
            values["gate_p_value"] = rule.p_value
            values["gate_level"] = rule.alpha
            if rule.num_needed is not None:
                values["num_pictures_needed"] = rule.num_needed
    if verdict.challenger.expected_precision is not None:
        values["expected_precision_at_1"] = verdict.challenger.expected_precision
    if verdict.compared is not None:
        values["num_compared"] = verdict.compared.num_compared
        values["num_left_out"] = verdict.compared.num_left_out
    return values


def _bounds(name: str, interval: metrics.Interval | None) -> dict[str, float]:
    low, high = interval or (0.0, 1.0)
    return {f"{name}_low": low, f"{name}_high": high}


def _probability_metrics(evaluation: EvaluationRecord) -> dict[str, float]:
    metrics = {"calibration_error": evaluation.calibration.error}
    if evaluation.calibration.error_by_chance is not None:
        metrics["calibration_error_by_chance"] = evaluation.calibration.error_by_chance
    if evaluation.promise is not None and evaluation.coverage is not None:
        metrics["set_coverage"] = evaluation.coverage
        metrics["set_coverage_promised"] = evaluation.promise.promised.coverage
    return metrics


def _test_metrics(test: SplitScores) -> dict[str, float]:
    low, high = test.precision_at_1_interval
    return {
        "test_precision_at_1": test.precision_at_1,
        "test_precision_at_1_low": low,
        "test_precision_at_1_high": high,
        f"test_recall_at_{test.recall_k}": test.recall_at_5,
        "test_macro_recall": test.macro_recall,
        "test_macro_f1": test.macro_f1,
        "test_num_examples": test.num_examples,
    }


def _loss(outcomes: Sequence[Outcome]) -> float | None:
    """Return the mean cross-entropy in nats, or None if the model lacks one of the true labels."""
    if any(outcome.label_probability == 0 for outcome in outcomes):
        return None
    return -math.fsum(math.log(outcome.label_probability) for outcome in outcomes) / len(outcomes)


def _class_records(outcomes: Sequence[Outcome], labels: Sequence[str]) -> tuple[ClassRecord, ...]:
    position = {label: i for i, label in enumerate(labels)}
    true = np.array([position[outcome.label] for outcome in outcomes])
    predicted = np.array([position[outcome.predicted] for outcome in outcomes])
    scores = metrics.label_scores(metrics.confusion_matrix(true, predicted, len(labels)))
    return tuple(
        ClassRecord(
            label=label,
            num_examples=score.num_examples,
            num_predicted=score.num_predicted,
            num_correct=score.num_correct,
            precision=score.precision,
            recall=score.recall,
            f1=score.f1,
        )
        for label, score in zip(labels, scores, strict=True)
    )


def _confusion_counts(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Return the non-zero counts only: a matrix of a thousand labels is almost all zeros."""
    counts: dict[str, dict[str, int]] = {}
    pairs = Counter((outcome.label, outcome.predicted) for outcome in outcomes)
    for (label, predicted), count in pairs.items():
        counts.setdefault(label, {})[predicted] = count
    return counts


def _calibration_bins(outcomes: Sequence[Outcome]) -> list[metrics.CalibrationBin]:
    confidences = np.array([outcome.probability for outcome in outcomes])
    return metrics.calibration(confidences, np.array([outcome.correct for outcome in outcomes]))
