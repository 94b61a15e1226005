"""report_data.json: everything that report and model card show, except the gate's verdict."""

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from repot import storage
from repot.data_checks import DataChecks, data_warnings, describe_checks
from repot.errors import ModelError
from repot.evaluation_record import EvaluationRecord, ScoringTime
from repot.evaluator.export_record import ExportRecord
from repot.evaluator.floors import LabelCount
from repot.evaluator.outcomes import Outcome, ScoredPicture
from repot.json_record import JsonRecord, read_record
from repot.layout import AUGMENTED_NAME, HISTORY_NAME, TRAINING_NAME
from repot.manifest import Manifest, count_reasons
from repot.metrics import Interval
from repot.picture_result import REASONS
from repot.requested_run import RequestedRun
from repot.training_record import (
    AugmentedPictures,
    EpochRecord,
    TrainingRecord,
    read_history,
)

MAX_FILES_NAMED = 20
MAX_THUMBNAIL_SIDE = 160
MAX_CELL_PICTURES = 160
_CELL_SIDE = 96
_MAX_CELL_CHARS = 1 << 20
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
class ShownPicture(JsonRecord):
    """A prediction and its picture.

    Attributes:
        outcome: The prediction.
        thumbnail: The picture as a data URI.
        saliency: Its saliency map over the picture, as a data URI; "" without one.
    """

    outcome: Outcome
    thumbnail: str
    saliency: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellPictures(JsonRecord):
    """Pictures of one label that were predicted as another one, or as itself.

    Attributes:
        label: The true label.
        predicted: The predicted label.
        pictures: The most confident mistakes, or the least confident right predictions.
    """

    label: str
    predicted: str
    pictures: tuple[ShownPicture, ...]


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
class SliceRecord(JsonRecord):
    """The score of the pictures with one value of a column, see `repot.evaluator.slices`.

    Attributes:
        column: What the pictures have in common, such as "folder" or a column of a manifest.
        value: Its value.
        num_examples, num_correct: Scored pictures with that value; those that are right.
        precision_at_1, interval: Share of right ones; its 95 % interval.
        others: precision@1 to expect: that of the other pictures of the same labels, in the slice's
            mix of labels; None if there are none.
        p_value: Of "mistakes fall on the pictures of each label at random", against "the slice has
            more of them", corrected for the number of slices; None if it cannot be tested.
        is_worse: Whether the slice is worse by more than chance explains.
    """

    column: str
    value: str
    num_examples: int
    num_correct: int
    precision_at_1: float
    interval: Interval
    others: float | None
    p_value: float | None
    is_worse: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceSummary(JsonRecord):
    """All slices, those with the strongest evidence of being worse first.

    Attributes:
        slices: The slices.
        num_tested: How many of them were tested.
        level: The probability of calling any slice worse that is not.
    """

    slices: tuple[SliceRecord, ...]
    num_tested: int
    level: float


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
        slices: Scores by folder, size, format and columns; None if there is nothing to slice by.
        cells: Pictures of cells of the confusion matrix, those with the most mistakes first.
    """

    evaluation: EvaluationRecord
    training: TrainingRecord | None
    history: tuple[EpochRecord, ...]
    dataset: DatasetSummary
    mistakes: tuple[ShownPicture, ...]
    augmented: AugmentedPictures | None = None
    suspects: SuspectSummary | None = None
    slices: SliceSummary | None = None
    cells: tuple[CellPictures, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContext:
    """What the report of a verdict shows that report_data.json does not have.

    Attributes:
        version_uri: Folder of the published version, to show how to use it; "" if unknown.
        dataset_uri: Folder of the dataset; "" if unknown.
        compared_labels: Champion and challenger on each label; empty without a comparison.
        exports: Exports of the model, the rejected ones included.
        request: What the run was asked for; None if unknown.
        scoring_time: How long scoring took; None if unknown.
    """

    version_uri: str = ""
    dataset_uri: str = ""
    compared_labels: tuple[LabelCount, ...] = ()
    exports: tuple[ExportRecord, ...] = ()
    request: RequestedRun | None = None
    scoring_time: ScoringTime | None = None


def build_report_data(
    evaluation: EvaluationRecord,
    *,
    manifest: Manifest,
    checks: DataChecks | None,
    mistakes: Sequence[ScoredPicture],
    by_pair: Mapping[tuple[str, str], Sequence[ScoredPicture]],
    saliency_maps: Sequence[str] = (),
    training: TrainingRecord | None,
    run_uri: str,
    suspects: SuspectSummary | None = None,
    slices: SliceSummary | None = None,
) -> ReportData:
    """Collect the data of a report.

    Args:
        evaluation: The scores.
        manifest: The dataset's manifest.
        checks: What its pictures show; None for a dataset of an earlier version.
        mistakes: The mistakes to show.
        by_pair: Pictures by true and predicted label.
        saliency_maps: Of the first mistakes, see `repot.evaluator.saliency`.
        training: The training of the model; None if unknown.
        run_uri: Folder of the training, with its history.csv and augmented_pictures.json; "" if
            unknown.
        suspects: Pictures whose label is probably wrong; None if none was judged.
        slices: Scores of slices; None if there are none.

    Raises:
        DataError: The file is not a valid history.csv, or augmented_pictures.json is not valid.
    """
    return ReportData(
        evaluation=evaluation,
        training=training,
        history=_read_history(run_uri),
        dataset=_summarise_dataset(manifest, checks),
        mistakes=tuple(
            ShownPicture(
                outcome=mistake.outcome, thumbnail=thumbnail(mistake.jpeg), saliency=saliency
            )
            for mistake, saliency in zip(
                mistakes, itertools.chain(saliency_maps, itertools.repeat("")), strict=False
            )
        ),
        augmented=_read_augmented(run_uri),
        suspects=suspects,
        slices=slices,
        cells=choose_cells(evaluation, by_pair),
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


def thumbnail(jpeg: bytes, side: int = MAX_THUMBNAIL_SIDE) -> str:
    """Return a picture as a data URI: a JPEG of at most this many pixels per side, not enlarged."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        picture.draft("RGB", (2 * side, 2 * side))
        small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=_THUMBNAIL_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


def choose_cells(
    evaluation: EvaluationRecord, by_pair: Mapping[tuple[str, str], Sequence[ScoredPicture]]
) -> tuple[CellPictures, ...]:
    """Return pictures of as many cells as fit, first one of each, then a second one, and so on."""
    count = evaluation.confusion_matrix
    position = {label: i for i, label in enumerate(evaluation.labels)}

    def order(pair: tuple[str, str]) -> tuple[bool, int, int, int]:
        label, predicted = pair
        return label == predicted, -count[label][predicted], position[label], position[predicted]

    pairs = sorted(by_pair, key=order)
    shown: dict[tuple[str, str], list[ShownPicture]] = {}
    num_chars = num_pictures = 0
    for place in range(max(map(len, by_pair.values()), default=0)):
        for pair in pairs:
            if place >= len(by_pair[pair]) or num_pictures >= MAX_CELL_PICTURES:
                continue
            picture = by_pair[pair][place]
            small = thumbnail(picture.jpeg, _CELL_SIDE)
            num_chars += len(small)
            if num_chars > _MAX_CELL_CHARS:
                break
            num_pictures += 1
            shown.setdefault(pair, []).append(
                ShownPicture(outcome=picture.outcome, thumbnail=small)
            )
    return tuple(
        CellPictures(label=pair[0], predicted=pair[1], pictures=tuple(shown[pair]))
        for pair in pairs
        if pair in shown
    )


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
