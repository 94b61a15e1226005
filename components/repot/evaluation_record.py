"""metrics.json, the record of one evaluation: scores of a model on one split."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from repot.json_record import JsonRecord
from repot.metrics import (
    CalibrationBin,
    Interval,
    LabelScore,
    macro_f1_interval,
    macro_recall_interval,
    wilson_interval,
)
from repot.model_spec import ModelCalibration


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassRecord(JsonRecord):
    """Scores of one label; precision, recall and f1 are None for 0/0.

    Attributes:
        label: The label.
        num_examples: Scored examples of this label.
        num_predicted: Examples for which the model predicted this label.
        num_correct: Examples of this label for which the model predicted it.
        precision, recall, f1: In [0, 1].
    """

    label: str
    num_examples: int
    num_predicted: int
    num_correct: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringTime(JsonRecord):
    """Content of scoring_time.json: how long a model took to answer for a split.

    It is apart from the other files of an evaluation, which are the same whenever it is repeated.
    """

    num_pictures: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRecord(JsonRecord):
    """How far the probability of the most probable label is from the share of correct ones.

    Attributes:
        error: Expected calibration error, in [0, 1].
        bins: The bins of probabilities behind it.
        error_by_chance: What a perfectly calibrated model would show on as many pictures, on
            average; None in a record of an earlier version.
    """

    error: float
    bins: tuple[CalibrationBin, ...]
    error_by_chance: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PromiseRecord(JsonRecord):
    """What a model promised, and what came true on one split.

    Attributes:
        promised: The promises.
        num_covered: Examples whose true label is in their prediction set.
        mean_set_size: Mean number of labels in a set.
        num_empty_sets: Examples whose set is empty.
        num_unlike: Examples that are called unlike the training pictures.
        error_before: Expected calibration error without the temperature; that with it is
            `CalibrationRecord.error`.
    """

    promised: ModelCalibration
    num_covered: int
    mean_set_size: float
    num_empty_sets: int
    num_unlike: int
    error_before: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitScores(JsonRecord):
    """The main scores of a model on one split, see `EvaluationRecord`."""

    num_examples: int
    num_correct: int
    precision_at_1: float
    precision_at_1_interval: Interval
    recall_at_5: float
    recall_k: int
    macro_recall: float
    macro_f1: float
    loss: float | None
    calibration_error: float
    excluded: dict[str, int] = field(default_factory=dict)
    macro_recall_interval: Interval | None = None
    macro_f1_interval: Interval | None = None
    calibration_error_by_chance: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRecord(JsonRecord):
    """Content of metrics.json, the completion marker of an evaluation.

    Attributes:
        evaluation_id: Id of model, dataset, subset, number of examples and code version.
        dataset_id: The scored dataset.
        training_id: Training of the model, "" for a model without a training record.
        subset: The scored split.
        num_examples: Scored examples, at least one.
        num_correct: Examples whose most probable label is the true one.
        precision_at_1: num_correct / num_examples.
        precision_at_1_interval: Its 95 % Wilson interval.
        recall_at_5: Share of examples whose true label is among the `recall_k` most probable ones.
        recall_k: 5, or the number of labels where there are fewer.
        loss: Mean cross-entropy in nats; None when a true label is unknown to the model.
        labels: Every true or predicted label, in class order.
        per_class: One entry per label, in that order.
        confusion_matrix: Non-zero counts by true label, then by predicted label.
        calibration: Calibration of the most probable label's probability.
        excluded: Examples of the split that are not scored, by reason, see
            `repot.manifest.EXCLUSION_REASONS`.
        test: Scores of the same model on the test split; None if there is none, or if this is the
            evaluation of another split than validation.
        promise: What the model promised and what came true; None if it promises nothing.
    """

    evaluation_id: str
    dataset_id: str
    training_id: str
    subset: str
    num_examples: int
    num_correct: int
    precision_at_1: float
    precision_at_1_interval: Interval
    recall_at_5: float
    recall_k: int
    loss: float | None
    labels: tuple[str, ...]
    per_class: tuple[ClassRecord, ...]
    confusion_matrix: dict[str, dict[str, int]]
    calibration: CalibrationRecord
    excluded: dict[str, int] = field(default_factory=dict)
    test: SplitScores | None = None
    promise: PromiseRecord | None = None

    @property
    def coverage(self) -> float | None:
        """Return the share of examples whose true label is in their set; None without sets."""
        return self.promise.num_covered / self.num_examples if self.promise else None

    @property
    def coverage_interval(self) -> Interval | None:
        """Return its 95 % Wilson interval."""
        if self.promise is None:
            return None
        return wilson_interval(self.promise.num_covered, self.num_examples)

    @property
    def scores(self) -> SplitScores:
        """Return the main scores."""
        return SplitScores(
            num_examples=self.num_examples,
            num_correct=self.num_correct,
            precision_at_1=self.precision_at_1,
            precision_at_1_interval=self.precision_at_1_interval,
            recall_at_5=self.recall_at_5,
            recall_k=self.recall_k,
            macro_recall=self.macro_recall,
            macro_f1=self.macro_f1,
            loss=self.loss,
            calibration_error=self.calibration.error,
            calibration_error_by_chance=self.calibration.error_by_chance,
            excluded=self.excluded,
            macro_recall_interval=macro_recall_interval(self._label_scores),
            macro_f1_interval=macro_f1_interval(self._label_scores),
        )

    @property
    def _label_scores(self) -> list[LabelScore]:
        return [
            LabelScore(
                num_examples=each.num_examples,
                num_predicted=each.num_predicted,
                num_correct=each.num_correct,
            )
            for each in self.per_class
        ]

    @property
    def macro_recall(self) -> float:
        """Return the mean recall of the labels with examples: balanced accuracy.

        Rare labels count as much as frequent ones. Source: scikit-learn's balanced_accuracy_score.
        """
        return _mean(scores.recall for scores in self.per_class)

    @property
    def macro_f1(self) -> float:
        """Return the mean F1 of the labels that are true or predicted for an example.

        Source: scikit-learn's f1_score with average="macro".
        """
        return _mean(scores.f1 for scores in self.per_class)


def _mean(scores: Iterable[float | None]) -> float:
    defined = [score for score in scores if score is not None]
    return math.fsum(defined) / len(defined)
