"""model_spec.json: which views of a picture a model takes, and how it was calibrated.

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
    """

    backbone: str
    image_size: int
    views: tuple[View, ...] = ("central",)
    mirrored: bool = False
    temperature: float = 1.0


def read_model_spec(model_uri: str) -> ModelSpec | None:
    """Return the record of a model folder, or None if it has none.

    Raises:
        ModelError: The file is not a valid record.
    """
    uri = storage.join(model_uri, MODEL_SPEC_NAME)
    if not storage.exists(uri):
        return None
    return read_record(uri, ModelSpec, error=ModelError, advice="Train again.")
