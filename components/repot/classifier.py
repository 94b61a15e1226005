"""The image classifier: how it is built, split for training, published and exported.

It rescales pictures to the backbone's value range and applies backbone, dropout and a dense layer:
float32 [batch, image_size, image_size, 3], RGB in [0, 1] -> float32 [batch, N + 1] logits. Index 0
is the background class of 2016: no picture has it. Only training knows it; the published model
returns the probabilities of the N labels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from repot.backbone_weights import load_weights
from repot.picture_ops.normalise import normalise
from repot.preprocessing import central_crop, decode_jpeg
from repot.zoo import build_backbone, find_backbone

DROPOUT = 0.2
"""Share of the features that training drops before the logits.

Source: research/inception, slim/inception_model.py.
"""

HEAD_NAME = "logits"


def build_classifier(
    backbone: str,
    *,
    num_classes: int,
    image_size: int,
    seed: int,
    weights_path: Path | None = None,
) -> Any:
    """Return a keras.Model of a backbone with a new head.

    Args:
        backbone: A key of `repot.zoo.BACKBONES`.
        num_classes: Number of logits, background class included.
        image_size: Height and width in pixels.
        seed: Seed of every layer that draws random numbers.
        weights_path: Weights of the backbone, see `repot.backbone_weights`; None leaves it random.

    Raises:
        CheckpointError: The weights do not fit the backbone.
    """
    spec = find_backbone(backbone)
    network = build_backbone(backbone, image_size=image_size)
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
    rescaled = keras.layers.Rescaling(spec.scale, spec.offset, name="rescale")(pictures)
    features = network(rescaled)
    dropped_out = keras.layers.Dropout(DROPOUT, seed=int(dropout_seed), name="dropout")(features)
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
    dropout, head = classifier.get_layer("dropout"), classifier.get_layer(HEAD_NAME)
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


def published_model(classifier: Any) -> Any:
    """Return the model that is published, without the background class.

    Args:
        classifier: A model built by `build_classifier`.

    Returns:
        A keras.Model of Keras' own layers: float32 [batch, image_size, image_size, 3], RGB in
        [0, 1] -> float32 [batch, N], probabilities in the order of labels.txt. It shares the
        classifier's layers except the last one, which is a copy.
    """
    features = classifier.get_layer("dropout").input
    kernel, bias = classifier.get_layer(HEAD_NAME).get_weights()
    head = keras.layers.Dense(
        len(bias) - 1,
        activation="softmax",
        kernel_initializer="zeros",
        name="probabilities",
        dtype="float32",
    )
    model = keras.Model(classifier.input, head(features), name=classifier.name)
    # The softmax of the other logits alone is the probability given that it is not background.
    head.set_weights([kernel[:, 1:], bias[1:]])
    return model


def export_saved_model(model: Any, labels: Sequence[str], folder: Path) -> None:
    """Export a published model as a SavedModel that takes picture files, without Keras or repot.

    The default signature takes `image_bytes`, string [batch]: the bytes of picture files that
    `repot.serving_client.ACCEPTED_FILES` describes. It sees the pixels that `repot predict` sees,
    and rejects other files; `repot.serving_client` makes every file acceptable. It returns
    `probabilities`, float32 [batch, N], and `class_names`, string [batch, N], where every row holds
    the labels in the order of the probabilities.

    Args:
        model: A model made by `published_model`.
        labels: N label names, in the order of the model's outputs.
        folder: Folder to write.
    """
    module = _ServedModel(model, labels)
    tf.saved_model.save(module, str(folder), signatures=module.serve)


class _ServedModel(tf.Module):  # type: ignore[misc]
    def __init__(self, model: Any, labels: Sequence[str]) -> None:
        super().__init__()
        self._model = model
        self._labels = tf.constant(list(labels))

    @tf.function(  # type: ignore[untyped-decorator]
        autograph=False,  # its copies of the code make errors long
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
    )
    def serve(self, image_bytes: Any) -> dict[str, Any]:
        image_size = self._model.input_shape[1]
        # float32 [batch, image_size, image_size, 3]
        pictures = tf.map_fn(
            lambda encoded: central_crop(decode_jpeg(normalise(encoded)), image_size),
            image_bytes,
            fn_output_signature=tf.TensorSpec([image_size, image_size, 3], tf.float32),
        )
        scores = self._model(pictures, training=False)
        names = tf.broadcast_to(self._labels[None, :], tf.shape(scores))
        return {"class_names": names, "probabilities": scores}
