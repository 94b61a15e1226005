"""`repot runs`: list, show and compare the trainings in a storage."""

import dataclasses
from typing import TYPE_CHECKING

import click

from repot_pipelines.commands.options import (
    debug_option,
    json_option,
    limit_option,
    local_storage_option,
)
from repot_pipelines.commands.tables import (
    date_text,
    print_omitted,
    print_records,
    print_rows,
    score_text,
)

if TYPE_CHECKING:
    from repot.evaluator.catalog import RunDetails
    from repot.settings import TrainingSettings
    from repot.training_record import TrainingRecord

_MAIN_SETTINGS = ("backbone", "recipe", "seed")
"""Settings that `repot runs show` prints even if they have their defaults."""


@click.group("runs")
def runs_group() -> None:
    """List, show and compare trainings and their scores; in a folder, gs:// or s3://."""


@runs_group.command("list")
@local_storage_option
@limit_option
@json_option
@debug_option
def list_runs_command(*, storage_uri: str, limit: int, as_json: bool) -> None:
    """List the runs with scores and latest verdict, the latest one first."""
    from repot.evaluator.catalog import list_runs

    runs, num_all = list_runs(storage_uri, limit=limit)
    print_records(
        runs,
        ("run", "decided", "backbone", "recipe", "precision@1", "verdict"),
        [
            (
                each.run,
                date_text(each.decided_at),
                each.backbone,
                each.recipe,
                score_text(each.precision_at_1, each.interval),
                # Before a verdict, how far the run is.
                each.brief_verdict or each.state,
            )
            for each in runs
        ],
        as_json=as_json,
    )
    print_omitted(len(runs), num_all, "runs")


@runs_group.command("show")
@click.argument("run")
@local_storage_option
@json_option
@debug_option
def show_run_command(*, run: str, storage_uri: str, as_json: bool) -> None:
    """Show RUN: settings, scores by label, and every verdict."""
    from repot.evaluator.catalog import show_run

    details = show_run(storage_uri, run)
    summary, training, evaluation = details.summary, details.training, details.evaluation
    rows = [("run", f"{summary.run} ({summary.state})"), ("folder", details.uri)]
    if training is not None:
        rows += [
            ("dataset", training.dataset_id),
            ("training", _training_text(training)),
            ("settings", _settings_text(training.settings)),
        ]
    if evaluation is not None:
        scores = evaluation.scores
        rows += [
            ("precision@1", score_text(scores.precision_at_1, scores.precision_at_1_interval)),
            ("mean recall", score_text(scores.macro_recall, scores.macro_recall_interval)),
            ("mean F1", score_text(scores.macro_f1, scores.macro_f1_interval)),
            ("pictures", f"{scores.num_examples:,} of {evaluation.subset}"),
            *(
                ("label", f"{each.label}: {each.num_correct:,} of {each.num_examples:,} right")
                for each in evaluation.per_class
            ),
        ]
    if summary.state == "removed":
        rows += [
            ("dataset", summary.dataset_id),
            ("training", f"{summary.num_train_examples:,} pictures, {summary.recipe}"),
            ("precision@1", score_text(summary.precision_at_1, summary.interval)),
        ]
    rows += [("verdict", f"{each.decided_at} {each.headline}") for each in details.verdicts]
    if details.request is not None:
        rows += [*_cost_rows(details), ("repeat", details.request.command)]
    print_rows(details, rows, as_json=as_json)


def _training_text(training: "TrainingRecord") -> str:
    from repot.recipes import RECIPES

    parts = [f"{training.num_examples['train']:,} pictures"]
    if not RECIPES[training.settings.recipe].selects_itself:
        parts.append(f"{training.epochs} epoch{'' if training.epochs == 1 else 's'}")
    return ", ".join([*parts, f"{training.seconds:.0f} s"])


def _settings_text(settings: "TrainingSettings") -> str:
    """Return the settings that say what was trained, and all that are not the defaults."""
    values = [(field, getattr(settings, field.name)) for field in dataclasses.fields(settings)]
    shown = [
        f"{field.name}={value}"
        for field, value in values
        if field.name in _MAIN_SETTINGS or value != field.default
    ]
    return f"{', '.join(shown)}; defaults for the rest"


def _cost_rows(details: "RunDetails") -> list[tuple[str, str]]:
    """Return what training and scoring cost at the prices that `repot submit --dry-run` uses."""
    from repot_pipelines.estimate.prices import read_prices
    from repot_pipelines.estimate.run_cost import cost_of_run

    prices, scoring = read_prices(), details.scoring_time
    cost = (
        cost_of_run(
            details.request,
            training_seconds=details.training.seconds,
            scoring_seconds=scoring.seconds if scoring else 0.0,
            prices=prices,
        )
        if details.request is not None and details.training is not None
        else None
    )
    if cost is None:
        return []
    low, high = (f"{amount:.2f}" for amount in cost)
    amount = low if low == high else f"{low} to {high}"
    return [("cost", f"{amount} {prices.currency} for training and scoring ({prices.source})")]


@runs_group.command("compare")
@click.argument("first")
@click.argument("second")
@local_storage_option
@json_option
@debug_option
def compare_runs_command(*, first: str, second: str, storage_uri: str, as_json: bool) -> None:
    """Compare two runs on the pictures that both were scored on, and list how they differ."""
    from repot.evaluator.run_comparison import compare_runs

    result = compare_runs(storage_uri, first, second)
    rows = [
        (
            name,
            (
                f"{each.run}: {score_text(each.precision_at_1, each.interval)}, verdict "
                f"{each.verdict or 'none'}"
            ),
        )
        for name, each in (("first", result.first), ("second", result.second))
    ]
    low, high = result.interval
    rows += [
        ("pictures", f"{result.num_pictures:,} that both were scored on"),
        ("only first", f"{result.only_first:,} that only the first gets right"),
        ("only second", f"{result.only_second:,} that only the second gets right"),
        (
            "difference",
            (
                f"{result.difference:+.3f} [{low:+.3f}, {high:+.3f}] in precision@1, second minus "
                f"first; exact McNemar p = {result.p_value:.2g} for this one comparison"
            ),
        ),
        *(
            ("differs", f"{name}: {old or 'none'} -> {new or 'none'}")
            for name, (old, new) in result.settings.items()
        ),
    ]
    print_rows(result, rows, as_json=as_json)
