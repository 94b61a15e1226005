"""A process of its own that writes one export, or scores pictures with one.

    python -m repot.evaluator.exports.worker REQUEST

Writing in a fresh process gives equal bytes every time, see `repot.evaluator.exports.convert`.
Scoring in another one proves that the files alone are enough.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from repot import quiet_tensorflow, storage
from repot.errors import RepotError
from repot.evaluator.export_record import Conversion
from repot.json_record import JsonRecord, read_record, write_record
from repot.model_spec import ModelSpec
from repot.predictor import BATCH_SIZE, Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRequest(JsonRecord):
    """What the process does.

    Attributes:
        action: "convert" writes an export, and scores pictures with the model; "score" scores them
            with an export.
        format: A key of `repot.extras.EXPORT_FORMATS`.
        model_uri: Folder of the model.
        dataset_uri: Its dataset.
        folder: Local folder of the export.
        arithmetic: How the export computes, see `repot.evaluator.export_record`.
        spec: The views that are the export's inputs; None for "convert".
        scores_path: The .npz file to write scores and classes to; "" does not score.
        result_path: The JSON file with the WorkerResult to write.
    """

    action: Literal["convert", "score"]
    format: str
    model_uri: str
    dataset_uri: str
    folder: str
    arithmetic: str
    spec: ModelSpec | None = None
    scores_path: str = ""
    result_path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerResult(JsonRecord):
    """How it went.

    Attributes:
        conversion: What was written; None for "score", or if it failed.
        failure: The message of an error that repot raised, "" for none.
        refusal: The reason that a converter or runtime gave, "" for none.
    """

    conversion: Conversion | None = None
    failure: str = ""
    refusal: str = ""


def main() -> int:
    """Do what the request says, and return the exit code."""
    request = read_record(storage.normalise(sys.argv[1]), WorkerRequest)
    quiet_tensorflow.import_tensorflow()
    try:
        result = _convert(request) if request.action == "convert" else _score_export(request)
    except RepotError as err:
        result = WorkerResult(failure=str(err))
    except Exception as err:  # noqa: BLE001 - whatever a converter raises for a network
        traceback.print_exc()
        lines = [line.strip() for line in str(err).splitlines() if line.strip()]
        result = WorkerResult(refusal=lines[0] if lines else type(err).__name__)
    write_record(request.result_path, result)
    return 0


def _convert(request: WorkerRequest) -> WorkerResult:
    from repot.evaluator.exports.convert import convert
    from repot.predictor import load_model

    conversion = convert(
        request.format,
        request.model_uri,
        request.dataset_uri,
        Path(request.folder),
        arithmetic=request.arithmetic,
    )
    if request.scores_path:
        _score(request, load_model(request.model_uri).predict)
    return WorkerResult(conversion=conversion)


def _score_export(request: WorkerRequest) -> WorkerResult:
    from repot.evaluator.exports.runtimes import load_export

    if request.spec is None:
        raise ValueError(f"spec must be set to score; got {request}.")
    _score(request, load_export(request.format, Path(request.folder), request.spec))
    return WorkerResult()


def _score(request: WorkerRequest, predict: Callable[[Sequence[bytes]], Scores]) -> None:
    from repot.dataset import open_examples
    from repot.evaluator.scoring import scored_numbers
    from repot.manifest import read_manifest
    from repot.predictor import read_labels

    manifest, labels = read_manifest(request.dataset_uri), read_labels(request.model_uri)
    numbers = scored_numbers(request.dataset_uri, manifest, "validation", "evaluate")
    outputs = {label: output for output, label in enumerate(labels)}
    probabilities, unlike = [], []
    classes: list[int] = []
    with open_examples(request.dataset_uri, manifest) as examples:
        for batch in examples["validation"].read(numbers).batch(BATCH_SIZE):
            scores = predict(list(batch["encoded"].numpy()))
            probabilities.append(scores.probabilities)
            unlike.append(scores.unlike)
            true_labels = (manifest.labels[class_id - 1] for class_id in batch["label"].numpy())
            classes += [outputs.get(label, -1) for label in true_labels]
    np.savez(
        request.scores_path,
        probabilities=np.concatenate(probabilities).astype(np.float32),
        unlike=np.concatenate(unlike).astype(np.float32),
        classes=np.array(classes),
    )


if __name__ == "__main__":
    sys.exit(main())
