"""Evaluate a model on a split of a dataset: the model of any folder, or that of a pipeline run.

An evaluation writes predictions.csv, suspects.csv (of validation), report_data.json, report.html
and TensorBoard events to one folder, and metrics.json last: without metrics.json the evaluation
does not count.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import repot
from repot import layout, quiet_tensorflow, storage
from repot.data_checks import read_checks
from repot.errors import ModelError, UsageError
from repot.evaluation_record import EvaluationRecord, ScoringTime
from repot.evaluator.exports.export import make_exports
from repot.evaluator.outcomes import write_outcomes
from repot.evaluator.report.confusions import confusion_counts, heat_map
from repot.evaluator.report.data import build_report_data, read_training
from repot.evaluator.report.page import render_report
from repot.evaluator.summary import summarise
from repot.evaluator.versions import publish
from repot.folder_checksums import write_last
from repot.json_record import RecordError, record_text, write_record
from repot.layout import (
    CHECKSUMS_NAME,
    EVALUATION_FOLDER,
    EVALUATION_PARTS,
    EVENTS_FOLDER,
    EXPORTS_FOLDER,
    KERAS_NAME,
    METRICS_NAME,
    MODEL_FOLDER,
    PREDICTIONS_NAME,
    REPORT_DATA_NAME,
    REPORT_NAME,
    SCORING_TIME_NAME,
    TRAINING_NAME,
)
from repot.manifest import SPLITS, read_manifest
from repot.predictor import find_model, model_digest

_FORMAT = 3
"""Part of every evaluation id. Increase it when files of an evaluation get other columns."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedRun:
    """The evaluation of a run.

    Attributes:
        evaluation: The scores.
        report_html: The report, without a verdict.
    """

    evaluation: EvaluationRecord
    report_html: str

    def confusion_matrix(self, max_labels: int) -> tuple[list[str], list[list[int]]]:
        """Return labels and counts; rows are true labels, columns predicted ones.

        Args:
            max_labels: Keep only this many labels, those with the most mistakes.
        """
        labels = self.evaluation.labels
        shown = heat_map(confusion_counts(self.evaluation), labels, max_labels)
        return list(shown.labels), [[cell.count for cell in row] for row in shown.rows]


def evaluate(
    model_uri: str,
    dataset_uri: str,
    output_uri: str,
    *,
    run_uri: str = "",
    subset: str = "validation",
    num_examples: int = 0,
    test: EvaluationRecord | None = None,
    predictions_uri: str = "",
) -> EvaluationRecord:
    """Score a model once on every example of a split and write all results to a folder.

    The background class is ignored. A true label that the model does not have counts as a mistake,
    and the loss is None then. If the folder already holds the same evaluation, it is returned
    without importing TensorFlow; another evaluation in the folder is replaced.

    Args:
        model_uri: Folder with model.keras and labels.txt.
        dataset_uri: Folder of the dataset.
        output_uri: Folder for the results.
        run_uri: Folder with the model's training.json and history.csv, for the report; "" for none.
        subset: "train", "validation" or "test".
        num_examples: Score only this many examples, the first ones; 0 scores all.
        test: Evaluation of the same model on test, whose scores record and report show too.
        predictions_uri: Folder of stored predictions, see `repot.prediction_store`; "" for none.

    Raises:
        UsageError: `subset` or `num_examples` is invalid.
        DataError: The dataset does not exist, or the split is empty.
        CorruptShardError: A shard's bytes differ from its receipt.
        ModelError: The model cannot be loaded, or its output is not finite.
    """
    _check_request(subset, num_examples)
    evaluation_id = _evaluation_id(model_uri, dataset_uri, subset, num_examples, test)
    metrics_uri = storage.join(output_uri, METRICS_NAME)
    finished = _read_finished(metrics_uri, evaluation_id)
    if finished is not None:
        _log.info("%s is already evaluated", model_uri)
        return finished
    for uri in (metrics_uri, storage.join(output_uri, CHECKSUMS_NAME)):
        storage.delete(uri)
    record = _evaluate(
        model_uri,
        dataset_uri,
        output_uri,
        evaluation_id=evaluation_id,
        run_uri=run_uri,
        subset=subset,
        num_examples=num_examples,
        test=test,
        predictions_uri=predictions_uri,
    )
    write_last(output_uri, METRICS_NAME, record_text(record), parts=EVALUATION_PARTS)
    return record


def evaluate_folder(
    train_uri: str,
    data_uri: str,
    eval_uri: str,
    *,
    subset: str = "validation",
    num_examples: int = 0,
) -> EvaluationRecord:
    """Evaluate a model on a folder of shards: step 4 of the 2016 tutorial.

    Args:
        train_uri: A training folder, or any other model location, see `repot.predictor.find_model`.
        data_uri: Folder of shards with its manifest.
        eval_uri: Folder for the results.
        subset: "train", "validation" or "test".
        num_examples: Score only this many examples, the first ones; 0 scores all.

    Raises:
        RepotError: See `find_model` and `evaluate`.
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


def evaluate_run(
    *,
    storage_uri: str,
    dataset_id: str,
    training_id: str,
    model_name: str,
    exports: Sequence[str] = (),
) -> EvaluatedRun:
    """Evaluate the model of a run on all of validation and test, and publish it as a version.

    All is done once: a second call only reads the results.

    Args:
        storage_uri: Root of all stored files.
        dataset_id: The dataset that the run was trained on.
        training_id: The run; it is also the version.
        model_name: The model that the version belongs to.
        exports: Formats that the version is also published in.

    Raises:
        RepotError: See `evaluate`, `make_exports` and `publish`.
    """
    run_uri = layout.run_uri(storage_uri, training_id)
    evaluation_uri = storage.join(run_uri, EVALUATION_FOLDER)
    model_uri = storage.join(run_uri, MODEL_FOLDER)
    dataset_uri = layout.dataset_uri(storage_uri, dataset_id)
    predictions_uri = layout.predictions_uri(storage_uri)
    test: EvaluationRecord | None = None
    if read_manifest(dataset_uri).has_scored("test"):
        test_uri = layout.split_folder(evaluation_uri, "test")
        test = evaluate(
            model_uri,
            dataset_uri,
            test_uri,
            run_uri=run_uri,
            subset="test",
            predictions_uri=predictions_uri,
        )
    evaluation = evaluate(
        model_uri,
        dataset_uri,
        evaluation_uri,
        run_uri=run_uri,
        test=test,
        predictions_uri=predictions_uri,
    )
    make_exports(
        exports,
        model_uri=model_uri,
        dataset_uri=dataset_uri,
        folder_uri=storage.join(run_uri, EXPORTS_FOLDER),
    )
    publish(run_uri, storage_uri, model_name=model_name, version=training_id)
    report_html = storage.read_text(storage.join(evaluation_uri, REPORT_NAME))
    return EvaluatedRun(evaluation=evaluation, report_html=report_html)


def _check_request(subset: str, num_examples: int) -> None:
    problems = []
    if subset not in SPLITS:
        problems.append(f"subset must be one of {', '.join(SPLITS)}; got subset={subset!r}.")
    if num_examples < 0:
        problems.append(f"num_examples must be 0 (all) or more; got num_examples={num_examples}.")
    if problems:
        raise UsageError(problems)


def _evaluation_id(
    model_uri: str,
    dataset_uri: str,
    subset: str,
    num_examples: int,
    test: EvaluationRecord | None,
) -> str:
    """Return the id of everything that an evaluation depends on; does not need TensorFlow."""
    return layout.content_id(
        {
            "model": _model_id(model_uri),
            "dataset": read_manifest(dataset_uri).dataset_id,
            "subset": subset,
            "num_examples": num_examples,
            "test": test.evaluation_id if test else "",
            "format": _FORMAT,
            "version": repot.__version__,
        }
    )


def _model_id(model_uri: str) -> str:
    uri = storage.join(model_uri, KERAS_NAME)
    if not storage.exists(uri):
        raise ModelError(
            f"A model folder must have a {KERAS_NAME}; {uri} does not exist. Train first."
        )
    return model_digest(model_uri)


def _read_finished(metrics_uri: str, evaluation_id: str) -> EvaluationRecord | None:
    if not storage.exists(metrics_uri):
        return None
    try:
        record = EvaluationRecord.from_text(storage.read_text(metrics_uri))
    except RecordError as err:
        # Another version of repot wrote it, with other fields.
        _log.warning("%s is replaced: %s", metrics_uri, err)
        return None
    return record if record.evaluation_id == evaluation_id else None


def _evaluate(
    model_uri: str,
    dataset_uri: str,
    output_uri: str,
    *,
    evaluation_id: str,
    run_uri: str,
    subset: str,
    num_examples: int,
    test: EvaluationRecord | None,
    predictions_uri: str,
) -> EvaluationRecord:
    quiet_tensorflow.import_tensorflow()
    from repot.evaluator.saliency import explain_mistakes
    from repot.evaluator.scoring import score_split
    from repot.evaluator.slices import find_slices
    from repot.evaluator.suspects import write_suspects

    manifest, training = read_manifest(dataset_uri), read_training(run_uri)
    has_suspects = subset == "validation"
    scored = score_split(
        model_uri,
        dataset_uri,
        subset=subset,
        num_examples=num_examples,
        with_logits=has_suspects,
        predictions_uri=predictions_uri,
    )
    record = summarise(
        scored.outcomes,
        scored.labels,
        evaluation_id=evaluation_id,
        dataset_id=manifest.dataset_id,
        training_id=training.training_id if training else "",
        subset=subset,
        excluded=scored.excluded,
        test=test.scores if test else None,
        promise=scored.promise,
    )
    suspects = (
        write_suspects(
            output_uri,
            dataset_uri=dataset_uri,
            manifest=manifest,
            scored=scored,
            training=training,
            run_uri=run_uri,
        )
        if has_suspects
        else None
    )
    data = build_report_data(
        record,
        manifest=manifest,
        checks=read_checks(dataset_uri),
        mistakes=scored.mistakes,
        by_pair=scored.by_pair,
        saliency_maps=explain_mistakes(scored.load, scored.mistakes),
        training=training,
        run_uri=run_uri,
        suspects=suspects,
        slices=find_slices(dataset_uri, manifest, subset, scored),
    )
    if scored.seconds:
        time = ScoringTime(num_pictures=len(scored.outcomes), seconds=round(scored.seconds, 3))
        write_record(storage.join(output_uri, SCORING_TIME_NAME), time)
    write_outcomes(storage.join(output_uri, PREDICTIONS_NAME), scored.outcomes)
    write_record(storage.join(output_uri, REPORT_DATA_NAME), data)
    storage.write_text(storage.join(output_uri, REPORT_NAME), render_report(data))
    _write_events(output_uri, record, step=training.epochs if training else 0)
    return record


def _write_events(output_uri: str, record: EvaluationRecord, *, step: int) -> None:
    """Write TensorBoard scalars under the tags of 2016, replacing those of an earlier evaluation.

    Args:
        output_uri: Folder of the evaluation.
        record: The scores.
        step: Number of epochs that the model was trained for; 0 if unknown.
    """
    import tensorflow as tf

    uri = storage.join(output_uri, EVENTS_FOLDER)
    with tempfile.TemporaryDirectory(prefix="repot-events-") as scratch:
        with tf.summary.create_file_writer(scratch).as_default():
            tf.summary.scalar("Precision @ 1", record.precision_at_1, step=step)
            tf.summary.scalar("Recall @ 5", record.recall_at_5, step=step)
            tf.summary.flush()
        storage.delete_folder(uri)
        storage.upload_folder(Path(scratch), uri)
