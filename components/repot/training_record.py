"""training.json, the record of a finished training, and the rows of its history.csv."""

from dataclasses import dataclass

from repot.json_record import JsonRecord
from repot.settings import TrainingSettings


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
    """What training.json holds; the file is written last and makes a training finished.

    Attributes:
        training_id: Id of the training, see `repot.trainer.request.training_id`.
        dataset_id: Dataset that it was trained on.
        checkpoint_id: Checkpoint that it started from.
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
