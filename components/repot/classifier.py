"""The image classifier: how it is built, split for training, published and rebuilt.

It rescales pictures to the backbone's value range and applies backbone, dropout and a dense layer:
float32 [batch, image_size, image_size, 3], RGB in [0, 1] -> float32 [batch, N + 1] logits. Index 0
is the background class of 2016: no picture has it. Only training knows it; the published model
returns the probabilities of the N labels, and how unlike the training pictures a picture is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from repot.backbone_weights import load_weights
from repot.hub_backbone import HubArchitecture, load_architecture
from repot.keras_model import Shapes, shapes_without_memory
from repot.model_spec import Head, ModelSpec, NetworkSpec
from repot.zoo import build_backbone, find_backbone

DROPOUT = 0.2
"""Share of the features that training drops before the logits.

Source: research/inception, slim/inception_model.py.
"""

RESCALE_NAME, DROPOUT_NAME, HEAD_NAME = "rescale", "dropout", "logits"
"""Names of the layers around the backbone."""

_PROBABILITIES, _UNLIKE_DISTANCE, _UNLIKE_AXES = "probabilities", "unlike_distance", "unlike_axes"
"""Names of the layers with the weights of a published model's outputs."""

POWER_EPSILON = 1e-4
"""Added under a square root, so that its gradient is finite when the network is fine-tuned."""

_LENGTH_EPSILON = 1e-12  # Also Keras' own in UnitNormalization.
_NEVER = -1e4  # Logit of a class that is never predicted.


def build_classifier(
    backbone: str,
    *,
    num_classes: int,
    image_size: int,
    seed: int,
    weights_path: Path | None = None,
    architecture: HubArchitecture | None = None,
) -> Any:
    """Return a keras.Model of a backbone with a new head.

    Args:
        backbone: A key of `repot.zoo.BACKBONES`.
        num_classes: Number of logits, background class included.
        image_size: Height and width in pixels.
        seed: Seed of every layer that draws random numbers.
        weights_path: Weights of the backbone, see `repot.backbone_weights`; None leaves it random.
        architecture: That of a network of KerasHub, for one without weights.

    Raises:
        CheckpointError: The weights do not fit the backbone.
    """
    spec = find_backbone(backbone)
    network = build_backbone(
        backbone, image_size=image_size, weights_path=weights_path, architecture=architecture
    )
    if weights_path is not None:
        load_weights(network, weights_path)
    seed_generators = [
        layer.seed_generator for layer in network.layers if hasattr(layer, "seed_generator")
    ]
    dropout_seed, *seeds = np.random.SeedSequence(seed).generate_state(1 + len(seed_generators))
    # keras.applications takes no seed, so each layer took one from Python's global generator.
    for generator, layer_seed in zip(seed_generators, seeds, strict=True):
        generator.state.assign([int(layer_seed), 0])
    pictures = keras.Input([image_size, image_size, 3], name="pictures")
    rescaled = keras.layers.Rescaling(spec.scale, spec.offset, name=RESCALE_NAME)(pictures)
    features = network(rescaled)
    dropped_out = keras.layers.Dropout(DROPOUT, seed=int(dropout_seed), name=DROPOUT_NAME)(features)
    # Zeros, as in Kolesnikov et al. 2020 (BiT): no class has an advantage at first, for any seed.
    head = keras.layers.Dense(
        num_classes, kernel_initializer="zeros", name=HEAD_NAME, dtype="float32"
    )
    logits = head(dropped_out)
    return keras.Model(pictures, logits, name=f"{backbone}_classifier")


def split_classifier(classifier: Any) -> tuple[Any, Any]:
    """Return two models that share the classifier's layers.

    Returns:
        The extractor from pictures to features, and the head from features to logits.
    """
    dropout, head = classifier.get_layer(DROPOUT_NAME), classifier.get_layer(HEAD_NAME)
    extractor = keras.Model(classifier.input, dropout.input, name="features")
    features = keras.Input(dropout.input.shape[1:], name="features")
    return extractor, keras.Model(features, head(dropout(features)), name="head")


def training_logits(classifier: Any) -> Callable[[Any, bool], Any]:
    """Return the function (pictures, training) -> logits that fine-tuning differentiates.

    Only the dropout before the logits runs in training mode. BatchNorm keeps its pre-trained
    statistics because those of a small dataset are worse: MobileNetV2 fell from .83 to .68 on 330
    photos. Calling the classifier itself with training=True would put every layer in training mode,
    even layers called with `training=False` in its graph (Keras 3, Functional.call).
    """
    extractor, head = split_classifier(classifier)
    return lambda pictures, training: head(extractor(pictures, training=False), training=training)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UnlikeScore:
    """How unlike the training pictures a picture is: a squared distance, 1 is the threshold.

    The Mahalanobis distance of its normalised features to those of the training pictures, whose
    covariance has some main axes and the same variance in all other directions.

    Attributes:
        mean: float64 [features], the mean of the training pictures.
        axes: float64 [features, k], orthogonal columns of length at most 1: the share of the
            distance along an axis that is usual, and not counted.
        threshold: The squared distance from which on a picture is unlike.
    """

    mean: Any
    axes: Any
    threshold: float

    def scores(self, rows: Any) -> Any:
        """Return the score of normalised features, float64 [n]; above 1 is unlike."""
        centred = rows - self.mean
        along = centred @ self.axes
        return (np.sum(centred**2, axis=1) - np.sum(along**2, axis=1)) / self.threshold


def published_model(
    classifier: Any, *, temperature: float = 1.0, unlike: UnlikeScore | None = None
) -> Any:
    """Return the model that is published, without the background class.

    Args:
        classifier: A model built by `build_classifier`.
        temperature: What the logits are divided by.
        unlike: The score of the backbone's normalised features; None leaves that output out.

    Returns:
        A keras.Model of Keras' own layers: float32 [batch, image_size, image_size, 3], RGB in
        [0, 1] -> the outputs that `_outputs` documents. It shares the classifier's layers except
        the last one, which is a copy.
    """
    kernel, bias = classifier.get_layer(HEAD_NAME).get_weights()
    model = _published_network(
        classifier, num_labels=len(bias) - 1, num_unlike_axes=_num_axes(unlike)
    )
    # The softmax of the other logits alone is the probability given that it is not background.
    _set_outputs(model, kernel[:, 1:], bias[1:], temperature=temperature, unlike=unlike)
    return model


def _published_network(classifier: Any, *, num_labels: int, num_unlike_axes: int) -> Any:
    """Return the network of `published_model`; its outputs have no weights yet."""
    features = classifier.get_layer(DROPOUT_NAME).input
    normalised = _normalise_parts([features]) if num_unlike_axes else None
    outputs = _outputs(features, num_labels, normalised=normalised, num_unlike_axes=num_unlike_axes)
    model = keras.Model(classifier.input, outputs, name=classifier.name)
    return _named(model) if num_unlike_axes else model


def _num_axes(unlike: UnlikeScore | None) -> int:
    return unlike.axes.shape[1] if unlike else 0


def _outputs(features: Any, num_labels: int, *, normalised: Any, num_unlike_axes: int) -> Any:
    """Return what a published model returns; `_set_outputs` sets the weights.

    Returns:
        `probabilities`, float32 [batch, N], calibrated and in the order of labels.txt, and
        `unlike`, float32 [batch], above 1 for a picture unlike those of the training. Without the
        second, the probabilities alone.
    """
    head = keras.layers.Dense(
        num_labels,
        activation="softmax",
        kernel_initializer="zeros",
        name=_PROBABILITIES,
        dtype="float32",
    )
    probabilities = head(features)
    if not num_unlike_axes:
        return probabilities
    # What `UnlikeScore.scores` does, as layers. Normalised features have length 1, so the squared
    # distance to the mean is a linear function.
    distance = keras.layers.Dense(1, name=_UNLIKE_DISTANCE, dtype="float32")
    along = keras.layers.Dense(num_unlike_axes, name=_UNLIKE_AXES, dtype="float32")
    squared = keras.ops.square(along(normalised))
    score = keras.ops.subtract(
        keras.ops.sum(distance(normalised), axis=1), keras.ops.sum(squared, axis=1)
    )
    return {"probabilities": probabilities, "unlike": score}


def _set_outputs(
    model: Any, kernel: Any, bias: Any, *, temperature: float, unlike: UnlikeScore | None
) -> None:
    """Set the weights of the layers of `_outputs`.

    Args:
        model: A published model.
        kernel, bias: float [features, N] and float [N], of the logits.
        temperature: What the logits are divided by.
        unlike: The score; None for a model without it.
    """
    scaled = [np.asarray(each, np.float64) / temperature for each in (kernel, bias)]
    model.get_layer(_PROBABILITIES).set_weights([each.astype(np.float32) for each in scaled])
    if unlike is None:
        return
    mean, axes = unlike.mean, unlike.axes / unlike.threshold**0.5
    weights = [-2 * mean[:, None], np.array([1 + mean @ mean])]
    model.get_layer(_UNLIKE_DISTANCE).set_weights(
        [(each / unlike.threshold).astype(np.float32) for each in weights]
    )
    model.get_layer(_UNLIKE_AXES).set_weights(
        [axes.astype(np.float32), (-mean @ axes).astype(np.float32)]
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeatureNetwork:
    """The backbone with features from several depths.

    Attributes:
        model: keras.Model that shares the classifier's layers: float32 [batch, image_size,
            image_size, 3], RGB in [0, 1] -> a list of parts, float32 [batch, sizes[i]].
        sizes: Length of each part. The first part is the backbone's own features.
    """

    model: Any
    sizes: tuple[int, ...]

    @property
    def extractor(self) -> Any:
        """keras.Model from pictures to all parts, one after the other."""
        parts = self.model.outputs
        joined = keras.layers.Concatenate(name="deep_features")
        features = joined(parts) if len(parts) > 1 else parts[0]
        return keras.Model(self.model.input, features, name="deep_features")


def feature_network(classifier: Any, *, use_depths: bool) -> FeatureNetwork:
    """Return the feature network of a classifier.

    Args:
        classifier: A model built by `build_classifier`.
        use_depths: Whether to add features from inside the backbone: mean and standard deviation
            of the last feature map at each of the two lowest resolutions where branches are merged.
            A backbone without such a layer has none.
            Source: Evci et al. 2022, Head2Toe: Utilizing Intermediate Representations.
    """
    (network,) = [layer for layer in classifier.layers if isinstance(layer, keras.Model)]
    maps = _last_merged_maps(network) if use_depths else []
    inside = keras.Model(network.input, [network.output, *maps], name=f"{network.name}_depths")
    rescaled = classifier.get_layer("rescale")(classifier.input)
    outputs = inside(rescaled)
    own, *merged = outputs if isinstance(outputs, list | tuple) else [outputs]
    parts = [own]
    for i, feature_map in enumerate(merged):
        values = keras.ops.cast(feature_map, "float32")
        mean = keras.ops.mean(values, axis=(1, 2))
        variance = keras.ops.var(values, axis=(1, 2))
        deviation = keras.ops.sqrt(keras.ops.add(variance, POWER_EPSILON))
        parts.append(keras.layers.Concatenate(name=f"depth{i}")([mean, deviation]))
    model = _named(keras.Model(classifier.input, parts, name="feature_network"))
    return FeatureNetwork(model=model, sizes=tuple(part.shape[-1] for part in parts))


def _last_merged_maps(network: Any) -> list[Any]:
    """Return the last merged feature map at each of the two lowest resolutions."""
    last: dict[int, Any] = {}
    pooled = network.layers[-1].input
    for layer in network.layers:
        if isinstance(layer, keras.layers.Add | keras.layers.Concatenate):
            shape = layer.output.shape
            if len(shape) == 4 and shape[1] and shape[1] > 1 and layer.output is not pooled:
                last[shape[1]] = layer.output
    return [last[side] for side in sorted(last)[:2]]


def linear_classifier(network: FeatureNetwork, kernel: Any, bias: Any) -> Any:
    """Return a classifier with a linear head on normalised features, to be fine-tuned.

    Args:
        network: The feature network.
        kernel, bias: float [features, N] and float [N], see `normalise_features`.

    Returns:
        keras.Model like one from `build_classifier`, whose background class has the probability 0.
    """
    normalised = _normalise_parts(network.model.outputs)
    num_labels = len(bias)
    head = keras.layers.Dense(num_labels, name=HEAD_NAME, dtype="float32")
    logits = head(normalised)
    padded = keras.ops.pad(logits, [[0, 0], [1, 0]], constant_values=_NEVER)
    model = _named(keras.Model(network.model.input, padded, name="linear_classifier"))
    head.set_weights([np.asarray(kernel, np.float32), np.asarray(bias, np.float32)])
    return model


def published_linear_model(
    network: FeatureNetwork,
    kernel: Any,
    bias: Any,
    *,
    spec: ModelSpec,
    unlike: UnlikeScore | None = None,
) -> Any:
    """Return the published model of a linear head on normalised features, averaged over views.

    Args:
        network: The feature network.
        kernel, bias: float [features, N] and float [N], see `normalise_features`.
        spec: Views, mirror images and the temperature, by which the logits are divided.
        unlike: The score of the normalised features; None leaves that output out.

    Returns:
        A keras.Model of Keras' own layers, with one input per view -> the outputs that `_outputs`
        documents.
    """
    model = _published_linear_network(
        network, spec=spec, num_labels=len(bias), num_unlike_axes=_num_axes(unlike)
    )
    _set_outputs(model, kernel, bias, temperature=spec.temperature, unlike=unlike)
    return model


def _published_linear_network(
    network: FeatureNetwork, *, spec: ModelSpec, num_labels: int, num_unlike_axes: int
) -> Any:
    """Return the network of `published_linear_model`; its outputs have no weights yet."""
    side = spec.image_size
    views = [keras.Input([side, side, 3], name=view) for view in spec.views]
    pictures = [*views, *(keras.ops.flip(view, axis=2) for view in views if spec.mirrored)]
    # All views are one batch: the network is traced and saved once instead of once per view.
    outputs = network.model(keras.ops.concatenate(pictures) if len(pictures) > 1 else pictures[0])
    parts = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    if len(pictures) > 1:
        stacked = [keras.ops.reshape(part, (len(pictures), -1, part.shape[-1])) for part in parts]
        parts = [keras.ops.mean(part, axis=0) for part in stacked]
    normalised = _normalise_parts(parts)
    answers = _outputs(
        normalised, num_labels, normalised=normalised, num_unlike_axes=num_unlike_axes
    )
    inputs = views if len(views) > 1 else views[0]
    return _named(keras.Model(inputs, answers, name=f"{spec.backbone}_classifier"))


def rebuild_published_network(
    spec: ModelSpec, *, num_labels: int, check: Callable[[Shapes], None]
) -> Any:
    """Build the network of a published model again, by code and the numbers of its record.

    Args:
        spec: The record, with `network`.
        num_labels: N.
        check: Called with the shapes of weights whose size the record and N decide, before they are
            created; may raise.

    Returns:
        A keras.Model like that of `published_model` or `published_linear_model`, whose weights have
        to be loaded.

    Raises:
        UsageError: The image size does not suit the network, or KerasHub is needed and missing.
        CheckpointError: The architecture of a network of KerasHub is invalid.
        ValueError: The record has no `network`.
    """
    recipe = spec.network
    if recipe is None:
        raise ValueError("spec must have a network to be built from; got network=None")
    build = partial(_rebuild, spec, recipe, num_labels)
    if recipe.architecture is not None:
        check(shapes_without_memory(lambda: build(lambda _: None)))
    return build(check)


def _rebuild(
    spec: ModelSpec, recipe: NetworkSpec, num_labels: int, check: Callable[[Shapes], None]
) -> Any:
    classifier = build_classifier(
        spec.backbone,
        num_classes=1,  # Of a head that is not used.
        image_size=spec.image_size,
        seed=0,
        architecture=recipe.architecture,
    )
    sizes = {"num_labels": num_labels, "num_unlike_axes": recipe.num_unlike_axes}
    network = None
    if recipe.head == "normalised":
        network = feature_network(classifier, use_depths=recipe.use_depths)
    num_features = (
        sum(network.sizes) if network else classifier.get_layer(DROPOUT_NAME).input.shape[-1]
    )
    check({f"{_PROBABILITIES}/kernel": (num_features, num_labels)})
    if network is None:
        return _published_network(classifier, **sizes)
    return _published_linear_network(network, spec=spec, **sizes)


def network_spec(
    backbone: str,
    *,
    head: Head,
    use_depths: bool = False,
    unlike: UnlikeScore | None,
    weights_path: Path,
) -> NetworkSpec:
    """Return what `rebuild_published_network` needs to know of a network.

    Args:
        backbone: A key of `repot.zoo.BACKBONES`.
        head, use_depths: See `NetworkSpec`.
        unlike: The score of the published model.
        weights_path: The checkpoint's weights, which state the architecture of a network of
            KerasHub.
    """
    is_hub = bool(find_backbone(backbone).hub_class)
    return NetworkSpec(
        head=head,
        use_depths=use_depths,
        num_unlike_axes=_num_axes(unlike),
        architecture=load_architecture(weights_path) if is_hub else None,
    )


def normalise_features(features: Any, sizes: Sequence[int]) -> Any:
    """Return normalised features: the signed square root of each part, scaled to equal lengths.

    Averaged over a feature map, features are skewed; the root evens them out. The parts are scaled
    so that they count alike, and together have length one. Source: Perronnin et al. 2010, Improving
    the Fisher Kernel for Large-Scale Image Classification, section 3.

    Args:
        features: float [n, sum(sizes)].
        sizes: Length of each part.

    Returns:
        float64 [n, sum(sizes)].
    """
    parts, first = [], 0
    for size in sizes:
        values = np.asarray(features[:, first : first + size], np.float64)
        rooted = np.sign(values) * np.sqrt(np.abs(values) + POWER_EPSILON)
        lengths = np.linalg.norm(rooted, axis=1, keepdims=True)
        parts.append(rooted / np.maximum(lengths, _LENGTH_EPSILON))
        first += size
    return np.concatenate(parts, axis=1) / len(parts) ** 0.5


def _normalise_parts(parts: Sequence[Any]) -> Any:
    """Return what `normalise_features` does, as layers."""
    normalised = []
    for i, part in enumerate(parts):
        values = keras.ops.cast(part, "float32")
        size = keras.ops.sqrt(keras.ops.add(keras.ops.abs(values), POWER_EPSILON))
        rooted = keras.ops.multiply(keras.ops.sign(values), size)
        normalised.append(keras.layers.UnitNormalization(dtype="float32", name=f"unit{i}")(rooted))
    join = keras.layers.Concatenate(name="normalised")
    joined = join(normalised) if len(normalised) > 1 else normalised[0]
    return keras.ops.multiply(joined, len(parts) ** -0.5)


def _named(model: Any) -> Any:
    """Name the operations of a model by their places; Keras counts all that the process has made.

    A resumed training makes others, and equal models must give equal files.
    """
    for i, operation in enumerate(model.operations):
        if not isinstance(operation, keras.layers.Layer):
            operation.name = f"operation{i}"
    return model
