"""The facts of a report, made by hand."""

from typing import Any

from repot.evaluator.outcomes import Outcome
from repot.evaluator.summary import summarise

PIXEL = "data:image/jpeg;base64,AAAA"


def outcome(i: int, label: str, guess: str) -> Outcome:
    """Return what a model said of picture i."""
    return Outcome(
        filename=f"picture {i} <b>.jpg",
        label=label,
        guess=guess,
        probability=0.875,
        label_probability=0.875 if label == guess else 0.0625,
        label_rank=1 if label == guess else 2,
    )


def report_facts(
    outcomes: list[Outcome], labels: list[str], *, training: bool = True
) -> dict[str, Any]:
    """Return what report_data.json would hold."""
    metrics = {
        **summarise(outcomes, labels),
        "dataset_id": "d1d1",
        "training_id": "t1t1",
        "subset": "validation",
    }
    history = [
        {
            "phase": "head" if epoch < 2 else "fine_tune",
            "train_loss": 1 / (1 + epoch),
            "validation_loss": 1.5 / (1 + epoch),
            "train_precision_at_1": 0.9,
            "validation_precision_at_1": 0.8,
        }
        for epoch in range(4)
    ]
    facts = {
        "training_id": "t1t1",
        "checkpoint_id": "c1c1/inception_v3-ema",
        "settings": {
            "backbone": "inception_v3",
            "recipe": "fine_tune",
            "batch_size": 32,
            "image_size": 0,
            "seed": 7,
        },
        "num_parameters": 21_810_980,
        "epochs": 4,
        "seconds": 3725.0,
        "train_examples_per_second": 1834.2,
        "versions": {"tensorflow": "2.21.0"},
    }
    mistakes = [one for one in outcomes if not one.correct]
    return {
        "metrics": metrics,
        "training": facts if training else None,
        "history": history if training else [],
        "data": {
            "dataset_id": "d1d1",
            "pictures_uri": "gs://bucket/pictures & more",
            "num_found": 1203,
            "num_accepted": 1200,
            "splits": {
                "train": {"num_examples": 1000, "class_counts": dict.fromkeys(labels, 10)},
                "validation": {"num_examples": 200, "class_counts": dict.fromkeys(labels, 2)},
            },
            "rejected": [
                {
                    "reason": "truncated",
                    "sentence": "it ends too early",
                    "count": 3,
                    "files": ["a/<i>|.jpg", "b.jpg"],
                }
            ],
        },
        "mistakes": [
            {
                "filename": one.filename,
                "label": one.label,
                "guess": one.guess,
                "probability": one.probability,
                "label_probability": one.label_probability,
                "picture": PIXEL,
            }
            for one in mistakes
        ],
    }
