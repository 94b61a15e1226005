"""Scores a model on a split: predictions, scores, report and TensorBoard scalars in one folder, metrics.json last."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

import repot
from repot import layout, quiet_tensorflow, storage
from repot.errors import DataError, ModelError, UsageError
from repot.evaluator.gate import Judged, decide
from repot.evaluator.outcomes import PREDICTIONS_NAME, write_outcomes
from repot.evaluator.publish import EVALUATION_FOLDER, publish
from repot.evaluator.report.confusions import heat_map
from repot.evaluator.report.page import render_report
from repot.evaluator.summary import confusion_of, summarise
from repot.layout import KERAS_NAME, METRICS_NAME, MODEL_FOLDER, REPORT_NAME, TRAINING_NAME
from repot.manifest import MANIFEST_NAME, SPLITS
from repot.predictor import find_model

_log = logging.getLogger(__name__)


def evaluate(
    model_uri: str,
    dataset_uri: str,
    output_uri: str,
    *,
    run_uri: str = "",
    subset: str = "validation",
    num_examples: int = 0,
) -> dict[str, Any]:
    """Score every example of a split once and write predictions.csv, report and events, and metrics.json last.

    The background class takes no part. A label that the model does not have is never recognised; the loss is None
    then. The same evaluation that was done before is only looked up, without TensorFlow; another one in the same
    folder replaces it.

    Args:
        model_uri: Folder with model.keras and labels.txt.
        dataset_uri: The data set.
        output_uri: Where to write.
        run_uri: Folder with the training.json and the history.csv of the model, for the report; "" without.
        subset: "train" or "validation".
        num_examples: Score only the first so many; 0 scores all.

    Returns:
        What metrics.json holds.

    Raises:
        UsageError: The subset or the number of examples cannot be.
        DataError: There is no data set, or the split is empty.
        CorruptShardError: A shard's bytes are not those of its receipt.
        ModelError: The model cannot be loaded, or does not answer with numbers.
    """
    _check(subset, num_examples)
    evaluation_id = _evaluation_id(model_uri, dataset_uri, subset, num_examples)
    metrics_uri = storage.join(output_uri, METRICS_NAME)
    done = storage.read_json(metrics_uri) if storage.exists(metrics_uri) else {}
    if done.get("evaluation_id") == evaluation_id:
        _log.info("%s was evaluated before", model_uri)
        return dict(done)
    storage.delete(metrics_uri)
    quiet_tensorflow.import_tensorflow()
    metrics = _evaluate(
        model_uri,
        dataset_uri,
        output_uri,
        run_uri=run_uri,
        subset=subset,
        num_examples=num_examples,
    )
    metrics = {**metrics, "evaluation_id": evaluation_id}
    storage.write_json(metrics_uri, metrics)
    return metrics


def _check(subset: str, num_examples: int) -> None:
    problems = []
    if subset not in SPLITS:
        problems.append(f"subset must be one of {', '.join(SPLITS)}; got subset={subset!r}.")
    if num_examples < 0:
        problems.append(f"num_examples must be 0 (all) or more; got num_examples={num_examples}.")
    if problems:
        raise UsageError(problems)


def _evaluation_id(model_uri: str, dataset_uri: str, subset: str, num_examples: int) -> str:
    """Return what makes two evaluations the same; it needs no TensorFlow."""
    manifest_uri = storage.join(dataset_uri, MANIFEST_NAME)
    if not storage.exists(manifest_uri):
        raise DataError(
            f"A data set must have a {MANIFEST_NAME}; there is no {manifest_uri}. Build the shards first."
        )
    return layout.content_id(
        {
            "model": _checksum(storage.join(model_uri, KERAS_NAME)),
            "dataset": storage.read_json(manifest_uri)["dataset_id"],
            "subset": subset,
            "num_examples": num_examples,
            "version": repot.__version__,
        }
    )


def _checksum(uri: str) -> str:
    info = storage.stat(uri)
    if info is None:
        raise ModelError(
            f"A model folder must have a {KERAS_NAME}; there is no {uri}. Train first."
        )
    return info.crc32c or storage.read_crc32c_hex(uri)


def _evaluate(
    model_uri: str,
    dataset_uri: str,
    output_uri: str,
    *,
    run_uri: str,
    subset: str,
    num_examples: int,
) -> dict[str, Any]:
    from repot.dataset import load_manifest
    from repot.evaluator.report.data import REPORT_DATA_NAME, read_training, report_data
    from repot.evaluator.scoring import score

    manifest, training = load_manifest(dataset_uri), read_training(run_uri)
    scored = score(model_uri, dataset_uri, subset=subset, num_examples=num_examples)
    metrics = {
        **summarise(scored.outcomes, scored.labels),
        "dataset_id": manifest.dataset_id,
        "training_id": training["training_id"] if training else "",
        "subset": subset,
    }
    data = report_data(
        metrics=metrics, manifest=manifest, mistakes=scored.mistakes, run_uri=run_uri
    )
    write_outcomes(storage.join(output_uri, PREDICTIONS_NAME), scored.outcomes)
    storage.write_json(storage.join(output_uri, REPORT_DATA_NAME), data)
    storage.write_text(storage.join(output_uri, REPORT_NAME), render_report(data))
    write_events(output_uri, metrics, step=training["epochs"] if training else 0)
    return metrics


EVENTS_FOLDER = "events"


def write_events(output_uri: str, metrics: Mapping[str, Any], *, step: int) -> None:
    """Write "Precision @ 1" and "Recall @ 5" to events/, in place of what an earlier evaluation left there.

    Args:
        output_uri: Folder of the evaluation.
        metrics: What metrics.json holds.
        step: Epochs that the model was trained for; 0 when that is not known.
    """
    uri = storage.join(output_uri, EVENTS_FOLDER)
    with tempfile.TemporaryDirectory(prefix="repot-events-") as scratch:
        with tf.summary.create_file_writer(scratch).as_default():
            tf.summary.scalar("Precision @ 1", metrics["precision_at_1"], step=step)
            tf.summary.scalar("Recall @ 5", metrics["recall_at_5"], step=step)
            tf.summary.flush()
        storage.delete_folder(uri)
        storage.upload_folder(Path(scratch), uri)


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


def evaluate_run(
    *, storage_uri: str, dataset_id: str, training_id: str, model_name: str
) -> Evaluated:
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
    metrics = evaluate(
        storage.join(run_uri, MODEL_FOLDER), dataset_uri, evaluation_uri, run_uri=run_uri
    )
    publish(run_uri, storage_uri, model_name=model_name, version=training_id)
    return Evaluated(
        metrics=metrics, report_html=storage.read_text(storage.join(evaluation_uri, REPORT_NAME))
    )


def judge_run(
    *, storage_uri: str, dataset_id: str, training_id: str, model_name: str, min_precision: float
) -> Judged:
    """Judge an evaluated run, see `repot.evaluator.gate.decide`."""
    return decide(
        storage_uri=storage_uri,
        dataset_id=dataset_id,
        training_id=training_id,
        model_name=model_name,
        min_precision=min_precision,
    )


def evaluate_folder(
    train_uri: str,
    data_uri: str,
    eval_uri: str,
    *,
    subset: str = "validation",
    num_examples: int = 0,
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
        find_model(train_uri),
        data_uri,
        eval_uri,
        run_uri=run_uri,
        subset=subset,
        num_examples=num_examples,
    )
