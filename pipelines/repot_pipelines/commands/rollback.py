"""`repot rollback`: put an earlier version back into production."""

import click

from repot_pipelines.commands.options import debug_option
from repot_pipelines.presets import PRESETS


@click.command("rollback")
@click.option(
    "--storage-uri",
    default="repot-storage",
    show_default=True,
    help="Where everything is kept: a folder, gs:// or s3://.",
)
@click.option(
    "--model-name", default=PRESETS["laptop"]["model_name"], show_default=True, help="The model."
)
@click.option(
    "--to",
    "to_version",
    default="",
    help="A published version; the one before the champion if not given.",
)
@debug_option
def rollback_command(*, storage_uri: str, model_name: str, to_version: str) -> None:
    """Put an earlier version back into production.

    The version that is taken out is remembered: no later run promotes it again by itself.
    """
    from repot.evaluator.promote import rollback

    champion = rollback(storage_uri, model_name, to_version)
    click.echo(
        f"{model_name}: champion is {champion.version} again, in place of {champion.previous}."
    )
