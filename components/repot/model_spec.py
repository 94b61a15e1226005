"""model_spec.json: which views of a picture a model takes, how it was calibrated, what it promises.

Training, evaluation, `repot predict` and the SavedModel prepare pictures by it, so all of them see
the same pixels. A model folder without the file holds the model of an earlier version of repot,
which takes the central crop.
"""

from dataclasses import dataclass
from typing import Literal

from repot import storage
from repot.errors import ModelError
from repot.json_record import JsonRecord, read_record
from repot.layout import MODEL_SPEC_NAME

View = Literal["central", "whole", "padded"]
"""Which part of a picture a model sees outside training, see `repot.preprocessing.view_picture`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCalibration(JsonRecord):
    """What a model promises about its answers, from training pictures that it was not fitted to.

    Validation and test pictures took no part. `repot.metrics.prediction_sets` makes the sets.

    Attributes:
        method: Which pictures these were, for people.
        num_examples: How many.
        error_before, error_after: Expected calibration error of their probabilities before and
            after the logits were divided by the temperature.
        coverage: Share of new pictures whose label is promised to be in their set.
        set_threshold: Least probability of a label in a set; 0 puts every label into it, which is
            all that can be promised with too few pictures.
        mean_set_size: Mean number of labels in the sets of these pictures.
        unlike_rate: Share of pictures like those of the training that is expected to have an
            `unlike` score above 1, from which on a picture is called unlike them.
    """

    method: str
    num_examples: int
    error_before: float
    error_after: float
    coverage: float
    set_threshold: float
    mean_set_size: float
    unlike_rate: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec(JsonRecord):
    """What model_spec.json holds.

    Attributes:
        backbone: A key of `repot.zoo.BACKBONES`; "" if unknown.
        image_size: Height and width of every view, in pixels.
        views: One view per input of the model, in order.
        mirrored: Whether the model also looks at the mirror image of every view; it makes that
            itself.
        temperature: What the logits were divided by. The model does that itself, so its
            probabilities are final.
        calibration: What the model promises; None for a model of an earlier version, which has no
            `unlike` output either.
    """

    backbone: str
    image_size: int
    views: tuple[View, ...] = ("central",)
    mirrored: bool = False
    temperature: float = 1.0
    calibration: ModelCalibration | None = None


def read_model_spec(model_uri: str) -> ModelSpec | None:
    """Return the record of a model folder, or None if it has none.

    Raises:
        ModelError: The file is not a valid record.
    """
    uri = storage.join(model_uri, MODEL_SPEC_NAME)
    if not storage.exists(uri):
        return None
    return read_record(uri, ModelSpec, error=ModelError, advice="Train again.")
