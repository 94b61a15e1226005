"""What recipe `auto` tried on the training pictures, what it chose, and the score it forecasts."""

from dataclasses import dataclass

from repot.json_record import JsonRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateRecord(JsonRecord):
    """One configuration that was tried.

    Attributes:
        name: What it is, for people.
        precision_at_1: Share of held-out training pictures classified correctly.
        mean_recall: The same, averaged over labels.
        loss: Mean cross-entropy in nats of held-out training pictures, before calibration.
        is_chosen: Whether the model is made with it.
    """

    name: str
    precision_at_1: float
    mean_recall: float
    loss: float
    is_chosen: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastRecord(JsonRecord):
    """The precision@1 that was forecast for new pictures, before any was scored.

    Attributes:
        precision_at_1: The forecast.
        low, high: Its 90 % interval, for a score on `num_examples` pictures.
        num_examples: Number of validation pictures; 0 without any: then the interval is that of the
            score on very many pictures.
    """

    precision_at_1: float
    low: float
    high: float
    num_examples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionRecord(JsonRecord):
    """How recipe `auto` chose a configuration.

    Attributes:
        method: How held-out training pictures were scored, for people.
        num_examples: Training pictures that were scored.
        candidates: What was tried, in order.
        penalty: Penalty of the chosen head's weights.
        class_weight: Exponent of the class weights, see `repot.trainer.auto.heads.class_weights`.
        balance: Why classes were weighed, or not.
        fine_tuning: Whether the whole network was fine-tuned, and why.
        temperature: What the logits are divided by.
        forecast: The score that was forecast.
    """

    method: str
    num_examples: int
    candidates: tuple[CandidateRecord, ...]
    penalty: float
    class_weight: float
    balance: str
    fine_tuning: str
    temperature: float
    forecast: ForecastRecord
