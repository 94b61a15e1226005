"""Pictures whose label is probably wrong, from predictions of classifiers that never saw them.

A given label is modelled as a mixture: with the probability 1 - rate it is drawn from what a
calibrated classifier predicts, with the probability `rate` it is any label, all alike. Rate and
temperature are fitted to the given labels. Bayes' rule then gives, for every picture, the
probability that its label is wrong. Where the classifier is often wrong itself, its predictions are
flat, and few pictures reach a high probability; so one threshold suits easy and hard pictures.

Sources: Northcutt, Jiang and Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset
Labels (out-of-fold predictions of given labels); Guo et al. 2017, On Calibration of Modern Neural
Networks (the temperature); Efron 2010, Large-Scale Inference, chapter 5 (a list is chosen by the
mean posterior probability of its entries, its local false discovery rate).

    <run>/suspects.json                    LabelSuspects: those of the training pictures
    <evaluation>/suspects.csv              those of training and validation, for people to edit
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from repot.json_record import JsonRecord

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MIN_CONFIDENCE = 0.2
"""Least probability that the label of a suspect is wrong."""

MIN_MEAN_CONFIDENCE = 0.4
"""Least mean of these probabilities over all suspects: the expected share of real mistakes."""

# Prior of the noise rate: a beta distribution with mode 5 %, which counts as 80 pictures.
_RATE_PRIOR = (5.0, 77.0)
_LOG_TEMPERATURE_SPREAD = 0.5  # Standard deviation of the prior of its logarithm.
_MAX_RATE = 0.9
_TEMPERATURES = np.exp(np.linspace(-3.0, 2.0, 51))
_NUM_UPDATES = 40
_MAX_FITTED = 8192  # Rows that rate and temperature are fitted to.
_CHUNK_ROWS = 8192

SUSPECTS_COLUMNS = (
    "path",
    "given_label",
    "likely_label",
    "confidence",
    "new_label",
    "split",
    "content",
    "uri",
)
"""Columns of suspects.csv. A person fills in `new_label`; `content` identifies the picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect(JsonRecord):
    """An example whose label is probably wrong.

    Attributes:
        number: Its number in its split, in the order of the shards.
        given, likely: Its label, and the one that it probably should have: 0..N-1.
        given_probability, likely_probability: What the classifier predicts for these labels.
        confidence: Probability that the given label is wrong.
    """

    number: int
    given: int
    likely: int
    given_probability: float
    likely_probability: float
    confidence: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSuspects(JsonRecord):
    """What suspects.json holds.

    Attributes:
        num_examples: Examples of the split.
        num_judged: Those whose label could be judged.
        noise_rate: Estimated share of labels that are drawn at random.
        suspects: The examples, the most confident first.
    """

    num_examples: int
    num_judged: int
    noise_rate: float
    suspects: tuple[Suspect, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelNoise:
    """The fitted model of given labels.

    Attributes:
        rate: Share of labels that are drawn at random, in (0, 1).
        temperature: What logits are divided by.
        score: Penalised log-likelihood, to compare classifiers by.
    """

    rate: float
    temperature: float
    score: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judgement:
    """What a classifier says about given labels; one entry per row.

    Attributes:
        likely: int64 [n], the most probable of the other labels.
        given_probability, likely_probability: float64 [n].
        confidence: float64 [n], probability that the given label is wrong.
    """

    likely: IntArray
    given_probability: FloatArray
    likely_probability: FloatArray
    confidence: FloatArray


def fit_label_noise(
    logits: FloatArray, classes: IntArray, *, expected_temperature: float = 1.0
) -> LabelNoise:
    """Fit the model to predictions and given labels.

    Args:
        logits: float [n, N], of a classifier that was not fitted to these rows.
        classes: int64 [n], given labels, in 0..N-1.
        expected_temperature: Center of the prior of the temperature. With few pictures, a high
            temperature would explain wrong labels as well as a high rate does.
    """
    step = max(1, -(-len(classes) // _MAX_FITTED))
    logits, classes = np.asarray(logits[::step], np.float64), classes[::step]
    num_labels = logits.shape[1]
    more, less = (count - 1 for count in _RATE_PRIOR)
    best: LabelNoise | None = None
    for temperature in _TEMPERATURES.tolist():
        own = _softmax(logits / temperature)[np.arange(len(classes)), classes]
        rate = more / (more + less)
        for _ in range(_NUM_UPDATES):  # expectation maximisation
            is_random = rate / num_labels / ((1 - rate) * own + rate / num_labels)
            rate = (float(is_random.sum()) + more) / (len(classes) + more + less)
            rate = min(rate, _MAX_RATE)
        likelihood = float(np.log((1 - rate) * own + rate / num_labels).sum())
        distance = np.log(temperature / expected_temperature) / _LOG_TEMPERATURE_SPREAD
        prior = more * np.log(rate) + less * np.log(1 - rate) - 0.5 * distance**2
        score = likelihood + float(prior)
        if best is None or score > best.score:
            best = LabelNoise(rate=rate, temperature=temperature, score=score)
    if best is None:
        raise ValueError("There must be a temperature to try.")
    return best


def judge_labels(logits: FloatArray, classes: IntArray, noise: LabelNoise) -> Judgement:
    """Return for each row how probable it is that its label is wrong.

    Args:
        logits, classes: See `fit_label_noise`.
        noise: The fitted model.
    """
    parts = [
        _judge(
            np.asarray(logits[first : first + _CHUNK_ROWS], np.float64),
            classes[first : first + _CHUNK_ROWS],
            noise,
        )
        for first in range(0, max(1, len(classes)), _CHUNK_ROWS)
    ]
    return join_judgements(parts)


def join_judgements(parts: list[Judgement]) -> Judgement:
    """Return the rows of several judgements, one after the other."""
    return Judgement(
        likely=np.concatenate([part.likely for part in parts]),
        given_probability=np.concatenate([part.given_probability for part in parts]),
        likely_probability=np.concatenate([part.likely_probability for part in parts]),
        confidence=np.concatenate([part.confidence for part in parts]),
    )


def choose_suspects(
    judgement: Judgement,
    classes: IntArray,
    *,
    noise: LabelNoise,
    numbers: IntArray | None = None,
    is_judged: npt.NDArray[np.bool_] | None = None,
    num_examples: int | None = None,
) -> LabelSuspects:
    """Choose the longest list whose entries, and whose mean, are confident enough.

    Args:
        judgement: One entry per row.
        classes: int64 [n], given labels.
        noise: The fitted model.
        numbers: int64 [n], numbers of the examples; None for 0..n-1.
        is_judged: bool [n], rows whose judgement counts; None for all.
        num_examples: Examples of the split; None for n.
    """
    if is_judged is None:
        is_judged = np.ones(len(classes), np.bool_)
    if numbers is None:
        numbers = np.arange(len(classes))
    confidence = np.where(is_judged, judgement.confidence, 0.0)
    order = np.argsort(-confidence, kind="stable")
    means = np.cumsum(confidence[order]) / np.arange(1, len(order) + 1)
    is_listed = (confidence[order] >= MIN_CONFIDENCE) & (means >= MIN_MEAN_CONFIDENCE)
    chosen = order[: int(is_listed.sum())]  # Both fall along the order.
    return LabelSuspects(
        num_examples=len(classes) if num_examples is None else num_examples,
        num_judged=int(is_judged.sum()),
        noise_rate=round(noise.rate, 6),
        suspects=tuple(
            Suspect(
                number=int(numbers[i]),
                given=int(classes[i]),
                likely=int(judgement.likely[i]),
                given_probability=round(float(judgement.given_probability[i]), 6),
                likely_probability=round(float(judgement.likely_probability[i]), 6),
                confidence=round(float(confidence[i]), 6),
            )
            for i in chosen.tolist()
        ),
    )


def _judge(logits: FloatArray, classes: IntArray, noise: LabelNoise) -> Judgement:
    rows, num_labels = np.arange(len(classes)), logits.shape[1]
    probabilities = _softmax(logits / noise.temperature)
    given = probabilities[rows, classes]
    others = probabilities.copy()
    others[rows, classes] = -1.0
    likely = others.argmax(axis=1)
    at_random = noise.rate / num_labels
    # A label drawn at random is wrong unless it happens to be the right one.
    confidence = at_random * (1 - given) / ((1 - noise.rate) * given + at_random)
    return Judgement(
        likely=likely.astype(np.int64),
        given_probability=given,
        likely_probability=probabilities[rows, likely],
        confidence=confidence,
    )


def _softmax(logits: FloatArray) -> FloatArray:
    powers: FloatArray = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers
