"""report_data.json: everything that report and model card say of a model, before the gate's verdict.

metrics    what metrics.json says
training   what training.json says, or null
history    one object an epoch, as in history.csv; numbers, or null
data       where the pictures came from, how many, which were left out and why
mistakes   the surest wrong guesses, with small pictures
"""

import base64
import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from repot import storage
from repot.evaluator.outcomes import Mistake
from repot.layout import HISTORY_NAME, TRAINING_NAME
from repot.manifest import SPLITS, Manifest, count_reasons
from repot.pictures import REASONS

REPORT_DATA_NAME = "report_data.json"
MAX_FILES_NAMED = 20


def report_data(
    *, metrics: Mapping[str, Any], manifest: Manifest, mistakes: Sequence[Mistake], run_uri: str
) -> dict[str, Any]:
    """Return the facts of a report.

    Args:
        metrics: The scores.
        manifest: The data set.
        mistakes: The worst mistakes.
        run_uri: Folder of the training, or "" when it is not known.
    """
    return {
        "metrics": dict(metrics),
        "training": read_training(run_uri),
        "history": _read_history(run_uri),
        "data": _data_facts(manifest),
        "mistakes": [_mistake_facts(mistake) for mistake in mistakes],
    }


def read_training(run_uri: str) -> dict[str, Any] | None:
    """Return what training.json says, or None when there is none."""
    uri = storage.join(run_uri, TRAINING_NAME)
    if not run_uri or not storage.exists(uri):
        return None
    facts: dict[str, Any] = storage.read_json(uri)
    return facts


def _read_history(run_uri: str) -> list[dict[str, Any]]:
    uri = storage.join(run_uri, HISTORY_NAME)
    if not run_uri or not storage.exists(uri):
        return []
    rows = csv.DictReader(io.StringIO(storage.read_text(uri)))
    return [
        {name: value if name == "phase" else _number(value) for name, value in row.items()}
        for row in rows
    ]


def _number(text: str) -> float | None:
    return float(text) if text else None


def _data_facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "dataset_id": manifest.dataset_id,
        "pictures_uri": manifest.pictures_uri,
        "num_found": manifest.num_found,
        "num_accepted": manifest.num_accepted,
        "splits": {
            split: {
                "num_examples": manifest.num_examples(split),
                "class_counts": manifest.class_counts(split),
            }
            for split in SPLITS
        },
        "rejected": [
            {
                "reason": reason,
                "sentence": REASONS.get(reason, reason),
                "count": count,
                "files": _files(manifest, reason),
            }
            for reason, count in count_reasons(manifest.rejected).items()
        ],
    }


def _files(manifest: Manifest, reason: str) -> list[str]:
    return [rejection.path for rejection in manifest.rejected if rejection.reason == reason][
        :MAX_FILES_NAMED
    ]


def _mistake_facts(mistake: Mistake) -> dict[str, Any]:
    return {**dataclasses.asdict(mistake.outcome), "picture": thumbnail(mistake.jpeg)}


MAX_SIDE = 160
_QUALITY = 82


def thumbnail(jpeg: bytes) -> str:
    """Return a picture as a data URI: a JPEG of at most 160 x 160 pixels, its aspect kept."""
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))
        small = image.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
