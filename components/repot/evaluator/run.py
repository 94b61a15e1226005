"""Evaluation and judgement of a run by the ids that the pipeline passes on, or of plain folders."""

from dataclasses import dataclass
from typing import Any

from repot import layout, storage
from repot.evaluator.confusions import heat_map
from repot.evaluator.evaluate import evaluate
from repot.evaluator.gate import Judged, decide
from repot.evaluator.publish import EVALUATION_FOLDER, publish
from repot.evaluator.summary import confusion_of
from repot.layout import MODEL_FOLDER, REPORT_NAME, TRAINING_NAME
from repot.predictor import find_model


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """The scores of a run, and the report that shows them.

    Attributes:
        metrics: What metrics.json holds.
        report_html: The report, without a verdict.
    """

    metrics: dict[str, Any]
    report_html: str

    def confusion_matrix(self, max_labels: int) -> tuple[list[str], list[list[int]]]:
        """Return labels and counts, rows true, columns guessed; of more labels the most confused `max_labels`."""
        shown = heat_map(confusion_of(self.metrics), self.metrics["labels"], max_labels)
        return list(shown.labels), [[cell.count for cell in row] for row in shown.rows]


def evaluate_run(*, storage_uri: str, dataset_id: str, training_id: str, model_name: str) -> Evaluated:
    """Score a run's model on every validation example and publish it as a version; done once, looked up later.

    Args:
        storage_uri: Where everything lies.
        dataset_id: The data set that the run was trained on.
        training_id: The run; also the version.
        model_name: The model that it becomes a version of.

    Raises:
        RepotError: As `evaluate` and `publish`.
    """
    run_uri = layout.run_uri(storage_uri, training_id)
    evaluation_uri = storage.join(run_uri, EVALUATION_FOLDER)
    dataset_uri = layout.dataset_uri(storage_uri, dataset_id)
    metrics = evaluate(storage.join(run_uri, MODEL_FOLDER), dataset_uri, evaluation_uri, run_uri=run_uri)
    publish(run_uri, storage_uri, model_name=model_name, version=training_id)
    return Evaluated(metrics=metrics, report_html=storage.read_text(storage.join(evaluation_uri, REPORT_NAME)))


def judge_run(*, storage_uri: str, dataset_id: str, training_id: str, model_name: str, min_precision: float) -> Judged:
    """Judge an evaluated run, see `repot.evaluator.gate.decide`."""
    return decide(
        storage_uri=storage_uri,
        dataset_id=dataset_id,
        training_id=training_id,
        model_name=model_name,
        min_precision=min_precision,
    )


def evaluate_folder(
    train_uri: str, data_uri: str, eval_uri: str, *, subset: str = "validation", num_examples: int = 0
) -> dict[str, Any]:
    """Score the model of a training folder, or any model, on a folder of shards: step 4 of the 2016 tutorial.

    Args:
        train_uri: A training folder, or any other place of a model, see `repot.predictor.find_model`.
        data_uri: Folder of shards with its manifest.
        eval_uri: Where to write.
        subset: "train" or "validation".
        num_examples: Score only the first so many; 0 scores all.

    Returns:
        What metrics.json holds.

    Raises:
        RepotError: As `find_model` and `evaluate`.
    """
    run_uri = train_uri if storage.exists(storage.join(train_uri, TRAINING_NAME)) else ""
    return evaluate(
        find_model(train_uri), data_uri, eval_uri, run_uri=run_uri, subset=subset, num_examples=num_examples
    )
