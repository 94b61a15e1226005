"""The classifier: rescaling to the network's range, backbone, dropout, and one logit a class.

It takes float32 [batch, image_size, image_size, 3], RGB in [0, 1], and returns float32 [batch, N + 1] logits, where
index 0 is the background class of 2016: no picture has it, and no score, report or exported model shows it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from repot.backbone_weights import load_weights
from repot.zoo import build_backbone, find_backbone

DROPOUT = 0.2
"""Share of the features that training drops before the logits. Source: research/inception, slim/inception_model.py."""

HEAD_NAME = "logits"


def build_classifier(
    backbone: str, *, num_classes: int, image_size: int, weights_path: Path | None = None
) -> Any:
    """Return a keras.Model of a backbone with a fresh head.

    Args:
        backbone: A name of `repot.zoo.BACKBONES`.
        num_classes: Number of logits, the background's included.
        image_size: Height and width in pixels.
        weights_path: Weights of the backbone; None leaves it random.

    Raises:
        CheckpointError: The weights do not fit.
    """
    facts = find_backbone(backbone)
    network = build_backbone(backbone, image_size=image_size)
    if weights_path is not None:
        load_weights(network, weights_path)
    pictures = keras.Input([image_size, image_size, 3], name="pictures")
    scaled = keras.layers.Rescaling(facts.scale, facts.offset, name="rescale")(pictures)
    features = network(scaled)
    kept = keras.layers.Dropout(DROPOUT, name="dropout")(features)
    # Zeros, as in Kolesnikov et al. 2020 (BiT): no class is favoured at first, whatever the seed.
    head = keras.layers.Dense(
        num_classes, kernel_initializer="zeros", name=HEAD_NAME, dtype="float32"
    )
    logits = head(kept)
    return keras.Model(pictures, logits, name=f"{backbone}_classifier")


def split_classifier(classifier: Any) -> tuple[Any, Any]:
    """Return two models that share the classifier's layers: pictures to features, and features to logits."""
    dropout, head = classifier.get_layer("dropout"), classifier.get_layer(HEAD_NAME)
    extractor = keras.Model(classifier.input, dropout.input, name="features")
    features = keras.Input(dropout.input.shape[1:], name="features")
    return extractor, keras.Model(features, head(dropout(features)), name="head")


def training_logits(classifier: Any) -> Callable[[Any, bool], Any]:
    """Return the function (pictures, training) -> logits to train a whole classifier with.

    Only the dropout before the logits ever runs in training mode. BatchNorm keeps its statistics, for those of a small
    set are worse: MobileNetV2 fell from .83 to .68 on 330 photos. Calling the classifier itself with training=True
    would switch every layer, a `training=False` inside its graph notwithstanding (Keras 3, Functional.call).
    """
    extractor, head = split_classifier(classifier)
    return lambda pictures, training: head(extractor(pictures, training=False), training=training)


def probabilities(logits: Any) -> Any:
    """Return float32 [batch, N] probabilities of classes 1..N from float32 [batch, N + 1] logits."""
    return tf.nn.softmax(logits[:, 1:], axis=-1)
