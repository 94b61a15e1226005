"""`repot rollback`: put an earlier version back into production."""

import click

from repot.settings import DEFAULTS
from repot_pipelines.commands.options import debug_option, local_storage_option


@click.command("rollback")
@local_storage_option
@click.option(
    "--model-name", default=DEFAULTS["model_name"], show_default=True, help="Name of the model."
)
@click.option(
    "--to",
    "to_version",
    default="",
    help="A published version; default: the version before the champion.",
)
@debug_option
def rollback_command(*, storage_uri: str, model_name: str, to_version: str) -> None:
    """Put an earlier version back into production.

    The version that it replaces is recorded, and no later run promotes that version automatically.
    champion.json keeps the history: every promotion with its run and verdict, and every rollback.
    """
    from repot.evaluator.versions import rollback
    from repot.model_registry import utc_time

    champion = rollback(storage_uri, model_name, to_version, time=utc_time())
    click.echo(
        f"{model_name}: champion is {champion.version} again, in place of {champion.previous}."
    )
