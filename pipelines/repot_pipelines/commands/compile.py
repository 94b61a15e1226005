"""`repot compile`: write the pipeline as one YAML file."""

from pathlib import Path

import click

from repot.errors import UsageError
from repot.settings import PARAMETERS
from repot_pipelines.commands.options import debug_option
from repot_pipelines.compiled import FILE_NAME

_SUFFIXES = (".yaml", ".yml")


@click.command("compile")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=FILE_NAME,
    show_default=True,
    help="The file to write.",
)
@click.option(
    "--cpu-image",
    help="Default of the parameter cpu_image, e.g. a release's image with its digest.",
)
@click.option("--trainer-image", help="Default of the parameter trainer_image.")
@debug_option
def compile_command(*, output: Path, cpu_image: str | None, trainer_image: str | None) -> None:
    """Compile the pipeline to the YAML that a Kubeflow Pipelines server takes."""
    from repot_pipelines.compiled import compile_pipeline

    images = {"cpu_image": cpu_image, "trainer_image": trainer_image}
    defaults = {name: image for name, image in images.items() if image is not None}
    problems = [
        PARAMETERS[name].metadata["rule"].problem(name, defaults[name]) for name in defaults
    ]
    if output.suffix not in _SUFFIXES:
        problems.append(
            f"--output must end with {' or '.join(_SUFFIXES)}; got --output {str(output)!r}."
        )
    if any(problems):
        raise UsageError(filter(None, problems))
    compile_pipeline(output, defaults=defaults)
    click.echo(output)
