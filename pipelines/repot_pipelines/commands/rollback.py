"""`repot rollback`: put an earlier version back into production."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from repot.settings import DEFAULTS
from repot_pipelines.commands.options import debug_option, local_storage_option

if TYPE_CHECKING:  # At run time it would load NumPy.
    from repot.model_registry import Champion


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
    MLflow and the Model Registry get the new champion if their environment variables are set.
    """
    from repot.evaluator.versions import rollback
    from repot.model_registry import utc_time

    champion = change_champion(
        storage_uri, lambda: rollback(storage_uri, model_name, to_version, time=utc_time())
    )
    click.echo(
        f"{model_name}: champion is {champion.version} again, in place of {champion.previous}.\n"
        f"No run promotes {champion.previous} by itself now; to undo this: repot rollback --to "
        f"{champion.previous} --model-name {model_name}"
    )


def change_champion(storage_uri: str, change: "Callable[[], Champion]") -> "Champion":
    """Change a champion, and report it to the services that the environment names.

    Raises:
        UsageError: A setting of a service is wrong; then nothing is changed.
        RepotError: A service did not accept the report, and that is required.
    """
    from repot.evaluator.after_verdict import report_champion
    from repot.settings.integrations import IntegrationSettings

    settings = IntegrationSettings.from_environment(os.environ)
    champion = change()
    for warning in report_champion(storage_uri, champion, settings):
        click.echo(f"warning: {warning}", err=True)
    return champion
