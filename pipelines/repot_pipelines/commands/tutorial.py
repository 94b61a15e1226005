"""Steps 2 to 4 of the 2016 tutorial, one command each, on plain folders instead of a storage URI.

The options are the tutorial's. Its spelling works too, as in `repot shards`, the first step:
`--train_directory=DIR`, `--fine_tune=True`.
"""

import time
from collections.abc import Iterator

import click

from repot import progress, quiet_tensorflow, storage
from repot.checkpoint_record import CheckpointRecord
from repot.errors import CheckpointError, UsageError
from repot.json_record import read_record
from repot.layout import CHECKPOINT_NAME
from repot.manifest import SPLITS, read_manifest
from repot.recipes import RECIPES
from repot.settings import (
    CHECKPOINT_VALUES,
    TrainingSettings,
)
from repot.training_record import TrainingRecord
from repot_pipelines.commands.option_types import NameChoice
from repot_pipelines.commands.options import (
    debug_option,
    directory_option,
    setting_option,
    shown_progress,
)

_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class TutorialCommand(click.Command):
    """A command that accepts the tutorial's spelling: `--name_with_underscores`, `--flag=True`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments after rewriting them to the hyphenated spelling."""
        return super().parse_args(ctx, list(self._rewrite(args)))

    def _rewrite(self, args: list[str]) -> Iterator[str]:
        is_flag = {
            name: option.is_flag
            for option in self.params
            if isinstance(option, click.Option)
            for name in option.opts
        }
        is_value = False
        for arg in args:
            if is_value or not arg.startswith("--"):
                # The value of an option may begin with hyphens, such as that of --beam-options.
                is_value = False
                yield arg
                continue
            name, equals, value = arg.partition("=")
            name = name.replace("_", "-")
            is_value = not equals and is_flag.get(name) is False
            if not equals or not is_flag.get(name):
                yield name + equals + value
            elif value.lower() not in _TRUTH:
                raise UsageError(f"{name} must be True or False; got {arg}.")
            elif _TRUTH[value.lower()]:
                yield name


@click.command("checkpoint", cls=TutorialCommand)
@click.argument("uri", metavar="CHECKPOINT")
@directory_option("--output-directory", help="Where to write the converted weights.")
@setting_option("backbone", with_default=True)
@click.option(
    "--values",
    type=NameChoice(CHECKPOINT_VALUES),
    default="auto",
    show_default=True,
    help="Values of a TensorFlow checkpoint to use.",
)
@click.option("--sha256", default="", help="SHA-256 that the checkpoint must have.")
@debug_option
def checkpoint_command(
    *, uri: str, output_directory: str, backbone: str, values: str, sha256: str
) -> None:
    """Step 2: fetch and convert a pre-trained checkpoint: a known name, a path or a URI."""
    from repot.checkpoint_fetcher.fetch import convert_to_folder

    folder_uri = storage.normalise(output_directory)
    with shown_progress():
        record = convert_to_folder(
            uri, backbone=backbone, values=values, folder_uri=folder_uri, sha256=sha256
        )
    click.echo(f"Weights of {backbone} ({record.licence_text}): {folder_uri}")


@click.command("train", cls=TutorialCommand)
@directory_option("--data-dir", help="Folder that `repot shards` wrote.")
@directory_option("--train-dir", help="Where to write state, events and model; reruns resume.")
@click.option(
    "--pretrained-model-checkpoint-path",
    "checkpoint",
    required=True,
    help="Folder that `repot checkpoint` wrote, or any checkpoint.",
)
@click.option(
    "--features-dir",
    default="",
    metavar="DIRECTORY",
    help="Where the pictures' features are stored, so that trainings with other settings can share "
    "them; by default in --train-dir.",
)
@click.option(
    "--fine-tune",
    is_flag=True,
    help="Train the whole network, not only the head: an Inception-v3 as in 2016 "
    "(recipe inception_2016), others by recipe fine_tune.",
)
@setting_option("recipe")
@setting_option("backbone", with_default=True)
@setting_option("learning_rate", "--initial-learning-rate", with_default=True)
@setting_option("epochs", "--num-epochs", with_default=True)
@setting_option("batch_size", with_default=True)
@setting_option("image_size", with_default=True)
@setting_option("seed", with_default=True)
@setting_option("augmentation", with_default=True)
@setting_option("no_flip", with_default=True)
@setting_option("class_weights", with_default=True)
@setting_option("budget", with_default=True)
@setting_option("gradient_accumulation", with_default=True)
@setting_option("precision", with_default=True)
@setting_option("xla", with_default=True)
@setting_option("deterministic", with_default=True)
@setting_option("input_queue_memory_factor", with_default=True)
@setting_option("num_epochs_per_decay", with_default=True)
@setting_option("learning_rate_decay_factor", with_default=True)
@debug_option
def train_command(
    *,
    data_dir: str,
    train_dir: str,
    checkpoint: str,
    features_dir: str,
    fine_tune: bool,
    recipe: str | None,
    backbone: str,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    image_size: int,
    seed: int,
    augmentation: str,
    no_flip: bool,
    class_weights: str,
    budget: str,
    gradient_accumulation: int,
    precision: str,
    xla: str,
    deterministic: bool,
    input_queue_memory_factor: int,
    num_epochs_per_decay: float,
    learning_rate_decay_factor: float,
) -> None:
    """Step 3: retrain on the shards of step 1 from the checkpoint of step 2.

    --recipe overrides --fine-tune.
    """
    settings = TrainingSettings(
        backbone=backbone,
        recipe=recipe or _recipe(backbone, fine_tune=fine_tune),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        image_size=image_size,
        seed=seed,
        augmentation=augmentation,
        no_flip=no_flip,
        class_weights=class_weights,
        budget=budget,
        gradient_accumulation=gradient_accumulation,
        precision=precision,
        xla=xla,
        deterministic=deterministic,
        input_queue_memory_factor=input_queue_memory_factor,
        num_epochs_per_decay=num_epochs_per_decay,
        learning_rate_decay_factor=learning_rate_decay_factor,
    )
    with shown_progress():
        for warning in settings.warnings:
            progress.notice("train", warning, is_warning=True)
        _train(
            data_uri=storage.normalise(data_dir),
            train_uri=storage.normalise(train_dir),
            checkpoint=checkpoint,
            features_uri=storage.normalise(features_dir) if features_dir else "",
            settings=settings,
        )
    click.echo(f"Model: {train_dir}/model")


@click.command("evaluate", cls=TutorialCommand)
@directory_option("--checkpoint-dir", help="The --train-dir of `repot train`, or a model folder.")
@directory_option("--data-dir", help="Folder that `repot shards` wrote.")
@directory_option("--eval-dir", help="Where to write metrics.json, report.html and events.")
@click.option(
    "--subset",
    type=NameChoice(SPLITS),
    default="validation",
    show_default=True,
    help="Split to score.",
)
@click.option(
    "--num-examples",
    default=0,
    show_default=True,
    type=click.IntRange(min=0, max=2**31 - 1),
    help="Examples to score; 0 for all.",
)
@click.option("--run-once", is_flag=True, help="Score once, instead of again after each interval.")
@click.option(
    "--eval-interval-secs",
    default=300,
    show_default=True,
    type=click.IntRange(min=1, max=604_800),
    help="Seconds between two evaluations without --run-once.",
)
@click.option(
    "--input-queue-memory-factor",
    type=int,
    expose_value=False,
    help="Accepted for the tutorial's command line; evaluation reads in order and needs no buffer.",
)
@debug_option
def evaluate_command(
    *,
    checkpoint_dir: str,
    data_dir: str,
    eval_dir: str,
    subset: str,
    num_examples: int,
    run_once: bool,
    eval_interval_secs: int,
) -> None:
    """Step 4: score the model of step 3 on held-out shards.

    Repeats every --eval-interval-secs seconds unless --run-once is set.
    """
    from repot.evaluator.evaluate import evaluate_folder

    while True:
        with shown_progress():
            evaluation = evaluate_folder(
                storage.normalise(checkpoint_dir),
                storage.normalise(data_dir),
                storage.normalise(eval_dir),
                subset=subset,
                num_examples=num_examples,
            )
        click.echo(
            f"precision @ 1 = {evaluation.precision_at_1:.4f} recall @ {evaluation.recall_k} = "
            f"{evaluation.recall_at_5:.4f} [{evaluation.num_examples} examples]"
        )
        if run_once:
            return
        time.sleep(eval_interval_secs)


def _recipe(backbone: str, *, fine_tune: bool) -> str:
    if not fine_tune:
        return "head"
    return "inception_2016" if RECIPES["inception_2016"].backbone == backbone else "fine_tune"


def _train(
    *,
    data_uri: str,
    train_uri: str,
    checkpoint: str,
    features_uri: str,
    settings: TrainingSettings,
) -> TrainingRecord:
    """Train on a folder of shards; a rerun resumes.

    Args:
        data_uri: Folder that `repot shards` wrote.
        train_uri: Folder for checkpoint/, features/, state/, events/ and model/.
        checkpoint: Folder that `repot checkpoint` wrote, or any checkpoint, which is then converted
            to train_uri/checkpoint.
        features_uri: Folder of the stored features; "" for train_uri/features.
        settings: How to train.

    Raises:
        UsageError: The training folder holds another training.
    """
    quiet_tensorflow.import_tensorflow()
    from repot.trainer.request import TrainingRequest
    from repot.trainer.train import train
    from repot.training_record import training_id

    weights_uri = _convert_checkpoint(
        checkpoint, settings.backbone, storage.join(train_uri, "checkpoint")
    )
    checkpoint_id = _read_checkpoint_record(weights_uri).checkpoint_id
    dataset_id = read_manifest(data_uri).dataset_id
    return train(
        TrainingRequest(
            dataset_uri=data_uri,
            weights_uri=weights_uri,
            run_uri=train_uri,
            training_id=training_id(dataset_id, checkpoint_id, settings),
            checkpoint_id=checkpoint_id,
            settings=settings,
            features_uri=features_uri,
        )
    )


def _convert_checkpoint(checkpoint: str, backbone: str, folder_uri: str) -> str:
    """Return a folder of converted weights: `checkpoint` itself, or one converted from it.

    Raises:
        UsageError: The weights were converted for another backbone.
    """
    from repot.checkpoint_fetcher.fetch import convert_to_folder

    if "://" not in checkpoint or checkpoint.startswith(("gs://", "s3://")):
        weights_uri = storage.normalise(checkpoint)
        record_uri = storage.join(weights_uri, CHECKPOINT_NAME)
        if storage.exists(record_uri):
            converted_for = _read_checkpoint_record(weights_uri).backbone
            if converted_for != backbone:
                raise UsageError(
                    f"The checkpoint must be converted for backbone={backbone}; "
                    f"{record_uri} is for "
                    f"{converted_for}. Use --backbone {converted_for}, or convert it again with "
                    f"`repot checkpoint --backbone {backbone}`."
                )
            return weights_uri
    convert_to_folder(checkpoint, backbone=backbone, values="auto", folder_uri=folder_uri)
    return folder_uri


def _read_checkpoint_record(weights_uri: str) -> CheckpointRecord:
    uri = storage.join(weights_uri, CHECKPOINT_NAME)
    return read_record(uri, CheckpointRecord, error=CheckpointError)
