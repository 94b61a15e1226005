"""model_spec.json: a model's views of a picture, how its network is built, and what it promises.

Training, evaluation, `repot predict` and the SavedModel prepare pictures by it, so all of them see
the same pixels. A model folder without the file holds the model of an earlier version of repot,
which takes the central crop.
"""

from dataclasses import dataclass
from typing import Literal

from repot import storage
from repot.errors import ModelError
from repot.hub_backbone import HubArchitecture
from repot.json_record import JsonRecord, read_record
from repot.layout import MODEL_SPEC_NAME

MAX_RECORD_BYTES = 16 << 20
"""Largest size of a text file of a model, which a stranger may have written: model.json,
champion.json, labels.txt and others. With 20,000 labels each takes about 1 MiB."""

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
        error_by_chance: What a perfectly calibrated model would show on as many pictures, on
            average; None for a model of an earlier version.
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
    error_by_chance: float | None = None


MAX_UNLIKE_AXES = 256
"""Main axes of the score `unlike` that are stored: the size of a model must not grow with its
training pictures."""

Head = Literal["features", "normalised"]
"""What the dense layer of a published model sees: the backbone's features of the picture, see
`repot.classifier.published_model`; or normalised ones, the mean over views, see
`repot.classifier.published_linear_model`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSpec(JsonRecord):
    """How repot builds the network of a model, so that only numbers are read from its file.

    Attributes:
        head: What its dense layer sees.
        use_depths: Whether that includes features from inside the backbone.
        num_unlike_axes: Main axes of the score `unlike`; 0 without the score.
        architecture: What the network of KerasHub is; None for other backbones.
    """

    head: Head
    use_depths: bool = False
    num_unlike_axes: int = 0
    architecture: HubArchitecture | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedAnswer(JsonRecord):
    """What a model answers for one of the pictures of `repot.model_fingerprint`, rounded.

    Attributes:
        outputs: Indexes of its most probable labels, the first one first.
        probabilities: Their probabilities.
        unlike: How unlike the training pictures it is; None of a model without that output.
    """

    outputs: tuple[int, ...]
    probabilities: tuple[float, ...]
    unlike: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint(JsonRecord):
    """What a model answered at the end of its training, see `repot.model_fingerprint`.

    Attributes:
        versions: Versions of the packages that computed it, by name.
        answers: One per picture.
    """

    versions: dict[str, str]
    answers: tuple[FixedAnswer, ...]


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
        network: How the network is built; None for a model of an earlier version, whose network is
            read from its file, see `repot.keras_model`.
        fingerprint: What it answers for fixed pictures; None for a model of an earlier version.
    """

    backbone: str
    image_size: int
    views: tuple[View, ...] = ("central",)
    mirrored: bool = False
    temperature: float = 1.0
    calibration: ModelCalibration | None = None
    network: NetworkSpec | None = None
    fingerprint: Fingerprint | None = None


def read_model_spec(model_uri: str) -> ModelSpec | None:
    """Return the record of a model folder, or None if it has none.

    Raises:
        ModelError: The file is not a valid record.
    """
    uri = storage.join(model_uri, MODEL_SPEC_NAME)
    if not storage.exists(uri):
        return None
    return read_record(
        uri, ModelSpec, error=ModelError, advice="Train again.", max_bytes=MAX_RECORD_BYTES
    )
