"""Saliency maps: where a picture's pixels speak for the wrong label rather than for the true one.

The map is the size of the gradient of log p(predicted) - log p(true), averaged over blocks of
pixels: Simonyan et al., "Deep inside convolutional networks", ICLR workshop 2014. It needs one
backward pass and works with every network. It is one of the methods that pass the sanity checks of
Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018: with other weights, it is another
map. The tests do that check.
"""

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from repot.evaluator.outcomes import SMALLEST_PROBABILITY, ScoredPicture
from repot.predictor import Model

MAX_MAPS = 4
"""Mistakes with a map; all are computed together."""
MAX_PIXELS = 12 * 320 * 320
"""Most pixels that the network sees of all of them; if they have more, fewer get a map. A backward
pass keeps all activations, so it takes more memory than scoring."""

_GRID = 16
_STRONG = 0.98  # Share of the map that is below full color.
_COLOR = (224, 58, 20)
_SIDE = 160


def explain_mistakes(load: Callable[[], Model], mistakes: Sequence[ScoredPicture]) -> list[str]:
    """Return the maps of the first mistakes, each over its picture, as data URIs of JPEGs.

    A mistake whose true label the model does not have is explained by the predicted label alone.

    Args:
        load: Returns the model; not called without a mistake.
        mistakes: The most confident mistakes, the most confident first.
    """
    if not mistakes:
        return []
    model = load()
    spec = model.spec
    num_views = len(spec.views) * (2 if spec.mirrored else 1)
    count = min(MAX_MAPS, MAX_PIXELS // (num_views * spec.image_size**2))
    explained = mistakes[:count]
    if not explained:
        return []
    prepared = [model.prepare(mistake.jpeg) for mistake in explained]
    views = tuple(tf.stack(pictures) for pictures in zip(*prepared, strict=True))
    pairs = [(mistake.outcome.predicted, mistake.outcome.label) for mistake in explained]
    shown = spec.views.index("whole") if "whole" in spec.views else 0
    maps = saliency_maps(model, views, pairs)[shown]
    drawn = []
    for i, mistake in enumerate(explained):
        with Image.open(io.BytesIO(mistake.jpeg)) as picture:
            size = picture.size if spec.views[shown] == "whole" else (1, 1)
        drawn.append(_draw(views[shown][i].numpy(), maps[i], size))
    return drawn


def saliency_maps(
    model: Model, views: tuple[tf.Tensor, ...], pairs: Sequence[tuple[str, str]]
) -> list[NDArray[np.float32]]:
    """Return the maps of each view: float32 [batch, 16, 16], the largest value of each map is 1.

    Args:
        model: The model.
        views: What it sees, float32 [batch, image_size, image_size, 3] each.
        pairs: Of each picture, the label that speaks for and the one that speaks against; one that
            the model does not have is ignored.
    """
    # As a graph, the backward pass would take seconds to trace.
    network = getattr(model.call, "python_function", model.call)
    # signs: float32 [batch, num_labels]
    signs = np.zeros((len(pairs), len(model.labels)), np.float32)
    for row, pair in zip(signs, pairs, strict=True):
        for label, sign in zip(pair, (1, -1), strict=True):
            if label in model.labels:
                row[model.labels.index(label)] = sign
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(views)
        answers = network(views)
        probabilities = answers[0] if isinstance(answers, tuple) else answers
        logs = tf.math.log(tf.maximum(tf.cast(probabilities, tf.float32), SMALLEST_PROBABILITY))
        evidence = tf.reduce_sum(signs * logs)
    maps = []
    for view, gradient in zip(views, tape.gradient(evidence, views), strict=True):
        size = tf.zeros_like(view) if gradient is None else tf.abs(gradient)
        largest = tf.reduce_max(size, axis=-1, keepdims=True)
        blocks = tf.image.resize(largest, (_GRID, _GRID), method="area")[..., 0].numpy()
        peaks = blocks.max(axis=(1, 2), keepdims=True)
        maps.append(blocks / np.maximum(peaks, np.finfo(np.float32).tiny))
    return maps


def _draw(view: NDArray[np.float32], saliency: NDArray[np.float32], size: tuple[int, int]) -> str:
    """Return the map as color over the grey picture, with the aspect ratio of `size`."""
    scale = _SIDE / max(size)
    target = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    strength = np.clip(saliency / max(float(np.quantile(saliency, _STRONG)), 1e-9), 0, 1)
    mask = Image.fromarray((255 * 0.85 * strength).astype(np.uint8))
    mask = mask.resize(target, Image.Resampling.BICUBIC)
    pixels = Image.fromarray((255 * np.clip(view, 0, 1)).astype(np.uint8))
    grey = pixels.resize(target, Image.Resampling.BILINEAR).convert("L").convert("RGB")
    drawn = Image.composite(Image.new("RGB", target, _COLOR), grey, mask)
    encoded = io.BytesIO()
    drawn.save(encoded, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
