"""The id of a training, and what a finished one leaves, such as training.json and history.csv."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import repot
from repot import layout, storage
from repot.csv_text import csv_text, read_csv
from repot.errors import DataError
from repot.json_record import JsonRecord
from repot.layout import HISTORY_NAME
from repot.selection_record import SelectionRecord
from repot.settings import TrainingSettings
from repot.settings.training import SETTINGS_OF_THE_MACHINE


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRecord(JsonRecord):
    """Scores of one epoch: one row of history.csv.

    Attributes:
        phase: Phase of the recipe, "head" or "fine_tune".
        epoch: Number of the epoch within its phase, from 1.
        learning_rate: After the epoch's last step.
        train_loss: Mean cross-entropy over the epoch's training batches, in nats.
        train_precision_at_1: Share of training examples classified correctly, in [0, 1].
        validation_loss, validation_precision_at_1: The same on validation; None without examples.
        seconds: Duration of the epoch's training steps.
    """

    phase: str
    epoch: int
    learning_rate: float
    train_loss: float
    train_precision_at_1: float
    validation_loss: float | None
    validation_precision_at_1: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecord(JsonRecord):
    """Content of training.json, the completion marker of a training.

    Attributes:
        training_id: Id of the training, see `training_id`.
        dataset_id: Dataset that it was trained on.
        checkpoint_id: Checkpoint that it started from.
        weights: The checkpoint as it was named when it was fetched, and the licence of its weights;
            "" if that is unknown.
        settings: The training settings as requested; zeros mean "choose for me".
        image_size: Height and width of the model's input, in pixels.
        labels: Label names; labels[i] has class_id i + 1.
        num_examples: Examples by split.
        num_parameters: Parameters of the model.
        epochs: Epochs over all phases.
        seconds: Duration over all starts.
        train_examples_per_second: Median speed over the epochs of the last phase.
        last_epoch: The last row of the history.
        versions: Version by package.
        selection: What recipe auto tried and chose; None for other recipes.
    """

    training_id: str
    dataset_id: str
    checkpoint_id: str
    settings: TrainingSettings
    image_size: int
    labels: tuple[str, ...]
    num_examples: dict[str, int]
    num_parameters: int
    epochs: int
    seconds: float
    train_examples_per_second: float
    last_epoch: EpochRecord
    versions: dict[str, str]
    selection: SelectionRecord | None = None
    weights: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovedTraining(JsonRecord):
    """Content of removed.json: what `repot prune` leaves of a training, for `repot runs`.

    Attributes:
        removed_at: When, in UTC, e.g. 2026-11-27T14:05:00Z.
        backbone, recipe, dataset_id, epochs, seconds, num_train_examples: What was trained.
        precision_at_1, interval, num_examples, macro_recall: Its score on validation; None and 0
            if it was not evaluated.
    """

    removed_at: str
    backbone: str
    recipe: str
    dataset_id: str
    epochs: int
    seconds: float
    num_train_examples: int
    precision_at_1: float | None = None
    interval: tuple[float, float] | None = None
    num_examples: int = 0
    macro_recall: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentedExample(JsonRecord):
    """One training picture, as evaluation sees it and as training sees it; all as data URIs.

    Attributes:
        label: Its label.
        original: What evaluation sees.
        augmented: What training may see, one of each of some epochs.
    """

    label: str
    original: str
    augmented: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentedPictures(JsonRecord):
    """Content of augmented_pictures.json, for the report.

    Attributes:
        augmentation: A key of `repot.recipes.AUGMENTATIONS`.
        has_flips: Whether pictures may be mirrored.
        examples: Some training pictures, of different labels as far as possible.
    """

    augmentation: str
    has_flips: bool
    examples: tuple[AugmentedExample, ...]


def training_id(
    dataset_id: str, checkpoint_id: str, settings: TrainingSettings, rebuild: str = ""
) -> str:
    """Return the content id of a training: equal inputs, settings and code version give equal ids.

    Args:
        dataset_id: Id of the dataset.
        checkpoint_id: Id of the converted checkpoint.
        settings: Training settings.
        rebuild: Any text; a different text gives a different id and so forces a new training.
    """
    return layout.content_id(
        {
            "dataset": dataset_id,
            "checkpoint": checkpoint_id,
            "settings": {
                name: value
                for name, value in settings.to_json().items()
                if name not in SETTINGS_OF_THE_MACHINE
            },
            "version": repot.__version__,
            "rebuild": rebuild,
        }
    )


_COLUMNS = tuple(field.name for field in dataclasses.fields(EpochRecord))


def write_history(run_uri: str, history: Sequence[EpochRecord]) -> None:
    """Write history.csv: one row per epoch; None becomes an empty field.

    Args:
        run_uri: Folder of the training.
        history: All epochs, in order.
    """
    text = csv_text([_COLUMNS, *map(dataclasses.astuple, history)])
    storage.write_text(storage.join(run_uri, HISTORY_NAME), text)


def read_history(run_uri: str) -> tuple[EpochRecord, ...]:
    """Read history.csv.

    Args:
        run_uri: Folder of the training.

    Raises:
        NotFoundError: The file does not exist.
        DataError: A row has other columns, or a field that is not a number.
    """
    uri = storage.join(run_uri, HISTORY_NAME)
    rows = read_csv(storage.read_text(uri))
    columns = next(rows, [])
    return tuple(
        _epoch_record(columns, row, f"line {line} of {uri}")
        for line, row in enumerate(rows, start=2)
    )


def _epoch_record(columns: Sequence[str], row: Sequence[str], where: str) -> EpochRecord:
    try:
        return _parse_epoch(dict(zip(columns, row, strict=True)))
    except ValueError as err:
        raise DataError(
            f"{where} must have the columns {', '.join(_COLUMNS)}; got {err}. Delete the file and "
            "run again."
        ) from err


def _parse_epoch(row: dict[str, str]) -> EpochRecord:
    values: dict[str, Any] = {
        name: float(text) if text else None
        for name, text in row.items()
        if name not in ("phase", "epoch")
    }
    return EpochRecord.from_json(
        {**values, "phase": row.get("phase"), "epoch": int(row.get("epoch", ""))}
    )
