"""Scores a model on a split: predictions, scores, report and TensorBoard scalars in one folder, metrics.json last."""

import logging
from typing import Any

import repot
from repot import layout, quiet_tensorflow, storage
from repot.errors import DataError, ModelError, UsageError
from repot.evaluator.outcomes import PREDICTIONS_NAME, write_outcomes
from repot.evaluator.report import render_report
from repot.evaluator.summary import summarise
from repot.layout import KERAS_NAME, METRICS_NAME, REPORT_NAME
from repot.manifest import MANIFEST_NAME, SPLITS

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
    metrics = _evaluate(model_uri, dataset_uri, output_uri, run_uri=run_uri, subset=subset, num_examples=num_examples)
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
        raise DataError(f"A data set must have a {MANIFEST_NAME}; there is no {manifest_uri}. Build the shards first.")
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
        raise ModelError(f"A model folder must have a {KERAS_NAME}; there is no {uri}. Train first.")
    return info.crc32c or storage.read_crc32c_hex(uri)


def _evaluate(
    model_uri: str, dataset_uri: str, output_uri: str, *, run_uri: str, subset: str, num_examples: int
) -> dict[str, Any]:
    from repot.dataset import load_manifest
    from repot.evaluator.events import write_events
    from repot.evaluator.report_data import REPORT_DATA_NAME, read_training, report_data
    from repot.evaluator.scoring import score

    manifest, training = load_manifest(dataset_uri), read_training(run_uri)
    scored = score(model_uri, dataset_uri, subset=subset, num_examples=num_examples)
    metrics = {
        **summarise(scored.outcomes, scored.labels),
        "dataset_id": manifest.dataset_id,
        "training_id": training["training_id"] if training else "",
        "subset": subset,
    }
    data = report_data(metrics=metrics, manifest=manifest, mistakes=scored.mistakes, run_uri=run_uri)
    write_outcomes(storage.join(output_uri, PREDICTIONS_NAME), scored.outcomes)
    storage.write_json(storage.join(output_uri, REPORT_DATA_NAME), data)
    storage.write_text(storage.join(output_uri, REPORT_NAME), render_report(data))
    write_events(output_uri, metrics, step=training["epochs"] if training else 0)
    return metrics
