"""Where everything lies under one storage URI, and how content ids are made.

    <storage_uri>/
      listings/<digest>.json          checksums of local pictures, remembered by path, size and mtime
      datasets/<dataset_id>/          plan.json, work/, shards, receipts/, labels.txt, manifest.json (last)
      checkpoints/<checkpoint_id>/    weights.h5, checkpoint.json (last); checkpoint_id = <sha256>/<backbone>-<values>
      runs/<training_id>/             state/, events/, history.csv, model/, training.json (last of training),
                                      evaluation/ (metrics.json last), gate/<champion version>/
      models/<name>/<version>/        model.keras, saved_model/, labels.txt, metrics.json, model_card.md,
                                      model.json (last)
      models/<name>/champion.json     the version in production

What is written last makes its folder exist: without that file, the folder does not count.
"""

import hashlib
import json
from typing import Any

from repot import storage

ID_LENGTH = 16

# Files and folders that one component writes and another one reads.
MODEL_FOLDER = "model"
KERAS_NAME = "model.keras"
HISTORY_NAME = "history.csv"
TRAINING_NAME = "training.json"
METRICS_NAME = "metrics.json"
REPORT_NAME = "report.html"
MODEL_FACTS_NAME = "model.json"


def content_id(facts: Any) -> str:
    """Return the id of JSON-able facts: the first 16 hex digits of the SHA-256 of their canonical JSON."""
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:ID_LENGTH]


def listings_uri(storage_uri: str) -> str:
    """Return the folder of remembered checksums."""
    return _under(storage_uri, "listings")


def dataset_uri(storage_uri: str, dataset_id: str) -> str:
    """Return the folder of one data set."""
    return _under(storage_uri, "datasets", dataset_id)


def checkpoints_uri(storage_uri: str) -> str:
    """Return the folder of all checkpoints."""
    return _under(storage_uri, "checkpoints")


def checkpoint_uri(storage_uri: str, checkpoint_id: str) -> str:
    """Return the folder of one converted checkpoint."""
    return _under(storage_uri, "checkpoints", checkpoint_id)


def run_uri(storage_uri: str, training_id: str) -> str:
    """Return the folder of one training run."""
    return _under(storage_uri, "runs", training_id)


def model_uri(storage_uri: str, model_name: str, version: str) -> str:
    """Return the folder of one published model version."""
    return _under(storage_uri, "models", model_name, version)


def champion_uri(storage_uri: str, model_name: str) -> str:
    """Return the pointer to the version in production."""
    return _under(storage_uri, "models", model_name, "champion.json")


def _under(storage_uri: str, *parts: str) -> str:
    return storage.join(storage.normalise(storage_uri), *parts)
