"""Rows of the tables that the report and the model card have in common."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from repot import storage
from repot.evaluation_record import EvaluationRecord, ScoringTime
from repot.evaluator.export_record import ExportRecord
from repot.evaluator.report.confusions import Confusion
from repot.evaluator.report.data import DatasetSummary
from repot.kubernetes_rules import parse_quantity
from repot.layout import CHAMPION_NAME
from repot.metrics import wilson_interval
from repot.pages import MISSING
from repot.recipes import AUGMENTATIONS, RECIPES
from repot.requested_run import PodRequest, RequestedRun
from repot.settings import TrainingSettings
from repot.training_record import TrainingRecord
from repot.zoo import BACKBONES

_MAX_CONFUSIONS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRow:
    """Scores of one label.

    Attributes:
        num_train: Training pictures of this label.
        num_examples: Scored pictures of this label.
        num_correct: Scored pictures of this label that were predicted correctly.
        low, high: 95 % interval of recall, in [0, 1]; None without a scored picture.
        recall, precision, f1: In [0, 1]; None for 0/0.
        position: Of the label among all labels.
        confusions: What its pictures were most often taken for.
        has_more: Whether they were taken for more labels.
    """

    label: str
    num_train: int
    num_examples: int
    num_correct: int
    low: float | None
    high: float | None
    recall: float | None
    precision: float | None
    f1: float | None
    position: int
    confusions: tuple[Confusion, ...]
    has_more: bool


def label_rows(evaluation: EvaluationRecord, dataset: DatasetSummary) -> list[LabelRow]:
    """Return one row per label: lowest recall first, labels without a scored picture last."""
    num_train = dataset.splits["train"].class_counts
    rows = [
        _label_row(evaluation, position, num_train.get(scores.label, 0))
        for position, scores in enumerate(evaluation.per_class)
    ]
    return sorted(
        rows, key=lambda row: (row.recall is None, row.recall, -row.num_examples, row.label)
    )


def training_rows(training: TrainingRecord) -> list[tuple[str, str]]:
    """Return how a model was trained, as pairs of a name and a text.

    They are the same for every training with the same inputs, see `timing_rows` for the others.
    """
    settings, side = training.settings, training.image_size
    return [
        ("backbone", f"{settings.backbone}: {BACKBONES[settings.backbone].summary}"),
        ("recipe", f"{settings.recipe}: {RECIPES[settings.recipe].summary}"),
        *([("weights", training.weights)] if training.weights else []),
        ("checkpoint", training.checkpoint_id),
        ("augmentation", _augmentation(settings)),
        ("image size", f"{side} x {side} pixels"),
        ("batch size", str(settings.batch_size)),
        *_learning_rate_rows(settings),
        ("seed", str(settings.seed)),
        ("epochs", str(training.epochs)),
        ("parameters", f"{training.num_parameters:,}"),
        ("training id", training.training_id),
        *sorted(training.versions.items()),
    ]


def timing_rows(training: TrainingRecord) -> list[tuple[str, str]]:
    """Return how long a training took, as pairs of a name and a text."""
    return [
        ("training time", duration_text(training.seconds)),
        ("training speed", f"{training.train_examples_per_second:,.0f} pictures per second"),
    ]


def cost_rows(
    training: TrainingRecord | None,
    request: RequestedRun | None,
    scoring_time: ScoringTime | None,
) -> list[tuple[str, str]]:
    """Return what a run took of machines: what its pods request, times how long they worked.

    Prices are not known here; `repot runs show` has them.
    """
    rows = []
    if scoring_time is not None:
        speed = scoring_time.num_pictures / max(scoring_time.seconds, 1e-3)
        text = f"{duration_text(scoring_time.seconds)}, {speed:,.0f} pictures per second"
        rows.append(("scoring validation", text))
    if training is not None and request is not None:
        pods = [("training", request.trainer, training.seconds)]
        if scoring_time is not None:
            pods.append(("evaluation", request.evaluator, scoring_time.seconds))
        rows += [
            (f"resources of {name}", _resources_text(pod, seconds)) for name, pod, seconds in pods
        ]
    return rows


def _resources_text(pod: PodRequest | None, seconds: float) -> str:
    if pod is None:
        return f"{duration_text(seconds)} of one machine, without pods"
    hours = pod.num_pods * seconds / 3600
    amounts = [
        *([f"{hours * pod.num_accelerators:.2f} GPU hours"] if pod.num_accelerators else []),
        f"{hours * parse_quantity(pod.cpu):.2f} CPU hours",
        f"{hours * parse_quantity(pod.memory) / 2**30:.2f} GiB hours of memory",
    ]
    size = f"{pod.cpu} CPUs, {pod.memory}"
    if pod.num_accelerators:
        size += f", {pod.num_accelerators} x {pod.accelerator}"
    pods = "1 pod" if pod.num_pods == 1 else f"{pod.num_pods} pods"
    return f"{', '.join(amounts)} ({pods} of {size}, {duration_text(seconds)})"


def use_commands(version_uri: str) -> list[tuple[str, str]]:
    """Return how a published version is used: pairs of a purpose and a command for a shell.

    Args:
        version_uri: Its folder; "" if unknown.
    """
    if not version_uri:
        return []
    version = shlex.quote(version_uri)
    champion = shlex.quote(storage.join(version_uri.rpartition("/")[0], CHAMPION_NAME))
    return [
        (
            "Classify pictures with this version, or with the one that is in production",
            f"repot predict {version} picture.jpg\nrepot predict {champion} picture.jpg",
        ),
        ("Export it for other runtimes", f"repot export {version} --format onnx"),
        ("Serve it on Kubernetes", f"repot serve-manifest {version}"),
    ]


def duration_text(seconds: float) -> str:
    """Return a duration in hours, minutes or seconds."""
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole_seconds} s" if minutes else f"{seconds:.1f} s"


def _label_row(evaluation: EvaluationRecord, position: int, num_train: int) -> LabelRow:
    scores = evaluation.per_class[position]
    n = scores.num_examples
    counts = evaluation.confusion_matrix.get(scores.label, {})
    mistakes = [
        (predicted, count) for predicted, count in counts.items() if predicted != scores.label
    ]
    mistakes.sort(key=lambda item: (-item[1], item[0]))
    low, high = wilson_interval(scores.num_correct, n) if n else (None, None)
    return LabelRow(
        label=scores.label,
        num_train=num_train,
        num_examples=n,
        num_correct=scores.num_correct,
        low=low,
        high=high,
        recall=scores.recall,
        precision=scores.precision,
        f1=scores.f1,
        position=position,
        confusions=tuple(
            Confusion(label=scores.label, predicted=predicted, count=count, num_examples=n)
            for predicted, count in mistakes[:_MAX_CONFUSIONS]
        ),
        has_more=len(mistakes) > _MAX_CONFUSIONS,
    )


def _learning_rate_rows(settings: TrainingSettings) -> list[tuple[str, str]]:
    """Return the rate of the recipe's main phase; a setting of 0 means the recipe's default."""
    recipe = RECIPES[settings.recipe]
    if recipe.selects_itself:
        return []
    return [("peak learning rate", f"{settings.learning_rate or recipe.main_learning_rate:g}")]


def _augmentation(settings: TrainingSettings) -> str:
    name = settings.chosen_augmentation
    never = ", but never mirrored" if settings.no_flip and name != "none" else ""
    return f"{name}: {AUGMENTATIONS[name]}{never}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRow:
    """An export, in texts.

    Attributes:
        format: Its format.
        size: In MB; a dash if it is rejected.
        agreeing: Pictures with the same first label as with the model, of all compared ones.
        difference: Largest difference of a probability.
        precision: precision@1.
        status: "yes", or why it is not published.
    """

    format: str
    size: str
    agreeing: str
    difference: str
    precision: str
    status: str


def export_rows(exports: Iterable[ExportRecord]) -> list[ExportRow]:
    """Return one row per export."""
    return [_export_row(record) for record in exports]


def _export_row(record: ExportRecord) -> ExportRow:
    parity = record.parity
    return ExportRow(
        format=record.format,
        size=MISSING if record.problem else f"{record.size_bytes / 1e6:.1f}",
        agreeing=f"{parity.num_agreeing:,} of {parity.num_pictures:,}" if parity else MISSING,
        difference=f"{parity.max_difference:.1e}" if parity else MISSING,
        precision=f"{parity.precision_at_1:.4f}" if parity else MISSING,
        status=f"no: {record.problem}" if record.problem else "yes",
    )
