"""`repot compile`: write the pipeline as one YAML."""

from pathlib import Path

import click

from repot_pipelines.commands.options import debug_option


@click.command("compile")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@debug_option
def compile_command(output: Path | None) -> None:
    """Compile the pipeline to the YAML that a Kubeflow Pipelines server takes."""
    from repot_pipelines.compiled import checkout_target, compile_pipeline

    path = output or checkout_target()
    compile_pipeline(path)
    click.echo(path)
