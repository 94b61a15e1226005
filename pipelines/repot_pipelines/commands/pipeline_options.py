"""The options that are parameters of the pipeline, the same in every command that starts it."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from repot.recipes import RECIPES
from repot.zoo import BACKBONES

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _finite(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    """Refuse nan and inf: kfp cannot write them down."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"it must be a finite number; got {value}.")
    return value


_OPTIONS = (
    click.option(
        "--labels-file",
        "labels_file_uri",
        help="One label a line; the folder names, sorted, if not given.",
    ),
    click.option(
        "--validation-fraction",
        type=float,
        callback=_finite,
        help="Share of the pictures held out, unless they come split.",
    ),
    click.option("--train-shards", type=int, help="Shards of the training split; 0 chooses."),
    click.option(
        "--validation-shards", type=int, help="Shards of the validation split; 0 chooses."
    ),
    click.option(
        "--num-threads", type=int, help="Thread count of the 2016 shard layout (not of processes)."
    ),
    click.option(
        "--max-rejected-fraction",
        type=float,
        callback=_finite,
        help="Share of damaged pictures past which the run fails.",
    ),
    click.option("--backbone", help=f"Network: {', '.join(BACKBONES)}."),
    click.option("--checkpoint", help="Pre-trained weights: a known name, a path or a URI."),
    click.option("--checkpoint-sha256", help="SHA-256 that the checkpoint must have."),
    click.option(
        "--checkpoint-values", help="Values of a TensorFlow checkpoint: auto, ema or raw."
    ),
    click.option("--recipe", help=f"How to train: {', '.join(RECIPES)}."),
    click.option(
        "--epochs", type=int, help="Epochs of the recipe's main phase; 0 takes the recipe's own."
    ),
    click.option("--batch-size", type=int, help="Examples a training step."),
    click.option(
        "--learning-rate",
        type=float,
        callback=_finite,
        help="Peak learning rate; 0 takes the recipe's own.",
    ),
    click.option(
        "--image-size", type=int, help="Height and width in pixels; 0 takes the backbone's own."
    ),
    click.option(
        "--input-queue-memory-factor", type=int, help="Shuffle buffer in units of 1024 records."
    ),
    click.option("--seed", type=int, help="Seed of initialisation, shuffling and augmentation."),
    click.option(
        "--min-precision", type=float, callback=_finite, help="Lowest precision@1 that is promoted."
    ),
    click.option("--model-name", help="Name that versions are published under."),
    click.option("--rebuild", help="Any new text forces a new training."),
)


def pipeline_options(command: _Command) -> _Command:
    """Add an option for every parameter that both a laptop and a cluster know; None where it is not given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
