"""Export a model: write it, load it in another process, and compare its answers with the model's.

An export is accepted only if its answers on every scored picture of validation are those of the
model, see `repot.evaluator.export_record`. Each step runs in a process of its own.
"""

import hashlib
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np

import repot
from repot import layout, progress, storage
from repot.errors import ModelError, NotFoundError, RepotError, UsageError, advise
from repot.evaluator.export_record import (
    INTEGER_ARITHMETICS,
    ExportedFile,
    ExportParity,
    ExportRecord,
    arithmetics_of,
    read_export,
)
from repot.evaluator.exports import worker
from repot.evaluator.exports.worker import WorkerRequest, WorkerResult
from repot.extras import check_export_formats
from repot.folder_checksums import write_last
from repot.json_record import read_record, record_text, write_record
from repot.layout import EXPORT_NAME, MANIFEST_NAME, MODEL_RECORD_NAME
from repot.manifest import read_manifest
from repot.metrics import FloatArray
from repot.model_registry import read_model_record
from repot.model_spec import ModelSpec, read_model_spec
from repot.predictor import model_digest
from repot.signatures import check_signature

_FORMAT = 2
"""Part of every export id. Increase it when the same model gives other files."""
_MAX_LOG = 4000  # characters
_ACTIONS = {"convert": "exports to", "score": "scores with"}


_log = logging.getLogger(__name__)


def export_model(
    export_format: str, *, model_uri: str, dataset_uri: str, output_uri: str
) -> ExportRecord:
    """Export a model to a folder.

    Args:
        export_format: A key of `repot.extras.EXPORT_FORMATS`.
        model_uri: Folder of the model.
        dataset_uri: The dataset that it was trained on.
        output_uri: A new or empty folder, or one that has this export already.

    Raises:
        UsageError: A package is missing, or the folder has other files.
        ModelError: The export is rejected, or the model is not signed as `repot.signatures`
            requires; nothing is written then.
    """
    check_export_formats([export_format])
    check_signature(model_uri)
    export_id = _export_id(export_format, model_uri, dataset_uri)
    if storage.list_objects(output_uri):
        finished = read_export(output_uri)
        if finished is None or finished.export_id != export_id:
            raise UsageError(
                "The folder of an export must be new or empty, because all of its files belong to "
                f"the export; got output={output_uri}. Name another folder, or empty this one."
            )
        return finished
    with _Exporter(model_uri, dataset_uri) as exporter:
        record, folder = exporter.export(export_format, export_id)
        if record.problem:
            raise ModelError(
                f"{record.rejection} Choose another format; saved_model computes as the model does."
            )
        _write_export(record, folder, output_uri)
    return record


def make_exports(
    formats: Sequence[str], *, model_uri: str, dataset_uri: str, folder_uri: str
) -> tuple[ExportRecord, ...]:
    """Export a model to several formats, and return the record of each.

    Finished exports are not repeated. A rejected export has an export.json and no other file.

    Args:
        formats: Keys of `repot.extras.EXPORT_FORMATS`.
        model_uri: Folder of the model.
        dataset_uri: The dataset that it was trained on.
        folder_uri: Gets one folder per format.

    Raises:
        UsageError: A package is missing.
        RepotError: Model or dataset cannot be read.
    """
    ids = {name: _export_id(name, model_uri, dataset_uri) for name in formats}
    records: dict[str, ExportRecord] = {}
    for name, export_id in ids.items():
        finished = read_export(storage.join(folder_uri, name))
        if finished is not None and finished.export_id == export_id:
            records[name] = finished
    missing = [name for name in formats if name not in records]
    if missing:
        check_export_formats(missing)
        with _Exporter(model_uri, dataset_uri) as exporter:
            for number, name in enumerate(missing):
                progress.report("evaluate", number, len(missing), unit="exports", note=name)
                record, folder = exporter.export(name, ids[name])
                _write_export(record, folder, storage.join(folder_uri, name))
                records[name] = record
            progress.report("evaluate", len(missing), len(missing), unit="exports")
    for record in records.values():
        if record.problem:
            progress.notice("evaluate", record.rejection, is_warning=True)
    return tuple(records[name] for name in formats)


def find_dataset(model_uri: str, storage_uri: str) -> str:
    """Return the dataset that a published model was trained on.

    It is looked for in the storage that the model is in, and in another one.

    Args:
        model_uri: Folder of a version, or a copy of it.
        storage_uri: The other storage.

    Raises:
        ModelError: The folder has no model.json, or the dataset is in neither storage.
    """
    advice = "Name the dataset's folder with --data, or its storage with --storage-uri."
    try:
        record = read_model_record(model_uri)
    except NotFoundError as err:
        raise ModelError(
            f"A model must be published before its dataset can be found; {model_uri} has no "
            f"{MODEL_RECORD_NAME}. {advice}"
        ) from err
    # <storage>/models/<name>/<version>
    own_storage = storage.parent(storage.parent(storage.parent(model_uri)))
    candidates = [layout.dataset_uri(uri, record.dataset_id) for uri in (own_storage, storage_uri)]
    for uri in candidates:
        if storage.exists(storage.join(uri, MANIFEST_NAME)):
            return uri
    raise ModelError(
        "An export is compared with its model on the validation pictures of the dataset "
        f"{record.dataset_id}; got neither {' nor '.join(candidates)}. {advice}"
    )


class _Exporter:
    """Exports one model; its answers on the pictures are computed once."""

    def __init__(self, model_uri: str, dataset_uri: str) -> None:
        self._model_uri, self._dataset_uri = model_uri, dataset_uri
        self._scratch = tempfile.TemporaryDirectory(prefix="repot-exports-")
        self._folder = Path(self._scratch.name)
        self._model_scores: _Scores | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def export(self, export_format: str, export_id: str) -> tuple[ExportRecord, Path]:
        """Write an export and compare it; return its record, and the folder with its files.

        A format that computes in integers is tried in one arithmetic after the other until one is
        accepted.

        Raises:
            RepotError: The model, the dataset or the disk cannot be read or written.
        """
        record = ExportRecord(
            export_id=export_id,
            format=export_format,
            dataset_id=read_manifest(self._dataset_uri).dataset_id,
        )
        tried: list[tuple[ExportRecord, Path]] = []
        for arithmetic in arithmetics_of(export_format):
            folder = self._folder / export_format / arithmetic
            folder.mkdir(parents=True)
            tried.append((self._export(record, arithmetic, folder), folder))
            if not tried[-1][0].problem:
                return tried[-1]
        # The one that comes nearest. One that could not be compared is the last choice.
        rejected, folder = min(tried, key=lambda each: each[0].parity.loss if each[0].parity else 1)
        if len(tried) > 1:
            kinds = "; ".join(INTEGER_ARITHMETICS.values())
            problem = (
                f"{rejected.problem}; this is the best of {len(tried)} ways to compute: {kinds}"
            )
            rejected = replace(rejected, problem=problem)
        return rejected, folder

    def _export(self, record: ExportRecord, arithmetic: str, folder: Path) -> ExportRecord:
        """Write an export in one arithmetic and compare it; return its record."""
        export_format = record.format
        written = self._run("convert", export_format, arithmetic, folder)
        if written.conversion is None:
            spec = read_model_spec(self._model_uri)
            backbone = (spec and spec.backbone) or "the network"
            return replace(record, problem=f"{backbone} cannot be converted: {written.refusal}")
        record = replace(record, conversion=written.conversion)
        if self._model_scores is None:
            self._model_scores = self._read_scores()
        scored = self._run("score", export_format, arithmetic, folder, written.conversion.spec)
        if scored.refusal:
            return replace(record, problem=f"it cannot be run: {scored.refusal}")
        parity = _compare(
            self._model_scores, self._read_scores(), has_unlike=written.conversion.has_unlike
        )
        _log.info(
            "export %s in %s: %d of %d pictures agree, probabilities differ by at most %.2g",
            export_format,
            arithmetic,
            parity.num_agreeing,
            parity.num_pictures,
            parity.max_difference,
        )
        problem = parity.problem(export_format)
        files = () if problem else tuple(_describe_files(folder))
        return replace(record, parity=parity, problem=problem, files=files)

    def _run(
        self,
        action: Literal["convert", "score"],
        export_format: str,
        arithmetic: str,
        folder: Path,
        spec: ModelSpec | None = None,
    ) -> WorkerResult:
        request_path, result_path = self._folder / "request.json", self._folder / "result.json"
        result_path.unlink(missing_ok=True)
        request = WorkerRequest(
            action=action,
            format=export_format,
            model_uri=self._model_uri,
            dataset_uri=self._dataset_uri,
            folder=str(folder),
            arithmetic=arithmetic,
            spec=spec,
            # The model's own answers are computed once, by the process that has loaded it.
            scores_path=""
            if action == "convert" and self._model_scores
            else str(self._folder / "scores.npz"),
            result_path=str(result_path),
        )
        write_record(str(request_path), request)
        command = [sys.executable, "-m", worker.__name__, str(request_path)]
        done = subprocess.run(  # noqa: S603 - our own module
            command, capture_output=True, text=True, check=False
        )
        if not result_path.exists():
            _log.error("%s", done.stderr[-_MAX_LOG:])
            raise RepotError(
                f"The process that {_ACTIONS[action]} {export_format} must finish; "
                f"it ended with exit code {done.returncode}. "
                + advise(
                    on_machine="If it was killed, free some memory.",
                    in_pod="If it was killed, raise evaluator_memory.",
                )
            )
        result = read_record(str(result_path), WorkerResult)
        if result.refusal:
            _log.warning("%s", done.stderr[-_MAX_LOG:])
        if result.failure:
            raise RepotError(result.failure)
        return result

    def _read_scores(self) -> "_Scores":
        with np.load(self._folder / "scores.npz") as arrays:
            return _Scores(arrays["probabilities"], arrays["unlike"], arrays["classes"])


class _Scores(NamedTuple):
    """Scores, float32 [pictures, N] and [pictures], and true classes, int [pictures] or -1."""

    probabilities: FloatArray
    unlike: FloatArray
    classes: Any


def _compare(model: _Scores, export: _Scores, *, has_unlike: bool) -> ExportParity:
    model_first, export_first = (each.probabilities.argmax(axis=1) for each in (model, export))
    is_right, export_is_right = model_first == model.classes, export_first == model.classes
    return ExportParity(
        num_pictures=len(model.classes),
        num_agreeing=int(np.sum(model_first == export_first)),
        max_difference=float(np.abs(model.probabilities - export.probabilities).max()),
        num_correct=int(np.sum(is_right)),
        only_model=int(np.sum(is_right & ~export_is_right)),
        only_export=int(np.sum(~is_right & export_is_right)),
        num_unlike_agreeing=int(np.sum((model.unlike > 1) == (export.unlike > 1)))
        if has_unlike
        else None,
        max_unlike_difference=float(np.abs(model.unlike - export.unlike).max())
        if has_unlike
        else None,
    )


def _export_id(export_format: str, model_uri: str, dataset_uri: str) -> str:
    return layout.content_id(
        {
            "format": export_format,
            "model": model_digest(model_uri),
            "dataset": read_manifest(dataset_uri).dataset_id,
            "version": [repot.__version__, _FORMAT],
        }
    )


def _describe_files(folder: Path) -> Iterator[ExportedFile]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield ExportedFile(
            name=path.relative_to(folder).as_posix(),
            size_bytes=path.stat().st_size,
            sha256=digest,
        )


def _write_export(record: ExportRecord, folder: Path, uri: str) -> None:
    """Write a finished export; one that was begun before is replaced."""
    storage.delete_folder(uri)
    if not record.problem:
        storage.upload_folder(folder, uri)
    names = [] if record.problem else [file.name for file in record.files]
    write_last(uri, EXPORT_NAME, record_text(record), parts=names)
