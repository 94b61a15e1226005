"""`repot predict`: classify pictures with a trained model."""

import contextlib
import functools
import sys
from pathlib import Path

import click

from repot_pipelines.commands.option_types import NameChoice
from repot_pipelines.commands.options import debug_option, shown_progress

_FORMATS_BY_SUFFIX = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@click.command("predict")
@click.argument("model")
@click.argument("pictures", nargs=-1, required=True)
@click.option(
    "--format",
    "output_format",
    type=NameChoice(["table", "csv", "jsonl"]),
    help="Output format; csv and jsonl are UTF-8 everywhere. By default that of the name of "
    "--output, or a table.",
)
@click.option(
    "--top",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Labels per picture, most probable first.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this .csv or .jsonl file; the same command again continues an unfinished one.",
)
@debug_option
def predict_command(
    *,
    model: str,
    pictures: tuple[str, ...],
    output_format: str | None,
    top: int,
    output: Path | None,
) -> int:
    """Classify PICTURES with MODEL.

    MODEL is a champion.json, the folder of a version, or the output folder of `repot run`. PICTURES
    are files, folders, lists (CSV, JSON Lines, or one path per line), all of these on gs:// or
    s3://, http(s) URLs, or - for a list on standard input. A picture that cannot be read is
    reported, and the others are still classified; the exit code is then 1.
    """
    from repot import predictions
    from repot.errors import UsageError
    from repot.prediction_file import OUTPUT_FORMATS
    from repot_pipelines.picture_lists import find_pictures

    chosen = output_format or _FORMATS_BY_SUFFIX.get(output.suffix if output else "", "table")
    if output and chosen not in OUTPUT_FORMATS:
        raise UsageError(
            f"--output must be a .csv or .jsonl file; got --output={str(output)!r} with the format "
            f"{chosen}. Add --format csv or --format jsonl."
        )
    if chosen != "table" and hasattr(sys.stdout, "reconfigure"):
        # Programs read these: the encoding must not depend on the terminal's.
        sys.stdout.reconfigure(encoding="utf-8")
    # By default, click removes escape sequences from what it writes to a file or a pipe.
    write = functools.partial(click.echo, color=True)
    with shown_progress() if output else contextlib.nullcontext():
        counts = predictions.predict_files(
            model,
            find_pictures(pictures, sys.stdin),
            output_format=chosen,
            top=top,
            write=write,
            output_path=output,
        )
    if output:
        click.echo(f"{output}: {counts.text}")
    return counts.exit_code
