"""`repot export`: write a model in a format for a server, a phone or another runtime."""

import click

from repot.extras import EXPORT_FORMATS
from repot_pipelines.commands.option_types import NameChoice
from repot_pipelines.commands.options import debug_option, local_storage_option


@click.command("export")
@click.argument("model")
@click.option(
    "--format",
    "export_format",
    type=NameChoice(list(EXPORT_FORMATS)),
    required=True,
    help=f"One of {', '.join(EXPORT_FORMATS)}.",
)
@click.option(
    "--output",
    "output_uri",
    default="",
    help="A new or empty folder; default: the name of the format.",
)
@click.option(
    "--data",
    "dataset_uri",
    default="",
    help="The dataset that MODEL was trained on; default: that in its storage.",
)
@local_storage_option
@debug_option
def export_command(
    *, model: str, export_format: str, output_uri: str, dataset_uri: str, storage_uri: str
) -> None:
    """Export MODEL to a folder, after comparing the export with it.

    MODEL is a champion.json, the folder of a version, or the output folder of `repot run`. The
    export is loaded in a process of its own and scored on every validation picture. If its answers
    are not those of the model, nothing is written and the exit code is 1.
    """
    from repot import storage
    from repot.evaluator.exports.export import export_model, find_dataset
    from repot.predictor import find_model

    model_uri = find_model(storage.normalise(model))
    dataset_uri = (
        storage.normalise(dataset_uri)
        if dataset_uri
        else find_dataset(model_uri, storage.normalise(storage_uri))
    )
    output_uri = storage.normalise(output_uri or export_format)
    record = export_model(
        export_format, model_uri=model_uri, dataset_uri=dataset_uri, output_uri=output_uri
    )
    click.echo(f"{output_uri}: {record.summary}")
