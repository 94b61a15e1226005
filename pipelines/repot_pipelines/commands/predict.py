"""`repot predict`: classify pictures with a trained model."""

import functools
import sys

import click

from repot_pipelines.commands.options import NameChoice, debug_option


@click.command("predict")
@click.argument("model")
@click.argument("pictures", nargs=-1, required=True)
@click.option(
    "--format",
    "output_format",
    type=NameChoice(["table", "csv", "jsonl"]),
    default="table",
    show_default=True,
    help="Output format; csv and jsonl are UTF-8 everywhere.",
)
@click.option(
    "--top",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Labels per picture, most probable first.",
)
@debug_option
def predict_command(*, model: str, pictures: tuple[str, ...], output_format: str, top: int) -> int:
    """Classify PICTURES with MODEL.

    MODEL is a champion.json, the folder of a version, or the output folder of `repot run`. A
    picture that cannot be read is reported, and the others are still classified; the exit code is
    then 1.
    """
    from repot import predictions

    if output_format != "table" and hasattr(sys.stdout, "reconfigure"):
        # Programs read these: the encoding must not depend on the terminal's.
        sys.stdout.reconfigure(encoding="utf-8")
    # By default, click removes escape sequences from what it writes to a file or a pipe.
    write = functools.partial(click.echo, color=True)
    return predictions.predict_files(
        model, pictures, output_format=output_format, top=top, write=write
    )
