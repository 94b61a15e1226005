"""`repot run`: the whole pipeline on this machine."""

from pathlib import Path
from typing import Any

import click

from repot.errors import UsageError
from repot.recipes import RECIPES
from repot.zoo import BACKBONES
from repot_pipelines.commands.options import debug_option
from repot_pipelines.presets import PRESETS

GATE_SAID_NO = 3


@click.command("run")
@click.argument("pictures", required=False)
@click.option("--sample", is_flag=True, help="Use the built-in sample of 132 drawings instead of PICTURES.")
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="laptop", show_default=True, help="Set of defaults."
)
@click.option(
    "--storage-uri", default="repot-storage", show_default=True, help="Where everything is kept: a folder or gs://."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="repot-output",
    show_default=True,
    help="Folder for report.html, metrics.json and model/.",
)
@click.option("--labels-file", "labels_file_uri", help="One label a line; the folder names, sorted, if not given.")
@click.option("--validation-fraction", type=float, help="Share of the pictures held out, unless they come split.")
@click.option("--train-shards", type=int, help="Shards of the training split; 0 chooses.")
@click.option("--validation-shards", type=int, help="Shards of the validation split; 0 chooses.")
@click.option("--num-threads", type=int, help="Thread count of the 2016 shard layout (not of processes).")
@click.option("--max-rejected-fraction", type=float, help="Share of damaged pictures past which the run fails.")
@click.option("--backbone", help=f"Network: {', '.join(BACKBONES)}.")
@click.option("--checkpoint", help="Pre-trained weights: a known name, a path or a URI.")
@click.option("--checkpoint-sha256", help="SHA-256 that the checkpoint must have.")
@click.option("--checkpoint-values", help="Values of a TensorFlow checkpoint: auto, ema or raw.")
@click.option("--recipe", help=f"How to train: {', '.join(RECIPES)}.")
@click.option("--epochs", type=int, help="Epochs of the recipe's main phase; 0 takes the recipe's own.")
@click.option("--batch-size", type=int, help="Examples a training step.")
@click.option("--learning-rate", type=float, help="Peak learning rate; 0 takes the recipe's own.")
@click.option("--image-size", type=int, help="Height and width in pixels; 0 takes the backbone's own.")
@click.option("--input-queue-memory-factor", type=int, help="Shuffle buffer in units of 1024 records.")
@click.option("--seed", type=int, help="Seed of initialisation, shuffling and augmentation.")
@click.option("--min-precision", type=float, help="Lowest precision@1 that is promoted.")
@click.option("--model-name", help="Name that versions are published under.")
@click.option("--rebuild", help="Any new text forces a new training.")
@click.option(
    "--runner",
    type=click.Choice(["subprocess", "docker"]),
    default="subprocess",
    show_default=True,
    help="What runs the tasks: this Python, or containers of the images.",
)
@click.option("--cpu-image", help="Image of every task but the trainer, for --runner docker.")
@click.option("--trainer-image", help="Image of the trainer, for --runner docker.")
@click.option("--require-promotion", is_flag=True, help=f"Exit with {GATE_SAID_NO} when the gate says no.")
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

    PICTURES is a folder (or gs:// prefix) of label/picture folders, or one that holds train/label/... and
    validation/label/.... The command runs the same compiled pipeline as a cluster. Run it again with the same
    --storage-uri and it goes on where it was; with nothing changed it does nothing.
    """
    from rich.console import Console

    from repot import storage
    from repot_pipelines.run import SAMPLE_FOLDER, run_pipeline
    from repot_pipelines.run_summary import print_inputs, print_outcome

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
    outcome = run_pipeline(arguments, output_path=output.absolute(), console=console, verbose=verbose, runner=runner)
    print_outcome(console, outcome)
    return GATE_SAID_NO if require_promotion and not outcome.metrics["promoted"] else 0
