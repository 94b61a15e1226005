"""The report of one model: one self-contained HTML page.

It needs no script, no network, no storage of the browser, and shows the same in Kubeflow's sandboxed frame, in a mail
and on paper. What it says comes from report_data.json (see `repot.evaluator.report.data`) and from the verdict.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from repot.evaluator.report.charts import Strip, bin_marks, curve_chart, score_axis, strip
from repot.evaluator.report.confusions import heat_map, worst_confusions
from repot.evaluator.report.templates import environment, plural
from repot.evaluator.report.training_summary import training_facts
from repot.evaluator.summary import confusion_of
from repot.evaluator.verdict import NO_CHAMPION, Verdict
from repot.metrics import CalibrationBin, wilson_interval

MAX_HEAT_MAP_LABELS = 40
MAX_OPEN_LABELS = 24
MAX_CONFUSIONS = 10

_LOSS_COLUMNS = {"train": "train_loss", "validation": "validation_loss"}
_PRECISION_COLUMNS = {"train": "train_precision_at_1", "validation": "validation_precision_at_1"}


class Headline(NamedTuple):
    """The verdict in one line, in three sizes."""

    word: str
    score: str
    against: str


def render_report(data: Mapping[str, Any], verdict: Verdict | None = None) -> str:
    """Return the report as HTML.

    Args:
        data: What report_data.json holds.
        verdict: The gate's verdict; None before the gate.
    """
    metrics, training, history = data["metrics"], data["training"], data["history"]
    labels, matrix = metrics["labels"], confusion_of(metrics)
    axis, strips = _strips(metrics, verdict)
    curves = (
        curve_chart("precision@1", history, _PRECISION_COLUMNS, score=True),
        curve_chart("loss", history, _LOSS_COLUMNS),
    )
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            metrics=metrics,
            facts=training_facts(training) if training else [],
            data=data["data"],
            mistakes=data["mistakes"],
            num_mistakes=int(matrix.sum() - matrix.trace()),
            verdict=verdict,
            has_champion=verdict is not None and verdict.champion_version != NO_CHAMPION,
            headline=_headline(metrics, verdict),
            axis=axis,
            strips=strips,
            threshold=verdict.min_precision if verdict else None,
            rows=label_rows(metrics, data["data"]),
            max_open_labels=MAX_OPEN_LABELS,
            heat_map=heat_map(matrix, labels, MAX_HEAT_MAP_LABELS),
            confusions=worst_confusions(matrix, labels, MAX_CONFUSIONS),
            marks=bin_marks([CalibrationBin(**facts) for facts in metrics["calibration"]["bins"]]),
            curves=[chart for chart in curves if chart],
        )
    )


def _headline(metrics: Mapping[str, Any], verdict: Verdict | None) -> Headline:
    if verdict is not None:
        word, _, rest = verdict.headline.partition(": ")
        score, _, against = rest.partition("; ")
        return Headline(word, score, against)
    low, high = metrics["precision_at_1_interval"]
    score = f"{metrics['precision_at_1']:.3f} [{low:.3f}, {high:.3f}]"
    return Headline("Evaluated", f"{score} on {plural(metrics['num_examples'], 'picture')}", "")


def _strips(metrics: Mapping[str, Any], verdict: Verdict | None) -> tuple[Any, list[Strip]]:
    low, high = metrics["precision_at_1_interval"]
    rows = [("this model", "challenger", metrics["precision_at_1"], (low, high))]
    if verdict is not None and verdict.champion is not None:
        rows.append(
            ("champion", "champion", verdict.champion.precision_at_1, verdict.champion.interval)
        )
    ends = [row[3][0] for row in rows] + (
        [verdict.min_precision] if verdict and verdict.min_precision > 0 else []
    )
    axis = score_axis(ends)
    return axis, [
        strip(axis, name=name, kind=kind, value=value, interval=ends)
        for name, kind, value, ends in rows
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRow:
    """One label.

    Attributes:
        num_train: Pictures that it was trained on.
        num_examples: Pictures that it was scored on; low, high and recall are None without one.
        num_correct: Those that were recognised.
        low, high: 95 % interval of recall, in [0, 1].
        recall, precision, f1: Scores; None for 0/0.
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


def label_rows(metrics: Mapping[str, Any], data: Mapping[str, Any]) -> list[LabelRow]:
    """Return a row for each label, the hardest first; labels without a scored picture come last."""
    trained = data["splits"].get("train", {}).get("class_counts", {})
    rows = [_row(facts, trained.get(facts["label"], 0)) for facts in metrics["per_class"]]
    return sorted(
        rows, key=lambda row: (row.recall is None, row.recall, -row.num_examples, row.label)
    )


def _row(facts: Mapping[str, Any], num_train: int) -> LabelRow:
    n, num_correct = facts["num_examples"], facts["num_correct"]
    low, high = wilson_interval(num_correct, n) if n else (None, None)
    return LabelRow(
        label=facts["label"],
        num_train=num_train,
        num_examples=n,
        num_correct=num_correct,
        low=low,
        high=high,
        recall=facts["recall"],
        precision=facts["precision"],
        f1=facts["f1"],
    )
