"""report_data.json: everything that report and model card show, except the gate's verdict."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from repot import storage
from repot.data_checks import DataChecks, data_warnings, describe_checks
from repot.errors import ModelError
from repot.evaluation_record import EvaluationRecord
from repot.evaluator.outcomes import Mistake, Outcome
from repot.json_record import JsonRecord, read_record
from repot.layout import AUGMENTED_NAME, HISTORY_NAME, TRAINING_NAME
from repot.manifest import Manifest, count_reasons
from repot.picture_result import REASONS
from repot.training_record import (
    AugmentedPictures,
    EpochRecord,
    TrainingRecord,
    read_history,
)

MAX_FILES_NAMED = 20
MAX_THUMBNAIL_SIDE = 160
_THUMBNAIL_QUALITY = 82


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSummary(JsonRecord):
    """Number of examples of one split, in total and by label."""

    num_examples: int
    class_counts: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectionSummary(JsonRecord):
    """Files that were rejected for one reason.

    Attributes:
        reason: A key of `repot.picture_result.REASONS`.
        explanation: The reason for people.
        num_files: Number of rejected files.
        files: Paths of the first MAX_FILES_NAMED of them.
    """

    reason: str
    explanation: str
    num_files: int
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSummary(JsonRecord):
    """Where the pictures came from, how many there are, and which were rejected.

    Attributes:
        dataset_id: The dataset.
        pictures_uri: The pictures' folder.
        num_found: Files found.
        num_accepted: Pictures in a shard.
        splits: Examples by split.
        rejected: One entry per reason, most frequent first.
        empty_label_folders: Label folders without pictures.
        findings: What the checks found, most important first.
    """

    dataset_id: str
    pictures_uri: str
    num_found: int
    num_accepted: int
    splits: dict[str, SplitSummary]
    rejected: tuple[RejectionSummary, ...]
    empty_label_folders: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MistakeRecord(JsonRecord):
    """A wrong prediction and the picture as a data URI."""

    outcome: Outcome
    thumbnail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SuspectPicture(JsonRecord):
    """A picture whose label is probably wrong.

    Attributes:
        path: Its path, relative to the pictures folder.
        split: Its split.
        given_label, likely_label: Its label, and the one that it probably should have.
        given_probability, likely_probability: What a classifier that was not trained on it
            predicts for them.
        confidence: Probability that the given label is wrong.
        thumbnail: The picture as a data URI.
    """

    path: str
    split: str
    given_label: str
    likely_label: str
    given_probability: float
    likely_probability: float
    confidence: float
    thumbnail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SuspectSummary(JsonRecord):
    """Pictures whose label is probably wrong.

    Attributes:
        num_suspects: Their number.
        num_expected: How many of them have a wrong label, as expected from their probabilities.
        num_judged: Pictures whose label was judged.
        num_examples: Pictures of train and validation.
        table_uri: suspects.csv, which lists all of them.
        pictures: The first ones, the most confident first.
    """

    num_suspects: int
    num_expected: float
    num_judged: int
    num_examples: int
    table_uri: str
    pictures: tuple[SuspectPicture, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData(JsonRecord):
    """What report_data.json holds.

    Attributes:
        evaluation: The scores.
        training: The training of the model; None if unknown.
        history: Scores by epoch; empty if unknown.
        dataset: The dataset.
        mistakes: The most confident mistakes, most confident first.
        augmented: Training pictures as the network saw them; None if it saw them unchanged.
        suspects: Pictures whose label is probably wrong; None if none was judged.
    """

    evaluation: EvaluationRecord
    training: TrainingRecord | None
    history: tuple[EpochRecord, ...]
    dataset: DatasetSummary
    mistakes: tuple[MistakeRecord, ...]
    augmented: AugmentedPictures | None = None
    suspects: SuspectSummary | None = None


def build_report_data(
    evaluation: EvaluationRecord,
    *,
    manifest: Manifest,
    checks: DataChecks | None,
    mistakes: Sequence[Mistake],
    training: TrainingRecord | None,
    run_uri: str,
    suspects: SuspectSummary | None = None,
) -> ReportData:
    """Collect the data of a report.

    Args:
        evaluation: The scores.
        manifest: The dataset's manifest.
        checks: What its pictures show; None for a dataset of an earlier version.
        mistakes: The mistakes to show.
        training: The training of the model; None if unknown.
        run_uri: Folder of the training, with its history.csv and augmented_pictures.json; "" if
            unknown.
        suspects: Pictures whose label is probably wrong; None if none was judged.

    Raises:
        DataError: The file is not a valid history.csv, or augmented_pictures.json is not valid.
    """
    return ReportData(
        evaluation=evaluation,
        training=training,
        history=_read_history(run_uri),
        dataset=_summarise_dataset(manifest, checks),
        mistakes=tuple(
            MistakeRecord(outcome=mistake.outcome, thumbnail=thumbnail(mistake.jpeg))
            for mistake in mistakes
        ),
        augmented=_read_augmented(run_uri),
        suspects=suspects,
    )


def read_training(run_uri: str) -> TrainingRecord | None:
    """Return the training record of a run, or None if there is none.

    Args:
        run_uri: Folder of the training; "" if unknown.

    Raises:
        ModelError: The file is not a valid training.json.
    """
    uri = storage.join(run_uri, TRAINING_NAME)
    if not run_uri or not storage.exists(uri):
        return None
    return read_record(uri, TrainingRecord, error=ModelError)


def thumbnail(jpeg: bytes) -> str:
    """Return a picture as a data URI: a JPEG of at most 160 x 160 pixels, aspect ratio kept."""
    side = MAX_THUMBNAIL_SIDE
    with Image.open(io.BytesIO(jpeg)) as picture:
        picture.draft("RGB", (2 * side, 2 * side))
        small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=_THUMBNAIL_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


def _read_history(run_uri: str) -> tuple[EpochRecord, ...]:
    if not run_uri or not storage.exists(storage.join(run_uri, HISTORY_NAME)):
        return ()
    return read_history(run_uri)


def _read_augmented(run_uri: str) -> AugmentedPictures | None:
    uri = storage.join(run_uri, AUGMENTED_NAME)
    return read_record(uri, AugmentedPictures) if run_uri and storage.exists(uri) else None


def _summarise_dataset(manifest: Manifest, checks: DataChecks | None) -> DatasetSummary:
    unusual = describe_checks(checks) if checks else []
    return DatasetSummary(
        dataset_id=manifest.dataset_id,
        pictures_uri=manifest.pictures_uri,
        num_found=manifest.num_found,
        num_accepted=manifest.num_accepted,
        splits={
            split: SplitSummary(
                num_examples=manifest.num_examples(split),
                class_counts=manifest.class_counts(split),
            )
            for split in manifest.splits
        },
        rejected=tuple(
            RejectionSummary(
                reason=reason,
                explanation=REASONS.get(reason, reason),
                num_files=count,
                files=_rejected_files(manifest, reason),
            )
            for reason, count in count_reasons(manifest.rejected).items()
        ),
        empty_label_folders=manifest.empty_label_folders,
        findings=(*data_warnings(manifest, checks), *unusual),
    )


def _rejected_files(manifest: Manifest, reason: str) -> tuple[str, ...]:
    paths = [rejection.path for rejection in manifest.rejected if rejection.reason == reason]
    return tuple(paths[:MAX_FILES_NAMED])
