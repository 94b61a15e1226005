"""Linear heads on frozen features: fitted to the optimum, and cross-validated.

A head is multinomial logistic regression with a penalty on its weights, on normalised features. It
has one optimum, so there is neither a learning rate nor a number of epochs to choose, only the
penalty. NumPy is enough: with few pictures, a fit takes milliseconds. Features that were scaled to
one variance each gave .3 points more precision@1 over seven small sets, with a standard error of as
much, so they are not.

`repot.classifier.normalise_features` normalises features, of several depths and views.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from repot.trainer.blas_threads import multiply, one_thread

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_ROWS = 8192
"""Rows whose features are in memory as float64 at a time."""

ERROR_EXPONENT = 0.3
SPREAD = 1.35
"""See `forecast`."""

Z_90 = 1.645
"""Standard deviations on each side of a 90 % interval."""

_LOG_TEMPERATURES = (-3.0, 3.0)
_MAX_ITERATIONS = 200
_MAX_HALVINGS = 30
_MEMORY = 10  # Pairs that L-BFGS keeps.
_GRADIENT_TOLERANCE = 1e-6
_NORM_EPSILON = 1e-12
_JITTER = 1e-10


Rows = Callable[[slice], FloatArray]
"""Returns normalised features of some rows, float64 [n, features]."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinearHead:
    """A linear map from normalised features to logits.

    Attributes:
        kernel: float64 [features, N].
        bias: float64 [N].
    """

    kernel: FloatArray
    bias: FloatArray

    def logits(self, rows: FloatArray) -> FloatArray:
        """Return the logits of normalised features, float64 [n, N]."""
        logits: FloatArray = rows @ self.kernel + self.bias
        return logits


def softmax(logits: FloatArray) -> FloatArray:
    """Return the probabilities of logits, float64 [n, N]."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: FloatArray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def log_losses(logits: FloatArray, classes: IntArray) -> FloatArray:
    """Return the cross-entropy of each row in nats, float64 [n]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    rows = np.arange(len(classes))
    losses: FloatArray = np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, classes]
    return losses


def mean_recall(logits: FloatArray, classes: IntArray) -> float:
    """Return the share of rows classified correctly, averaged over the classes that occur."""
    is_correct: npt.NDArray[np.bool_] = logits.argmax(axis=1) == classes
    return float(np.mean([np.mean(is_correct[classes == each]) for each in np.unique(classes)]))


def assign_folds(keys: Sequence[bytes], classes: IntArray, num_folds: int) -> IntArray:
    """Assign every example to a fold: stratified by class, examples of one key together.

    Args:
        keys: What an example belongs to: its group, or its content. The choice follows from it.
        classes: int64 [n], in 0..N-1.
        num_folds: Number of folds.

    Returns:
        int64 [n], in 0..num_folds-1. Folds of a class differ by at most one key of it.
    """
    folds: dict[bytes, int] = {}
    sizes: dict[int, list[int]] = {}  # of each fold, by class
    # The largest keys come first, so that the small ones even the folds out.
    for key, (class_, size) in sorted(_distinct_keys(keys, classes), key=lambda item: -item[1][1]):
        # The offset spreads the remainders of small classes over the folds.
        own = sizes.setdefault(class_, [0] * num_folds)
        fold = min(range(num_folds), key=lambda each: (own[each], (each - class_) % num_folds))
        folds[key] = fold
        own[fold] += size
    return np.array([folds[key] for key in keys], np.int64)


def select_part(keys: Sequence[bytes], classes: IntArray, fraction: float) -> npt.NDArray[Any]:
    """Choose the examples of the selection part: stratified by class, examples of a key together.

    Args:
        keys: See `assign_folds`.
        classes: int64 [n], in 0..N-1.
        fraction: Share of each class's examples, as nearly as its keys allow; at least one key is
            left.

    Returns:
        bool [n]: whether an example is in the selection part.
    """
    by_class: dict[int, list[tuple[bytes, int]]] = {}
    for key, (class_, size) in _distinct_keys(keys, classes):
        by_class.setdefault(class_, []).append((key, size))
    chosen: set[bytes] = set()
    for found in by_class.values():
        wanted = int(fraction * sum(size for _, size in found) + 0.5)
        num_keys = 0
        for key, size in found:
            if num_keys < len(found) - 1 and abs(wanted - size) < wanted:
                chosen.add(key)
                num_keys += 1
                wanted -= size
    return np.array([key in chosen for key in keys], np.bool_)


def _distinct_keys(keys: Sequence[bytes], classes: IntArray) -> list[tuple[bytes, tuple[int, int]]]:
    """Return each distinct key with its class and its number of examples.

    The order is that of a hash of the key, because the planner's split follows the key itself. A
    key that has several classes counts for the lowest one.
    """
    found: dict[bytes, tuple[int, int]] = {}
    for key, class_ in zip(keys, classes.tolist(), strict=True):
        lowest, size = found.get(key, (class_, 0))
        found[key] = (min(lowest, class_), size + 1)
    return sorted(found.items(), key=lambda item: hashlib.sha256(b"fold" + item[0]).digest())


def class_weights(classes: IntArray, num_classes: int, exponent: float) -> FloatArray:
    """Return the weight of the examples of each class: (1 / size of the class) ^ exponent.

    Args:
        classes: int64 [n].
        num_classes: N.
        exponent: 0 weighs all examples alike; 1 gives every class the same total weight.

    Returns:
        float64 [N]; 1 on average over the examples.
    """
    counts = np.maximum(np.bincount(classes, minlength=num_classes), 1)
    weights: FloatArray = (1.0 / counts) ** exponent
    return np.asarray(weights * (len(classes) / weights[classes].sum()), np.float64)


@one_thread()
def fit_head(
    rows: Rows,
    num_features: int,
    classes: IntArray,
    num_classes: int,
    *,
    penalty: float,
    weights: FloatArray | None = None,
) -> LinearHead:
    """Fit a head to all rows.

    It minimises the weighted mean cross-entropy + penalty / 2 * |kernel|^2, for features that are
    centred and have a mean squared length of one; the bias has no penalty.

    Args:
        rows: Normalised features of the examples; called again and again if there are many.
        num_features: Their length.
        classes: int64 [n], in 0..N-1.
        num_classes: N.
        penalty: See above.
        weights: float64 [n], 1 on average; None weighs all rows alike.
    """
    weights = np.ones(len(classes)) if weights is None else weights
    mean, scale = _moments(rows, num_features, weights)
    if len(classes) <= min(num_features, MAX_ROWS):
        centred = (rows(slice(0, len(classes))) - mean) / scale
        basis = _gram_basis(multiply(centred, centred.T))
        reduced = centred @ (centred.T @ basis)
        kernel, bias = _solve(
            lambda: [reduced],
            classes,
            num_classes,
            reduced.shape[1],
            penalty=penalty,
            weights=weights,
        )
        kernel = centred.T @ (basis @ kernel)
    else:

        def chunks() -> Iterator[FloatArray]:
            for part in _parts(len(classes)):
                yield (rows(part) - mean) / scale

        kernel, bias = _solve(
            chunks, classes, num_classes, num_features, penalty=penalty, weights=weights
        )
    kernel = kernel / scale
    return LinearHead(kernel=kernel, bias=bias - mean @ kernel)


@one_thread()
def cross_validate(
    normalised: FloatArray,
    classes: IntArray,
    num_classes: int,
    *,
    folds: IntArray,
    penalties: Sequence[float],
    weights: FloatArray | None = None,
) -> Mapping[float, FloatArray]:
    """Return the logits of every row, by penalty, from heads that were not fitted to its fold.

    Args:
        normalised: float64 [n, features]; at most MAX_ROWS rows, because they are in memory.
        classes: int64 [n], in 0..N-1.
        num_classes: N.
        folds: int64 [n], see `assign_folds`.
        penalties: See `fit_head`.
        weights: As in `fit_head`.

    Returns:
        float64 [n, N] by penalty.
    """
    weights = np.ones(len(classes)) if weights is None else weights
    if len(classes) <= normalised.shape[1]:
        # With fewer rows than features, a solution is a combination of the rows, so coordinates in
        # a basis of the rows are all that is needed: L, if L @ L.T has the products of the rows.
        products = multiply(normalised, normalised.T)
        products.flat[:: len(classes) + 1] += _JITTER  # copies have equal rows
        normalised = np.asarray(np.linalg.cholesky(products), np.float64)
    logits = {penalty: np.zeros((len(classes), num_classes)) for penalty in penalties}
    for fold in np.unique(folds):
        held_out, fitted = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if not len(fitted):
            continue
        share = weights[fitted] / weights[fitted].mean()
        mean, scale = _moments_of(normalised[fitted], share)
        rows = (normalised[fitted] - mean) / scale
        held_out_rows = (normalised[held_out] - mean) / scale
        kernel, bias = None, None
        for penalty in sorted(penalties, reverse=True):
            # A weaker penalty starts from the solution of the stronger one before.
            kernel, bias = _solve(
                _always(rows),
                classes[fitted],
                num_classes,
                rows.shape[1],
                penalty=penalty,
                weights=share,
                start=None if kernel is None or bias is None else (kernel, bias),
            )
            logits[penalty][held_out] = held_out_rows @ kernel + bias
    return logits


def _always(rows: FloatArray) -> Callable[[], list[FloatArray]]:
    return lambda: [rows]


def _parts(num_rows: int) -> list[slice]:
    return [slice(first, min(first + MAX_ROWS, num_rows)) for first in range(0, num_rows, MAX_ROWS)]


def _moments(rows: Rows, num_features: int, weights: FloatArray) -> tuple[FloatArray, float]:
    """Return the weighted mean of the rows, and the root of their mean squared distance to it."""
    total, squares = np.zeros(num_features), 0.0
    for part in _parts(len(weights)):
        values = rows(part)
        total += weights[part] @ values
        squares += float(weights[part] @ np.sum(values**2, axis=1))
    mean = total / weights.sum()
    variance = squares / weights.sum() - float(mean @ mean)
    return mean, float(max(variance, _NORM_EPSILON) ** 0.5)


def _moments_of(normalised: FloatArray, weights: FloatArray) -> tuple[FloatArray, float]:
    mean = weights @ normalised / weights.sum()
    variance = float(weights @ np.sum((normalised - mean) ** 2, axis=1)) / weights.sum()
    return mean, float(max(variance, _NORM_EPSILON) ** 0.5)


def _gram_basis(products: FloatArray) -> FloatArray:
    """Return B with rows @ (rows.T @ B) = the coordinates of rows in an orthonormal basis.

    Args:
        products: float64 [n, n], inner products of the rows.
    """
    values, vectors = np.linalg.eigh(products)
    is_kept = values > 1e-10 * max(values[-1], _NORM_EPSILON)
    basis: FloatArray = vectors[:, is_kept] / np.sqrt(values[is_kept])
    return basis


def _solve(
    chunks: Callable[[], Iterable[FloatArray]],
    classes: IntArray,
    num_classes: int,
    num_features: int,
    *,
    penalty: float,
    weights: FloatArray,
    start: tuple[FloatArray, FloatArray] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return kernel and bias that minimise the penalised loss of rows that come in chunks."""
    total = weights.sum()

    def loss_and_gradient(point: FloatArray) -> tuple[float, FloatArray]:
        kernel, bias = point[:-1], point[-1]
        loss = 0.5 * penalty * float(np.sum(kernel**2))
        gradient = np.zeros_like(point)
        gradient[:-1] = penalty * kernel
        first = 0
        for rows in chunks():
            part = slice(first, first + len(rows))
            first = part.stop
            logits = multiply(rows, kernel) + bias
            share = weights[part] / total
            loss += float(share @ log_losses(logits, classes[part]))
            errors = softmax(logits)
            errors[np.arange(len(rows)), classes[part]] -= 1.0
            errors *= share[:, None]
            gradient[:-1] += multiply(rows.T, errors)
            gradient[-1] += errors.sum(axis=0)
        return loss, gradient

    point = np.zeros((num_features + 1, num_classes))
    if start is not None:
        point[:-1], point[-1] = start
    point = _minimise(loss_and_gradient, point)
    return point[:-1], point[-1]


def _minimise(
    loss_and_gradient: Callable[[FloatArray], tuple[float, FloatArray]], point: FloatArray
) -> FloatArray:
    """Minimise a smooth convex function with L-BFGS.

    Source: Nocedal and Wright 2006, Numerical Optimization, algorithms 3.1, 7.4 and 7.5.
    """
    loss, gradient = loss_and_gradient(point)
    pairs: list[tuple[FloatArray, FloatArray, float]] = []  # step, change of gradient, product
    for _ in range(_MAX_ITERATIONS):
        if np.abs(gradient).max() < _GRADIENT_TOLERANCE:
            break
        direction = _two_loops(gradient, pairs)
        slope = float(np.sum(gradient * direction))
        length = 1.0 if pairs else 1.0 / max(1.0, float(np.abs(gradient).sum()))
        for _ in range(_MAX_HALVINGS):
            new_point = point - length * direction
            new_loss, new_gradient = loss_and_gradient(new_point)
            if new_loss <= loss - 1e-4 * length * slope:
                break
            length /= 2
        else:
            break  # Rounding errors hide any further progress.
        step, change = new_point - point, new_gradient - gradient
        product = float(np.sum(step * change))
        if product > _NORM_EPSILON:
            pairs = [*pairs[-(_MEMORY - 1) :], (step, change, product)]
        point, loss, gradient = new_point, new_loss, new_gradient
    return point


def _two_loops(
    gradient: FloatArray, pairs: Sequence[tuple[FloatArray, FloatArray, float]]
) -> FloatArray:
    direction = gradient.copy()
    factors = []
    for step, change, product in reversed(pairs):
        factor = float(np.sum(step * direction)) / product
        direction -= factor * change
        factors.append(factor)
    if pairs:
        _, change, product = pairs[-1]
        direction *= product / float(np.sum(change**2))
    for (step, change, product), factor in zip(pairs, reversed(factors), strict=True):
        direction += step * (factor - float(np.sum(change * direction)) / product)
    return direction


def fit_temperature(logits: FloatArray, classes: IntArray) -> float:
    """Return the temperature that minimises the loss of logits divided by it.

    A normal prior on its logarithm keeps it near 1 where few examples say little; without it, the
    temperature of a head without a mistake would be zero.
    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.

    Args:
        logits: float64 [n, N], of examples that the head was not fitted to.
        classes: int64 [n], in 0..N-1.
    """

    def loss(log_temperature: float) -> float:
        losses = log_losses(logits / np.exp(log_temperature), classes)
        return float(np.sum(losses)) + 0.5 * log_temperature**2

    # Golden section; the loss has one minimum.
    low, high = _LOG_TEMPERATURES
    ratio = (5**0.5 - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def forecast(
    is_correct: npt.NDArray[np.bool_], *, fitted_share: float, num_scored: int
) -> tuple[float, float, float]:
    """Forecast precision@1 of the final head on new pictures, with a 90 % interval.

    The final head is fitted to all examples, the scored ones to a share of them. The error of a
    head falls with the number of examples as n ^ -ERROR_EXPONENT, on average over seven small sets
    of pictures with 5 to 50 pictures per label (`benchmarks/quality.py`). The score of one training
    spreads more than two independent counts do, also because labels may have other shares among new
    pictures: with SPREAD, the interval covers the score in 94 % of the trainings on those sets.

    Args:
        is_correct: bool [n], of held-out examples.
        fitted_share: Share of the examples that the scored heads were fitted to.
        num_scored: Pictures that the score will be measured on; 0 for infinitely many.

    Returns:
        The forecast, and the ends of its interval.
    """
    num_examples = len(is_correct)
    # Agresti and Coull 1998: two more of each, so that no error is not certainty.
    error = float(np.sum(~is_correct) + 2) / (num_examples + 4)
    share = float(np.mean(~is_correct)) * fitted_share**ERROR_EXPONENT
    variance = error * (1 - error) * (1 / num_examples + (1 / num_scored if num_scored else 0))
    margin = Z_90 * SPREAD * float(variance**0.5)
    score = 1 - share
    return score, max(0.0, score - margin), min(1.0, score + margin)
