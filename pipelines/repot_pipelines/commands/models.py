"""`repot models`: list and show models and their versions, promote a version, or roll back."""

import click

from repot.settings import DEFAULTS
from repot_pipelines.commands.options import (
    debug_option,
    json_option,
    limit_option,
    local_storage_option,
)
from repot_pipelines.commands.rollback import change_champion, rollback_command
from repot_pipelines.commands.tables import (
    date_text,
    print_omitted,
    print_records,
    print_rows,
    score_text,
)

_model_name_option = click.option(
    "--model-name", default=DEFAULTS["model_name"], show_default=True, help="Name of the model."
)


@click.group("models")
def models_group() -> None:
    """List and show models, promote a version, or roll back; in a folder, gs:// or s3://."""


@models_group.command("list")
@local_storage_option
@click.option("--model-name", default="", help="List the versions of this model instead.")
@limit_option
@json_option
@debug_option
def list_models_command(*, storage_uri: str, model_name: str, limit: int, as_json: bool) -> None:
    """List all models with their champions, or the versions of one model, latest verdict first."""
    from repot.evaluator.catalog import list_models, list_versions

    if model_name:
        versions, num_all = list_versions(storage_uri, model_name, limit=limit)
        print_records(
            versions,
            ("version", "decided", "state", "precision@1", "verdict"),
            [
                (
                    each.version,
                    date_text(each.decided_at),
                    each.state,
                    score_text(each.precision_at_1, each.interval),
                    each.brief_verdict,
                )
                for each in versions
            ],
            as_json=as_json,
        )
        print_omitted(len(versions), num_all, "versions")
        return
    models = list_models(storage_uri)
    print_records(
        models,
        ("model", "champion", "since", "precision@1", "versions", "comparisons"),
        [
            (
                each.name,
                each.champion or "none",
                date_text(each.since),
                score_text(each.precision_at_1, each.interval),
                f"{each.num_versions:,}",
                f"{each.num_comparisons:,}",
            )
            for each in models
        ],
        as_json=as_json,
    )


@models_group.command("show")
@click.argument("version", default="")
@local_storage_option
@_model_name_option
@json_option
@debug_option
def show_model_command(*, version: str, storage_uri: str, model_name: str, as_json: bool) -> None:
    """Show VERSION, or the champion: scores, labels, verdicts, and when it was in production."""
    from repot.evaluator.catalog import show_version

    details = show_version(storage_uri, model_name, version)
    summary, record = details.summary, details.record
    rows = [
        ("version", f"{summary.version} {f'({summary.state})' if summary.state else ''}".rstrip()),
        ("folder", details.uri),
        ("precision@1", score_text(summary.precision_at_1, summary.interval)),
        ("pictures", f"{summary.num_examples:,} of {summary.subset}"),
        ("backbone", f"{record.backbone}, {record.image_size} pixels"),
        ("dataset", record.dataset_id),
        ("labels", ", ".join(record.labels)),
        *(("production", f"{each.time} {each.action} {each.reason}") for each in details.history),
        *(("verdict", f"{each.decided_at} {each.headline}") for each in details.verdicts),
    ]
    print_rows(details, rows, as_json=as_json)


@models_group.command("promote")
@click.argument("version")
@click.option("--reason", required=True, help="Why; champion.json keeps it.")
@local_storage_option
@_model_name_option
@debug_option
def promote_command(*, version: str, reason: str, storage_uri: str, model_name: str) -> None:
    """Put the published VERSION into production without the gate."""
    from repot.evaluator.versions import promote_by_hand
    from repot.model_registry import utc_time

    champion = change_champion(
        storage_uri,
        lambda: promote_by_hand(storage_uri, model_name, version, reason=reason, time=utc_time()),
    )
    before = f", in place of {champion.previous}" if champion.previous else ""
    click.echo(f"{model_name}: champion is {champion.version} now{before}.")


models_group.add_command(rollback_command)
