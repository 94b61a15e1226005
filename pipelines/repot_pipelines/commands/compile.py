"""`repot compile`: write the pipeline as one YAML file."""

from pathlib import Path

import click

from repot.errors import UsageError
from repot_pipelines.commands.options import debug_option


@click.command("compile")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file to write."
)
@click.option(
    "--cpu-image",
    help="Default of the parameter cpu_image, e.g. a release's image with its digest.",
)
@click.option("--trainer-image", help="Default of the parameter trainer_image.")
@debug_option
def compile_command(
    *, output: Path | None, cpu_image: str | None, trainer_image: str | None
) -> None:
    """Compile the pipeline to the YAML that a Kubeflow Pipelines server takes."""
    from repot_pipelines.compiled import compile_pipeline, default_output_path

    images = {"cpu_image": cpu_image, "trainer_image": trainer_image}
    defaults = {name: image for name, image in images.items() if image}
    if defaults and output is None:
        raise UsageError(
            "--output must be given with an image; the committed YAML keeps its default images. "
            "Add --output FILE."
        )
    path = output or default_output_path()
    compile_pipeline(path, defaults=defaults)
    click.echo(path)
