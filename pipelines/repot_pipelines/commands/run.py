"""`repot run`: the whole pipeline on this machine."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from repot.errors import UsageError
from repot.layout import MODEL_FOLDER, REPORT_NAME
from repot_pipelines.commands.options import debug_option
from repot_pipelines.commands.pipeline_options import pipeline_options
from repot_pipelines.local.run import RunOutcome
from repot_pipelines.presets import PRESETS

GATE_SAID_NO = 3


@click.command("run")
@click.argument("pictures", required=False)
@click.option(
    "--sample", is_flag=True, help="Use the built-in sample of 132 drawings instead of PICTURES."
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="laptop",
    show_default=True,
    help="Set of defaults.",
)
@click.option(
    "--storage-uri",
    default="repot-storage",
    show_default=True,
    help="Where everything is kept: a folder, gs:// or s3://.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="repot-output",
    show_default=True,
    help="Folder for report.html, metrics.json and model/.",
)
@pipeline_options
@click.option(
    "--runner",
    type=click.Choice(["subprocess", "docker"]),
    default="subprocess",
    show_default=True,
    help="What runs the tasks: this Python, or containers of the images.",
)
@click.option("--cpu-image", help="Image of every task but the trainer, for --runner docker.")
@click.option("--trainer-image", help="Image of the trainer, for --runner docker.")
@click.option(
    "--require-promotion", is_flag=True, help=f"Exit with {GATE_SAID_NO} when the gate says no."
)
@click.option("--verbose", is_flag=True, help="Show all that Kubeflow and the tasks print.")
@debug_option
def run_command(
    *,
    pictures: str | None,
    sample: bool,
    preset: str,
    storage_uri: str,
    output: Path,
    runner: str,
    require_promotion: bool,
    verbose: bool,
    **given: Any,
) -> int:
    """Turn PICTURES into a fine-tuned, evaluated classifier and a report.

    PICTURES is a folder (or gs:// or s3:// prefix) of label/picture folders, or one that holds train/label/... and
    validation/label/.... The command runs the same compiled pipeline as a cluster. Run it again with the same
    --storage-uri and it goes on where it was; with nothing changed it does nothing.
    """
    from rich.console import Console

    from repot import storage
    from repot_pipelines.local.run import SAMPLE_FOLDER, run_pipeline

    if sample == (pictures is not None):
        raise UsageError("Give either PICTURES, a folder of label folders, or --sample.")
    arguments = {
        **PRESETS[preset],
        **{name: value for name, value in given.items() if value is not None},
        "pictures_uri": str(SAMPLE_FOLDER) if sample else storage.normalise(str(pictures)),
        "storage_uri": storage.normalise(storage_uri),
    }
    console = Console()
    print_inputs(console, arguments, output.absolute())
    outcome = run_pipeline(
        arguments, output_path=output.absolute(), console=console, verbose=verbose, runner=runner
    )
    print_outcome(console, outcome)
    return GATE_SAID_NO if require_promotion and not outcome.metrics["promoted"] else 0


def print_inputs(console: Console, arguments: dict[str, Any], output_path: Path) -> None:
    """Print where the pictures come from and where everything goes."""
    _print_rows(
        console,
        {
            "pictures": arguments["pictures_uri"],
            "storage": arguments["storage_uri"],
            "output": str(output_path),
            "model": f"{arguments['backbone']}, recipe {arguments['recipe']}",
        },
    )


def print_outcome(console: Console, outcome: RunOutcome) -> None:
    """Print the scores with their 95 % intervals, the verdict and the paths to look at."""
    metrics = outcome.metrics
    low, high = metrics["precision_at_1_interval"]
    _print_rows(
        console,
        {
            "precision@1": f"{metrics['precision_at_1']:.3f}  (95 % interval {low:.3f} to {high:.3f}, "
            f"{metrics['num_examples']} validation pictures)",
            f"recall@{metrics['recall_k']}": f"{metrics['recall_at_5']:.3f}",
            "verdict": f"{outcome.verdict['verdict']}: {' '.join(outcome.verdict['reasons'])}",
            "model": str(outcome.output_path / MODEL_FOLDER),
            "report": str(outcome.output_path / REPORT_NAME),
        },
    )


def _print_rows(console: Console, rows: dict[str, str]) -> None:
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        console.print(
            f"[bold]{name:<{width}}[/bold]{escape(value)}", highlight=False, soft_wrap=True
        )
