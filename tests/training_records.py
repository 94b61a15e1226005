"""Records of finished trainings for tests that need one but do not train."""

from typing import Any

from repot.settings import TrainingSettings
from repot.training_record import EpochRecord, TrainingRecord


def make_epoch_record(**changes: Any) -> EpochRecord:
    """Return the scores of one epoch, with the given fields changed."""
    fields: dict[str, Any] = {
        "phase": "head",
        "epoch": 1,
        "learning_rate": 0.001,
        "train_loss": 0.5,
        "train_precision_at_1": 0.75,
        "validation_loss": 0.625,
        "validation_precision_at_1": 0.5,
        "seconds": 2.0,
    }
    return EpochRecord(**{**fields, **changes})


def make_training_record(**changes: Any) -> TrainingRecord:
    """Return the record of a training of one epoch, with the given fields changed."""
    fields: dict[str, Any] = {
        "training_id": "t",
        "dataset_id": "d",
        "checkpoint_id": "c",
        "settings": TrainingSettings(),
        "image_size": 299,
        "labels": ("daisy", "tulips"),
        "num_examples": {"train": 8, "validation": 2},
        "num_parameters": 1000,
        "epochs": 1,
        "seconds": 2.0,
        "train_examples_per_second": 4.0,
        "last_epoch": make_epoch_record(),
        "versions": {"repot": "0.1.0"},
    }
    return TrainingRecord(**{**fields, **changes})
