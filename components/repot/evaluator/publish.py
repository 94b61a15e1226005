"""Makes a trained and evaluated run a version of a model: a folder that is complete in itself, model.json last."""

from collections.abc import Mapping
from typing import Any

from repot import layout, storage
from repot.evaluator.report.data import REPORT_DATA_NAME
from repot.evaluator.report.model_card import render_model_card
from repot.layout import METRICS_NAME, MODEL_FOLDER, MODEL_RECORD_NAME

EVALUATION_FOLDER = "evaluation"
MODEL_CARD_NAME = "model_card.md"

_SUMMARY = (
    "precision_at_1",
    "precision_at_1_interval",
    "recall_at_5",
    "recall_k",
    "loss",
    "num_examples",
    "subset",
)


def publish(run_uri: str, storage_uri: str, *, model_name: str, version: str) -> str:
    """Copy a run's model and what is known about it to models/<name>/<version>/; nothing happens when it is there.

    Args:
        run_uri: Folder of the training, evaluated.
        storage_uri: Where everything lies.
        model_name: The model.
        version: The version: the training's id.

    Returns:
        The folder of the version.

    Raises:
        NotFoundError: The run was not evaluated.
    """
    target_uri = layout.model_uri(storage_uri, model_name, version)
    facts_uri = storage.join(target_uri, MODEL_RECORD_NAME)
    if storage.exists(facts_uri):
        return target_uri
    evaluation_uri = storage.join(run_uri, EVALUATION_FOLDER)
    metrics_bytes = storage.read_bytes(storage.join(evaluation_uri, METRICS_NAME))
    data = storage.read_json(storage.join(evaluation_uri, REPORT_DATA_NAME))
    storage.copy_folder(storage.join(run_uri, MODEL_FOLDER), target_uri)
    storage.write_bytes(storage.join(target_uri, METRICS_NAME), metrics_bytes)
    card = render_model_card(data, model_name=model_name, version=version)
    storage.write_text(storage.join(target_uri, MODEL_CARD_NAME), card)
    storage.write_json(facts_uri, _model_facts(data, model_name, version))
    return target_uri


def _model_facts(data: Mapping[str, Any], model_name: str, version: str) -> dict[str, Any]:
    training, metrics = data["training"], data["metrics"]
    return {
        "name": model_name,
        "version": version,
        "labels": training["labels"],
        "backbone": training["settings"]["backbone"],
        "image_size": training["image_size"],
        "dataset_id": training["dataset_id"],
        "training_id": training["training_id"],
        "metrics": {name: metrics[name] for name in _SUMMARY},
    }
