"""Notice a network that computes something else than at the end of its training.

The file of a model holds numbers. repot, Keras and TensorFlow build the network around them, so
another version of these, or a machine that computes otherwise, could change every prediction
without an error. A training therefore stores what its model answers for a few fixed pictures in
model_spec.json, and whoever loads the model compares.

The pictures are waves of several lengths: a formula, so that no other library takes part.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import repot
from repot.errors import ModelError
from repot.metrics import FloatArray
from repot.model_spec import Fingerprint, FixedAnswer, ModelSpec

MAX_DIFFERENCE = 0.01
"""Largest accepted difference of a probability, and of `unlike` relative to itself.

Two kinds of devices differ by less than 1e-3, see `repot.evaluator.scoring`. Convolutions in
bfloat16, which some processors use for float32, come near to it.
"""

_NUM_PICTURES = 2
_NUM_OUTPUTS = 5
_DIGITS = 4
"""Decimals of stored numbers: equal trainings must give equal files, however a machine rounds."""


def take_fingerprint(
    answer: Callable[..., Mapping[str, Any]], spec: ModelSpec
) -> Fingerprint | None:
    """Return the fingerprint of a model; None if its answers are not finite.

    Args:
        answer: Maps one tensor per view, float32 [batch, image_size, image_size, 3], to
            `probabilities`, float32 [batch, N], and maybe `unlike`, float32 [batch].
        spec: Its views.
    """
    with exact_float32():
        outputs = {
            name: np.asarray(value)
            for name, value in answer(*_fixed_views(spec)).items()
            if name in ("probabilities", "unlike")
        }
    if not all(np.isfinite(values).all() for values in outputs.values()):
        return None
    unlike = outputs.get("unlike")
    answers = []
    for number, probabilities in enumerate(outputs["probabilities"]):
        first = np.argsort(-probabilities, kind="stable")[:_NUM_OUTPUTS]
        answers.append(
            FixedAnswer(
                outputs=tuple(first.tolist()),
                probabilities=tuple(round(float(probabilities[i]), _DIGITS) for i in first),
                unlike=None if unlike is None else round(float(unlike[number]), _DIGITS),
            )
        )
    return Fingerprint(versions=_versions(), answers=tuple(answers))


def check_fingerprint(
    call: Callable[[tuple[Any, ...]], tuple[Any, Any]],
    spec: ModelSpec,
    *,
    num_labels: int,
    uri: str,
) -> None:
    """Check that a model answers as it did at the end of its training; it computes two pictures.

    Args:
        call: See `repot.predictor.Model`.
        spec: Its record; one without a fingerprint passes.
        num_labels: N.
        uri: The model, for messages.

    Raises:
        ModelError: It answers something else, or the fingerprint is not that of such a model.
    """
    if spec.fingerprint is None:
        return
    stored = spec.fingerprint.answers
    _check_record(stored, num_labels, uri)
    with exact_float32():
        probabilities, unlike = (np.asarray(each) for each in call(_fixed_views(spec)))
    differences = [
        text
        for answer, found, score in zip(stored, probabilities, unlike, strict=True)
        for text in _differences(answer, found, float(score))
    ]
    if differences:
        then, now = (
            ", ".join(f"{name} {version}" for name, version in versions.items())
            for versions in (spec.fingerprint.versions, _versions())
        )
        raise ModelError(
            f"A model must answer as it did at the end of its training; {uri} does not: for a "
            f"fixed picture, {differences[0]}. It was trained with {then}; here are {now}. "
            "Install the versions of the training, or train again with a new `rebuild` text."
        )


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute in float32, not with the shorter mantissas of TF32, which GPUs use by default."""
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _fixed_views(spec: ModelSpec) -> tuple[FloatArray, ...]:
    """Return a batch of pictures per view: float32 [2, image_size, image_size, 3] in [0, 1]."""
    position = np.arange(spec.image_size, dtype=np.float64) / spec.image_size
    batches = []
    for view in range(len(spec.views)):
        pictures = []
        for number in range(_NUM_PICTURES):
            # Long waves in the first picture, short ones in the second; no two channels are alike.
            frequencies = (1 + 6 * number) * (np.arange(3) + 1 + view)
            down = np.sin(2 * np.pi * position[:, np.newaxis] * frequencies)
            across = np.cos(2 * np.pi * position[:, np.newaxis] * frequencies[::-1])
            pictures.append(0.5 + 0.25 * (down[:, np.newaxis] + across[np.newaxis]))
        batches.append(np.stack(pictures).astype(np.float32))
    return tuple(batches)


def _check_record(answers: Sequence[FixedAnswer], num_labels: int, uri: str) -> None:
    for answer in answers:
        is_valid = len(answer.outputs) == len(answer.probabilities) and all(
            0 <= output < num_labels for output in answer.outputs
        )
        if not is_valid or len(answers) != _NUM_PICTURES:
            raise ModelError(
                f"The fingerprint of a model must have the answers of its {num_labels} labels for "
                f"{_NUM_PICTURES} pictures; that of {uri} has others. Use the model_spec.json that "
                "was published with the model."
            )


def _differences(stored: FixedAnswer, probabilities: FloatArray, unlike: float) -> Iterator[str]:
    """Yield what is not as it was, as clauses."""
    for output, before in zip(stored.outputs, stored.probabilities, strict=True):
        now = float(probabilities[output])
        # Not `>`: NaN differs, too.
        if not abs(now - before) <= MAX_DIFFERENCE:
            yield f"the probability of label {output + 1} was {before:.4f} and is {now:.4f}"
    if stored.unlike is not None:
        limit = MAX_DIFFERENCE * max(1.0, abs(stored.unlike))
        if not abs(unlike - stored.unlike) <= limit:
            yield f"`unlike` was {stored.unlike:.4f} and is {unlike:.4f}"


def _versions() -> dict[str, str]:
    import keras
    import tensorflow as tf

    return {
        "keras": keras.__version__,
        "repot": repot.__version__,
        "tensorflow": tf.__version__,
    }
