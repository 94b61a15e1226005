"""Where everything is stored under one storage URI: every file name, folder name and content id.

    <storage_uri>/
      listings/<digest>.json       CRC32C of pictures, cached by URI and state of the file
      unpacked/<digest>.tar        compressed archives of pictures, unpacked
      datasets/by-pictures/        the newest dataset of a folder of pictures, by its digest, from
                                   which the next one takes over what did not change
      datasets/<dataset_id>/       base.json (if any), plan.json, work/, shards, or compositions/
                                   and packs/ instead of some, checks/, receipts/, data.html,
                                   checks.json, digests/, classes/, groups/ (if any),
                                   labels.txt, corrections.csv (if any),
                                   manifest.json (last)
      checkpoints/<checkpoint_id>/ weights.h5, checkpoint.json (last);
                                   checkpoint_id = <sha256>/<backbone>-<values>
      features/                    features of frozen backbones, see repot.feature_store
      predictions/                 answers of models for pictures, see repot.prediction_store
      runs/<training_id>/          state/, events/, history.csv, model/,
                                   augmented_pictures.json (if any), suspects.json (if any),
                                   training.json (last of training), job/,
                                   run_request.json (of the latest run),
                                   exports/<format>/ (export.json last),
                                   evaluation/ (suspects.csv, metrics.json last; test/ has that of
                                   test),
                                   gate/<champion version>/predictions.csv,
                                   gate/<champion version>/<verdict_id>/ verdict.json, report.html,
                                   report.md, labels.json (if compared)
      models/<name>/<version>/     model.keras, saved_model/, labels.txt, model_spec.json,
                                   metrics.json, trained_on.bin, model_card.md,
                                   exports/<format>/ (export.json last),
                                   model.sig (if signed), model.json (last);
                                   for KServe serving/1/ and inference_service.yaml (last of the
                                   two)
      models/<name>/champion.json  the version in production
      models/<name>/comparisons.json   the gate's comparisons, see repot.evaluator.comparison_log
      notifications/<run id>/      one file per event that was sent, see repot.notification
      uses/                        what runs use, for `repot prune`, see repot.pruning.uses

A folder is complete once the file marked "last" exists; without it, the folder does not count.
checksums.json, written before it, has the SHA-256 of the files, see repot.folder_checksums.
"""

import enum
import hashlib
import json
from typing import Any

from repot import storage

ID_LENGTH = 16


class StoredFolder(enum.StrEnum):
    """The folders under the storage URI."""

    LISTINGS = "listings"
    UNPACKED = "unpacked"
    DATASETS = "datasets"
    CHECKPOINTS = "checkpoints"
    FEATURES = "features"
    PREDICTIONS = "predictions"
    RUNS = "runs"
    MODELS = "models"
    NOTIFICATIONS = "notifications"
    USES = "uses"


# in every finished folder
CHECKSUMS_NAME = "checksums.json"

# datasets/
NEWEST_DATASETS_FOLDER = "by-pictures"

# datasets/<dataset_id>/
PLAN_NAME = "plan.json"
WORK_FOLDER = "work"
RECEIPTS_FOLDER = "receipts"
DIGESTS_FOLDER = "digests"
CLASSES_FOLDER = "classes"
GROUPS_FOLDER = "groups"
CHECKS_FOLDER = "checks"
PACKS_FOLDER = "packs"
COMPOSITIONS_FOLDER = "compositions"
BASE_NAME = "base.json"
CHECKS_NAME = "checks.json"
DATA_PAGE_NAME = "data.html"
CORRECTIONS_NAME = "corrections.csv"
LABELS_NAME = "labels.txt"
MANIFEST_NAME = "manifest.json"

DATASET_PARTS = (
    *(BASE_NAME, PLAN_NAME, CHECKS_NAME, DATA_PAGE_NAME, CORRECTIONS_NAME, LABELS_NAME),
    *(f"{name}/" for name in (WORK_FOLDER, RECEIPTS_FOLDER, DIGESTS_FOLDER, GROUPS_FOLDER)),
    *(f"{name}/" for name in (CLASSES_FOLDER, CHECKS_FOLDER, COMPOSITIONS_FOLDER, PACKS_FOLDER)),
)
"""All but shards and manifest."""

# checkpoints/<checkpoint_id>/
WEIGHTS_NAME = "weights.h5"
CHECKPOINT_NAME = "checkpoint.json"

# checkpoints/
ORIGINAL_FOLDER = "original"
FETCHED_SOURCES_FOLDER = "by-source"

# in the storage URI, or in the folder of a training without one
FEATURES_FOLDER = StoredFolder.FEATURES.value

# runs/<training_id>/
STATE_FOLDER = "state"
STATE_NAME = "latest.json"
EVENTS_FOLDER = "events"
HISTORY_NAME = "history.csv"
AUGMENTED_NAME = "augmented_pictures.json"
SUSPECTS_NAME = "suspects.json"
RUN_REQUEST_NAME = "run_request.json"
REMOVED_NAME = "removed.json"
TRAINING_NAME = "training.json"
JOB_FOLDER = "job"
REQUEST_NAME = "request.json"
HEARTBEAT_NAME = "heartbeat.json"
EVALUATION_FOLDER = "evaluation"
PREDICTIONS_NAME = "predictions.csv"
SCORING_TIME_NAME = "scoring_time.json"
LABEL_COMPARISON_NAME = "labels.json"
REPORT_MARKDOWN_NAME = "report.md"
SUSPECTS_TABLE_NAME = "suspects.csv"
REPORT_DATA_NAME = "report_data.json"
REPORT_NAME = "report.html"
METRICS_NAME = "metrics.json"
GATE_FOLDER = "gate"
VERDICT_NAME = "verdict.json"

# runs/<training_id>/exports/<format>/ and models/<name>/<version>/exports/<format>/
EXPORTS_FOLDER = "exports"
EXPORT_NAME = "export.json"
LITERT_NAME = "model.tflite"
ONNX_NAME = "model.onnx"
SERVED_VERSION_FOLDER = "1"
"""Folder of a SavedModel in what a model server loads: servers number versions."""

TRAINING_PARTS = (
    *("model/", f"{EVENTS_FOLDER}/"),
    *(HISTORY_NAME, AUGMENTED_NAME, SUSPECTS_NAME),
)
"""What a finished training consists of, but training.json."""
EVALUATION_PARTS = (
    *(PREDICTIONS_NAME, SUSPECTS_TABLE_NAME, REPORT_DATA_NAME, REPORT_NAME),
    *(REPORT_MARKDOWN_NAME, SCORING_TIME_NAME),
    f"{EVENTS_FOLDER}/",
)
"""What a finished evaluation of a split consists of, but metrics.json."""

# runs/<training_id>/model/ and models/<name>/<version>/
MODEL_FOLDER = "model"
KERAS_NAME = "model.keras"
SAVED_MODEL_FOLDER = "saved_model"
MODEL_SPEC_NAME = "model_spec.json"
MODEL_CARD_NAME = "model_card.md"
MODEL_RECORD_NAME = "model.json"
SIGNATURE_NAME = "model.sig"
TRAINED_ON_NAME = "trained_on.bin"
CHAMPION_NAME = "champion.json"
COMPARISONS_NAME = "comparisons.json"
SERVING_FOLDER = "serving"
INFERENCE_SERVICE_NAME = "inference_service.yaml"


ADDED_TO_VERSIONS = (
    *(MODEL_RECORD_NAME, SIGNATURE_NAME, SERVING_FOLDER, INFERENCE_SERVICE_NAME),
    CHECKSUMS_NAME,
)
"""In the folder of a version, but not among the files that its model.json lists."""


def content_id(value: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of a value's canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:ID_LENGTH]


def listings_uri(storage_uri: str) -> str:
    """Return the folder of cached checksums."""
    return _under(storage_uri, StoredFolder.LISTINGS)


def listing_id(kind: str, uris: Any) -> str:
    """Return the id of cached checksums, which the name of their file begins with.

    Args:
        kind: "folders", or what kind of file is indexed, such as "archive".
        uris: The folders, by the prefix of the paths in them; or the file.
    """
    return content_id(uris if kind == "folders" else [kind, uris])


def listing_ids(pictures_uri: str) -> set[str]:
    """Return the ids of all that may be cached of a location of pictures."""
    kinds = {kind: listing_id(kind, pictures_uri) for kind in ("archive", "tfrecord")}
    return {listing_id("folders", {"": pictures_uri}), *kinds.values()}


def unpacked_uri(storage_uri: str) -> str:
    """Return the folder of archives that had to be unpacked."""
    return _under(storage_uri, StoredFolder.UNPACKED)


def dataset_uri(storage_uri: str, dataset_id: str) -> str:
    """Return the folder of one dataset."""
    return _under(storage_uri, StoredFolder.DATASETS, dataset_id)


def newest_dataset_uri(storage_uri: str, pictures_uri: str) -> str:
    """Return the file that names the newest dataset of some pictures."""
    return _under(
        storage_uri,
        StoredFolder.DATASETS,
        NEWEST_DATASETS_FOLDER,
        f"{content_id(pictures_uri)}.json",
    )


def appearances_name(shard: str) -> str:
    """Return the name of what a shard's pictures look like, relative to the dataset."""
    return f"{CHECKS_FOLDER}/{shard}.npy"


def checkpoints_uri(storage_uri: str) -> str:
    """Return the folder of all checkpoints."""
    return _under(storage_uri, StoredFolder.CHECKPOINTS)


def checkpoint_uri(storage_uri: str, checkpoint_id: str) -> str:
    """Return the folder of one converted checkpoint."""
    return _under(storage_uri, StoredFolder.CHECKPOINTS, checkpoint_id)


def features_uri(storage_uri: str) -> str:
    """Return the folder of all stored features."""
    return _under(storage_uri, StoredFolder.FEATURES)


def predictions_uri(storage_uri: str) -> str:
    """Return the folder of all stored predictions."""
    return _under(storage_uri, StoredFolder.PREDICTIONS)


def runs_uri(storage_uri: str) -> str:
    """Return the folder of all training runs."""
    return _under(storage_uri, StoredFolder.RUNS)


def run_uri(storage_uri: str, training_id: str) -> str:
    """Return the folder of one training run."""
    return _under(storage_uri, StoredFolder.RUNS, training_id)


def gate_uri(storage_uri: str, training_id: str, champion_version: str) -> str:
    """Return the folder of one version's comparisons with one champion."""
    return _under(storage_uri, StoredFolder.RUNS, training_id, GATE_FOLDER, champion_version)


def verdict_name(training_id: str, champion_version: str, verdict_id: str) -> str:
    """Return the name of one verdict under the storage URI."""
    return "/".join(
        (StoredFolder.RUNS, training_id, GATE_FOLDER, champion_version, verdict_id, VERDICT_NAME)
    )


def models_uri(storage_uri: str) -> str:
    """Return the folder of all models."""
    return _under(storage_uri, StoredFolder.MODELS)


def split_folder(folder_uri: str, split: str) -> str:
    """Return where a folder of scores has those of a split: itself for validation."""
    return folder_uri if split == "validation" else storage.join(folder_uri, split)


def model_uri(storage_uri: str, model_name: str, version: str) -> str:
    """Return the folder of one published model version."""
    return _under(storage_uri, StoredFolder.MODELS, model_name, version)


def champion_uri(storage_uri: str, model_name: str) -> str:
    """Return the pointer to the version in production."""
    return _under(storage_uri, StoredFolder.MODELS, model_name, CHAMPION_NAME)


def comparisons_uri(storage_uri: str, model_name: str) -> str:
    """Return the file of all comparisons of a model."""
    return _under(storage_uri, StoredFolder.MODELS, model_name, COMPARISONS_NAME)


def notification_uri(storage_uri: str, run_id: str, event: str) -> str:
    """Return the file that stands for one sent notification of one pipeline run."""
    return _under(storage_uri, StoredFolder.NOTIFICATIONS, run_id, f"{event}.json")


def uses_uri(storage_uri: str) -> str:
    """Return the folder of what runs use."""
    return _under(storage_uri, StoredFolder.USES)


def use_uri(storage_uri: str, use_id: str) -> str:
    """Return the file that says what a run uses."""
    return _under(storage_uri, StoredFolder.USES, f"{use_id}.json")


def _under(storage_uri: str, *parts: str) -> str:
    return storage.join(storage.normalise(storage_uri), *parts)
