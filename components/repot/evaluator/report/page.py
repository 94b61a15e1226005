"""The report of one model: a single self-contained HTML page, and the same facts as Markdown.

The page needs no network or browser storage, so it works in Kubeflow's sandboxed iframe, in email
and in print. Its script only sorts and filters tables; without it, all content is there.
"""

from collections.abc import Sequence
from typing import NamedTuple

from repot import bit_depth, storage
from repot.evaluation_record import EvaluationRecord, SplitScores
from repot.evaluator.report import templates
from repot.evaluator.report.charts import (
    Axis,
    CurveChart,
    ScoreRow,
    calibration_marks,
    curve_chart,
    score_axis,
    score_row,
)
from repot.evaluator.report.confusions import confusion_counts, heat_map, worst_confusions
from repot.evaluator.report.data import ReportContext, ReportData
from repot.evaluator.report.model_card import escape_markdown
from repot.evaluator.report.tables import (
    cost_rows,
    export_rows,
    label_rows,
    timing_rows,
    training_rows,
    use_commands,
)
from repot.evaluator.verdict import Score, Verdict
from repot.layout import DATA_PAGE_NAME
from repot.manifest import EXCLUSION_REASONS
from repot.pages import environment
from repot.recipes import AUGMENTATIONS
from repot.training_record import EpochRecord

MAX_HEAT_MAP_LABELS = 40
MAX_OPEN_LABELS = 24
MAX_CONFUSIONS = 10
MAX_SLICES = 100


_NO_CONTEXT = ReportContext()


class Headline(NamedTuple):
    """The result in one line, split into parts of different size."""

    title: str
    sentence: str
    scores: str


def render_report(
    data: ReportData, verdict: Verdict | None = None, context: ReportContext = _NO_CONTEXT
) -> str:
    """Return the report as HTML.

    Args:
        data: The content of report_data.json.
        verdict: The gate's verdict; None before the gate.
        context: What else is known about the run.
    """
    evaluation, training = data.evaluation, data.training
    matrix = confusion_counts(evaluation)
    axis, score_rows = _score_chart(evaluation, verdict)
    template = environment(templates.__name__).get_template("report.html.j2")
    return template.render(
        evaluation=evaluation,
        dataset=data.dataset,
        selection=training.selection if training else None,
        bit_depth_rule=bit_depth.RULE,
        verdict=verdict,
        commands=use_commands(context.version_uri),
        request=context.request,
        data_page_uri=_data_page_uri(context),
        cost_rows=cost_rows(training, context.request, context.scoring_time),
        export_rows=export_rows(context.exports),
        headline=_headline(evaluation, verdict),
        axis=axis,
        score_rows=score_rows,
        threshold=verdict.min_precision if verdict else 0.0,
        label_rows=label_rows(evaluation, data.dataset),
        max_open_labels=MAX_OPEN_LABELS,
        heat_map=heat_map(matrix, evaluation.labels, MAX_HEAT_MAP_LABELS, data.cells),
        slices=data.slices,
        max_slices=MAX_SLICES,
        compared_labels=context.compared_labels,
        lost_labels={each.label for each in verdict.lost_labels} if verdict else (),
        confusions=worst_confusions(matrix, evaluation.labels, MAX_CONFUSIONS),
        mistakes=data.mistakes,
        suspects=data.suspects,
        excluded=[
            (EXCLUSION_REASONS.get(reason, reason), count)
            for reason, count in evaluation.excluded.items()
        ],
        num_mistakes=evaluation.num_examples - evaluation.num_correct,
        curves=_training_curves(data.history),
        augmented=data.augmented,
        augmentations=AUGMENTATIONS,
        calibration_marks=calibration_marks(evaluation.calibration.bins),
        training_rows=[*training_rows(training), *timing_rows(training)] if training else [],
    )


def render_markdown(
    data: ReportData, verdict: Verdict | None = None, context: ReportContext = _NO_CONTEXT
) -> str:
    """Return the same facts as Markdown, without pictures and charts.

    Args:
        data: The content of report_data.json.
        verdict: The gate's verdict; None before the gate.
        context: What else is known about the run.
    """
    evaluation, training = data.evaluation, data.training
    template = environment(templates.__name__).get_template("report.md.j2")
    rows = [*training_rows(training), *timing_rows(training)] if training else []
    return template.render(
        evaluation=evaluation,
        dataset=data.dataset,
        verdict=verdict,
        comparison=verdict.comparison if verdict else None,
        headline=_headline(evaluation, verdict),
        compared_labels=context.compared_labels,
        slices=data.slices,
        label_rows=label_rows(evaluation, data.dataset),
        mistakes=data.mistakes,
        suspects=data.suspects,
        data_page_uri=_data_page_uri(context),
        training_rows=[*rows, *cost_rows(training, context.request, context.scoring_time)],
        export_rows=export_rows(context.exports),
        commands=use_commands(context.version_uri),
        request=context.request,
        escape=escape_markdown,
    )


def _data_page_uri(context: ReportContext) -> str:
    return storage.join(context.dataset_uri, DATA_PAGE_NAME) if context.dataset_uri else ""


def _headline(evaluation: EvaluationRecord, verdict: Verdict | None) -> Headline:
    if verdict is not None:
        return Headline(verdict.title, verdict.sentence or verdict.scores_text, verdict.scores_text)
    text = _score(evaluation.scores).text
    return Headline("Evaluated", text, "")


def _score_chart(
    evaluation: EvaluationRecord, verdict: Verdict | None
) -> tuple[Axis, list[ScoreRow]]:
    """Return the axis and the rows of the chart of precision@1: this model, and the champion."""
    scores = [("this model", "challenger", _score(evaluation.scores))]
    if evaluation.test is not None:
        scores.append(("on test", "challenger", _score(evaluation.test)))
    if verdict is not None and verdict.champion is not None:
        # The champion next to this model, on the same pictures.
        compared = _basis(verdict.challenger)
        if all(_basis(score) != compared for _, _, score in scores):
            scores.append(("compared", "challenger", verdict.challenger))
        elif _basis(scores[0][2]) != compared:
            scores.reverse()
        scores.append(("champion", "champion", verdict.champion))
    lowest = [score.interval[0] for _, _, score in scores]
    if verdict is not None and verdict.min_precision > 0:
        lowest.append(verdict.min_precision)
    axis = score_axis(lowest)
    return axis, [
        score_row(axis, name=name, kind=kind, value=score.precision_at_1, interval=score.interval)
        for name, kind, score in scores
    ]


def _basis(score: Score) -> tuple[float, int]:
    """Return what shows whether two scores of one version are about the same pictures."""
    return score.precision_at_1, score.num_examples


def _score(scores: SplitScores) -> Score:
    return Score(
        precision_at_1=scores.precision_at_1,
        interval=scores.precision_at_1_interval,
        num_examples=scores.num_examples,
    )


def _training_curves(history: Sequence[EpochRecord]) -> list[CurveChart]:
    """Return the charts of precision@1 and loss by epoch; none for fewer than two epochs."""
    if len(history) < 2:
        return []
    phases = [row.phase for row in history]
    precision: dict[str, Sequence[float | None]] = {
        "train": [row.train_precision_at_1 for row in history],
        "validation": [row.validation_precision_at_1 for row in history],
    }
    loss: dict[str, Sequence[float | None]] = {
        "train": [row.train_loss for row in history],
        "validation": [row.validation_loss for row in history],
    }
    charts = (
        curve_chart("precision@1", phases, precision, is_share=True),
        curve_chart("loss", phases, loss),
    )
    return [chart for chart in charts if chart is not None]
