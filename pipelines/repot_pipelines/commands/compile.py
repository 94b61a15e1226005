"""`repot compile`: write the pipeline as one YAML file."""

from pathlib import Path

import click

from repot.errors import UsageError
from repot.settings import read_values
from repot_pipelines.cluster_rules import settings_problems
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
    help="Image of every task except Train, e.g. a release's image with its digest.",
)
@click.option("--trainer-image", help="Default of the setting trainer_image.")
@click.option(
    "-p",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Default of any other setting; may be repeated. Plan's own pod, which cannot read the "
    "cluster's ConfigMap, gets its image, size, tolerations and Secrets this way only.",
)
@debug_option
def compile_command(
    *, output: Path, cpu_image: str | None, trainer_image: str | None, assignments: tuple[str, ...]
) -> None:
    """Compile the pipeline to the YAML that a Kubeflow Pipelines server takes."""
    from repot_pipelines.compiled import compile_pipeline
    from repot_pipelines.parameters import read_assignments

    images = {"cpu_image": cpu_image, "trainer_image": trainer_image}
    raw = {name: image for name, image in images.items() if image is not None}
    settings, problems = read_values({**raw, **read_assignments(assignments)})
    problems += settings_problems(settings)
    if output.suffix not in _SUFFIXES:
        problems.append(
            f"--output must end with {' or '.join(_SUFFIXES)}; got --output {str(output)!r}."
        )
    if problems:
        raise UsageError(problems)
    compile_pipeline(output, settings=settings)
    click.echo(output)
