"""Hand-made outcomes and report data."""

from collections.abc import Sequence
from typing import Any

from repot.evaluation_record import PromiseRecord
from repot.evaluator.outcomes import Outcome
from repot.evaluator.report.data import (
    DatasetSummary,
    RejectionSummary,
    ReportData,
    ShownPicture,
    SplitSummary,
)
from repot.evaluator.summary import summarise
from repot.model_registry import ModelRecord, ModelScores
from repot.model_spec import ModelCalibration
from repot.settings import TrainingSettings
from repot.training_record import EpochRecord, TrainingRecord

PIXEL = "data:image/jpeg;base64,AAAA"


def make_outcome(i: int, label: str, predicted: str) -> Outcome:
    """Return the outcome of picture i."""
    return Outcome(
        filename=f"picture {i} <b>.jpg",
        digest=f"{i:032x}",
        label=label,
        predicted=predicted,
        probability=0.875,
        label_probability=0.875 if label == predicted else 0.0625,
        label_rank=1 if label == predicted else 2,
    )


def make_history() -> tuple[EpochRecord, ...]:
    """Return four epochs, two of each phase."""
    return tuple(
        EpochRecord(
            phase="head" if epoch < 2 else "fine_tune",
            epoch=epoch % 2 + 1,
            learning_rate=0.003,
            train_loss=1 / (1 + epoch),
            train_precision_at_1=0.9,
            validation_loss=1.5 / (1 + epoch),
            validation_precision_at_1=0.8,
            seconds=1.0,
        )
        for epoch in range(4)
    )


def make_training(
    *, versions: dict[str, str] | None = None, settings: TrainingSettings | None = None
) -> TrainingRecord:
    """Return a training record."""
    return TrainingRecord(
        training_id="t1t1",
        dataset_id="d1d1",
        checkpoint_id="c1c1/inception_v3-ema",
        settings=settings or TrainingSettings(seed=7),
        image_size=299,
        labels=("cat", "dog"),
        num_examples={"train": 1000, "validation": 200},
        num_parameters=21_810_980,
        epochs=4,
        seconds=3725.0,
        train_examples_per_second=1834.2,
        last_epoch=make_history()[-1],
        versions=versions or {"tensorflow": "2.21.0"},
    )


def make_report_data(
    outcomes: Sequence[Outcome], labels: Sequence[str], *, has_training: bool = True
) -> ReportData:
    """Return the data of a report on some outcomes."""
    evaluation = summarise(
        outcomes,
        labels,
        evaluation_id="e1e1",
        dataset_id="d1d1",
        training_id="t1t1",
        subset="validation",
        excluded={},
    )
    dataset = DatasetSummary(
        dataset_id="d1d1",
        pictures_uri="gs://bucket/pictures & more",
        num_found=1203,
        num_accepted=1200,
        splits={
            "train": SplitSummary(num_examples=1000, class_counts=dict.fromkeys(labels, 10)),
            "validation": SplitSummary(num_examples=200, class_counts=dict.fromkeys(labels, 2)),
        },
        rejected=(
            RejectionSummary(
                reason="truncated",
                explanation="it ends too early",
                num_files=3,
                files=("a/<i>|.jpg", "b.jpg"),
            ),
        ),
    )
    return ReportData(
        evaluation=evaluation,
        training=make_training() if has_training else None,
        history=make_history() if has_training else (),
        dataset=dataset,
        mistakes=tuple(
            ShownPicture(outcome=outcome, thumbnail=PIXEL)
            for outcome in outcomes
            if not outcome.correct
        ),
    )


def make_promise() -> PromiseRecord:
    """Return what a model promised, and what came true on a few pictures."""
    promised = ModelCalibration(
        method="5-fold cross-validation",
        num_examples=1000,
        error_before=0.138,
        error_after=0.021,
        error_by_chance=0.015,
        coverage=0.9,
        set_threshold=0.2,
        mean_set_size=1.1,
        unlike_rate=0.01,
    )
    return PromiseRecord(
        promised=promised,
        num_covered=2,
        mean_set_size=1.25,
        num_empty_sets=1,
        num_unlike=3,
        error_before=0.125,
    )


def make_model_record(name: str, version: str, **fields: Any) -> ModelRecord:
    """Return the record of a published version of two labels; `fields` override it."""
    defaults: dict[str, Any] = {
        "labels": ("cat", "dog"),
        "backbone": "inception_v3",
        "image_size": 299,
        "dataset_id": "d1d1",
        "training_id": version,
        "metrics": ModelScores(
            precision_at_1=0.5,
            precision_at_1_interval=(0.25, 0.75),
            recall_at_5=1.0,
            recall_k=2,
            loss=None,
            num_examples=10,
            subset="validation",
        ),
    }
    return ModelRecord(name=name, version=version, **{**defaults, **fields})
