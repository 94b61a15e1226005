"""suspects.csv: pictures of train and validation whose label is probably wrong, for people to edit.

It begins with the corrections that the dataset was made with; their pictures are not suspects
again.

The training judged its own pictures, see `repot.label_suspects`; here, the model judges those of
validation, which it was not trained on. Nothing is selected by that. Test pictures are not judged.
The planner reads the edited file, see `repot.planner.inputs.corrections`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repot import progress, storage
from repot.csv_text import csv_text, read_csv
from repot.dataset import open_examples
from repot.errors import DataError
from repot.evaluator.report.data import SuspectPicture, SuspectSummary, thumbnail
from repot.evaluator.scoring import ScoredSplit
from repot.json_record import read_record
from repot.label_suspects import (
    SUSPECTS_COLUMNS,
    LabelSuspects,
    Suspect,
    choose_suspects,
    fit_label_noise,
    judge_labels,
)
from repot.layout import CORRECTIONS_NAME, SUSPECTS_NAME, SUSPECTS_TABLE_NAME
from repot.manifest import Manifest, Split
from repot.training_record import TrainingRecord
from repot.work_list import SourcePicture, read_sources

_PATH, _CONTENT = (SUSPECTS_COLUMNS.index(name) for name in ("path", "content"))

MAX_SHOWN = 24
"""Suspects that the report shows with a picture."""


def write_suspects(
    output_uri: str,
    *,
    dataset_uri: str,
    manifest: Manifest,
    scored: ScoredSplit,
    training: TrainingRecord | None,
    run_uri: str,
) -> SuspectSummary:
    """Write suspects.csv, also without a suspect, and return what the report shows.

    Args:
        output_uri: Folder of the evaluation.
        dataset_uri: Folder of the dataset.
        manifest: Its manifest.
        scored: The predictions for validation.
        training: The training of the model; None if unknown.
        run_uri: Its folder; "" if unknown.

    Raises:
        DataError: suspects.json or a work list is invalid.
        CorruptShardError: A shard's bytes differ from its receipt.
    """
    judged: dict[Split, LabelSuspects] = {
        "train": _read_train(manifest, training, run_uri),
        "validation": _judge(scored, manifest.labels),
    }
    sources = {
        (split, number): source
        for split, each in judged.items()
        for number, source in read_sources(
            dataset_uri, manifest, split, [suspect.number for suspect in each.suspects]
        ).items()
    }
    corrections = _read_corrections(dataset_uri)
    decided = {row[place] for row in corrections for place in (_PATH, _CONTENT)} - {""}

    def is_decided(source: SourcePicture | None) -> bool:
        return source is not None and not decided.isdisjoint((source.path, source.content))

    found = sorted(
        (
            (split, suspect)
            for split, each in judged.items()
            for suspect in each.suspects
            if not is_decided(sources.get((split, suspect.number)))
        ),
        key=lambda item: (-item[1].confidence, item[0], item[1].number),
    )
    examples = _read_examples(dataset_uri, manifest, found)
    shown = []
    rows: list[Sequence[str | float]] = [SUSPECTS_COLUMNS, *corrections]
    for split, suspect in found:
        place = split, suspect.number
        source, example = sources.get(place), examples.get(place)
        path = source.path if source else example.filename if example else ""
        given, likely = manifest.labels[suspect.given], manifest.labels[suspect.likely]
        confidence = round(suspect.confidence, 3)
        origin = (source.content, source.uri) if source else ("", "")
        rows.append((path, given, likely, confidence, "", split, *origin))
        if example:
            shown.append(
                SuspectPicture(
                    path=path,
                    split=split,
                    given_label=given,
                    likely_label=likely,
                    given_probability=suspect.given_probability,
                    likely_probability=suspect.likely_probability,
                    confidence=suspect.confidence,
                    thumbnail=thumbnail(example.jpeg),
                )
            )
    uri = storage.join(output_uri, SUSPECTS_TABLE_NAME)
    storage.write_text(uri, csv_text(rows))
    num_judged = sum(each.num_judged for each in judged.values())
    if found:
        progress.notice(
            "evaluate",
            f"labels that may be wrong: {len(found)} of {num_judged} pictures; see the "
            f"report, fill in new_label in {uri}, and run again with --corrections",
            is_warning=True,
        )
    return SuspectSummary(
        num_suspects=len(found),
        num_expected=round(sum(suspect.confidence for _, suspect in found), 3),
        num_judged=num_judged,
        num_examples=sum(each.num_examples for each in judged.values()),
        table_uri=uri,
        pictures=tuple(shown),
    )


def _read_corrections(dataset_uri: str) -> list[list[str]]:
    """Return the corrections that the dataset was made with, so that none is lost in a new file."""
    uri = storage.join(dataset_uri, CORRECTIONS_NAME)
    if not storage.exists(uri):
        return []
    header, *rows = read_csv(storage.read_text(uri))
    if tuple(header) != SUSPECTS_COLUMNS:
        raise DataError(
            f"{uri} must have the columns {', '.join(SUSPECTS_COLUMNS)}; got {', '.join(header)!r}."
            " Delete it and run again."
        )
    return rows


@dataclass(frozen=True, slots=True)
class _Example:
    jpeg: bytes
    filename: str


def _read_examples(
    dataset_uri: str, manifest: Manifest, found: Sequence[tuple[Split, Suspect]]
) -> dict[tuple[Split, int], _Example]:
    """Return the examples that are shown: the first ones."""
    shown = found[:MAX_SHOWN]
    read: dict[tuple[Split, int], _Example] = {}
    if not shown:
        return read
    with open_examples(dataset_uri, manifest) as examples:
        for split in ("train", "validation"):
            numbers = [suspect.number for each, suspect in shown if each == split]
            parsed = examples[split].read(np.sort(np.array(numbers, np.int64)))
            for number, example in zip(sorted(numbers), parsed.as_numpy_iterator(), strict=True):
                read[split, number] = _Example(
                    example["encoded"], example["filename"].decode(errors="replace")
                )
    return read


def _read_train(manifest: Manifest, training: TrainingRecord | None, run_uri: str) -> LabelSuspects:
    """Return what the training found, if it was a training on this dataset that judged labels."""
    uri = storage.join(run_uri, SUSPECTS_NAME)
    if training and training.dataset_id == manifest.dataset_id and storage.exists(uri):
        return read_record(uri, LabelSuspects)
    return LabelSuspects(
        num_examples=manifest.num_examples("train"), num_judged=0, noise_rate=0.0, suspects=()
    )


def _judge(scored: ScoredSplit, labels: Sequence[str]) -> LabelSuspects:
    """Judge the labels of validation by the model's probabilities."""
    if scored.logits is None:
        return LabelSuspects(
            num_examples=len(scored.outcomes), num_judged=0, noise_rate=0.0, suspects=()
        )
    class_of = {label: i for i, label in enumerate(labels)}
    classes = np.array([class_of[outcome.label] for outcome in scored.outcomes], np.int64)
    noise = fit_label_noise(scored.logits, classes)
    return choose_suspects(
        judge_labels(scored.logits, classes, noise), classes, noise=noise, numbers=scored.numbers
    )
