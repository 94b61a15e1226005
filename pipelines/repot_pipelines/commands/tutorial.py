"""The four steps of the 2016 tutorial, one command each, with its flags in today's spelling."""

import time

import click

from repot import quiet_tensorflow, storage
from repot.checkpoint_files import FACTS_NAME
from repot.errors import UsageError
from repot.manifest import Manifest
from repot.recipes import RECIPES
from repot.settings import DatasetSettings, GateSettings, TrainingSettings
from repot.zoo import BACKBONES
from repot_pipelines.commands.options import debug_option, directory_option, shown_progress

_DATASET, _TRAINING, _GATE = DatasetSettings(), TrainingSettings(), GateSettings()


@click.command("shards")
@directory_option("--train-directory", help="Training pictures: one folder a label.")
@directory_option("--validation-directory", help="Validation pictures: one folder a label.")
@directory_option("--output-directory", help="Where the shards, labels.txt and manifest.json go.")
@click.option(
    "--labels-file", default="", help="One label a line; the folder names, sorted, if not given."
)
@click.option("--train-shards", default=_DATASET.train_shards, show_default=True, help="0 chooses.")
@click.option(
    "--validation-shards", default=_DATASET.validation_shards, show_default=True, help="0 chooses."
)
@click.option(
    "--num-threads",
    default=_DATASET.num_threads,
    show_default=True,
    help="Of the 2016 shard layout.",
)
@click.option("--max-rejected-fraction", default=_GATE.max_rejected_fraction, show_default=True)
@debug_option
def shards_command(
    *,
    train_directory: str,
    validation_directory: str,
    output_directory: str,
    labels_file: str,
    train_shards: int,
    validation_shards: int,
    num_threads: int,
    max_rejected_fraction: float,
) -> None:
    """Step 1: turn labelled pictures into sharded TFRecords."""
    from repot import storage

    settings = DatasetSettings(
        train_shards=train_shards, validation_shards=validation_shards, num_threads=num_threads
    )
    with shown_progress():
        manifest = build_in_folder(
            train_uri=storage.normalise(train_directory),
            validation_uri=storage.normalise(validation_directory),
            output_uri=storage.normalise(output_directory),
            labels_file_uri=storage.normalise(labels_file) if labels_file else "",
            settings=settings,
            max_rejected_fraction=GateSettings(
                max_rejected_fraction=max_rejected_fraction
            ).max_rejected_fraction,
        )
    click.echo(
        f"{manifest.num_accepted} of {manifest.num_found} pictures in {len(manifest.shards)} shards, "
        f"{len(manifest.labels)} labels: {output_directory}"
    )


@click.command("checkpoint")
@click.argument("uri")
@directory_option("--output-directory", help="Where the converted weights go.")
@click.option(
    "--backbone",
    default=_TRAINING.backbone,
    show_default=True,
    help=f"One of {', '.join(BACKBONES)}.",
)
@click.option(
    "--values",
    default="auto",
    show_default=True,
    help="Of a TensorFlow checkpoint: auto, ema or raw.",
)
@click.option("--sha256", default="", help="SHA-256 that the checkpoint must have.")
@debug_option
def checkpoint_command(
    *, uri: str, output_directory: str, backbone: str, values: str, sha256: str
) -> None:
    """Step 2: fetch the pre-trained checkpoint URI, a known name, a path or a web address, and convert it."""
    from repot import storage
    from repot.checkpoint_fetcher.fetch import convert_to_folder

    folder_uri = storage.normalise(output_directory)
    with shown_progress():
        convert_to_folder(
            uri, backbone=backbone, values=values, folder_uri=folder_uri, sha256=sha256
        )
    click.echo(f"Weights of {backbone}: {folder_uri}")


@click.command("train")
@directory_option("--data-dir", help="Folder that `repot shards` made.")
@directory_option(
    "--train-dir", help="Where state, events and the model go; a second start goes on from there."
)
@click.option(
    "--pretrained-model-checkpoint-path",
    required=True,
    help="Folder of `repot checkpoint`, or any checkpoint.",
)
@click.option(
    "--fine-tune",
    is_flag=True,
    help="Train the whole network after the head; without it the head alone.",
)
@click.option("--recipe", help=f"Overrides --fine-tune: {', '.join(RECIPES)}.")
@click.option(
    "--backbone",
    default=_TRAINING.backbone,
    show_default=True,
    help=f"One of {', '.join(BACKBONES)}.",
)
@click.option(
    "--initial-learning-rate",
    default=_TRAINING.learning_rate,
    show_default=True,
    help="0: the recipe's own.",
)
@click.option(
    "--num-epochs", default=_TRAINING.epochs, show_default=True, help="0: the recipe's own."
)
@click.option(
    "--batch-size", default=_TRAINING.batch_size, show_default=True, help="Examples a step."
)
@click.option(
    "--image-size",
    default=_TRAINING.image_size,
    show_default=True,
    help="Pixels; 0: the backbone's own.",
)
@click.option("--seed", default=_TRAINING.seed, show_default=True)
@click.option(
    "--input-queue-memory-factor",
    default=_TRAINING.input_queue_memory_factor,
    show_default=True,
    help="Shuffle buffer in units of 1024 records.",
)
@debug_option
def train_command(
    *,
    data_dir: str,
    train_dir: str,
    pretrained_model_checkpoint_path: str,
    fine_tune: bool,
    recipe: str | None,
    backbone: str,
    initial_learning_rate: float,
    num_epochs: int,
    batch_size: int,
    image_size: int,
    seed: int,
    input_queue_memory_factor: int,
) -> None:
    """Step 3: retrain on the shards of step 1 from the checkpoint of step 2."""
    from repot import storage

    settings = TrainingSettings(
        backbone=backbone,
        recipe=recipe or ("fine_tune" if fine_tune else "head"),
        epochs=num_epochs,
        batch_size=batch_size,
        learning_rate=initial_learning_rate,
        image_size=image_size,
        seed=seed,
        input_queue_memory_factor=input_queue_memory_factor,
    )
    with shown_progress():
        train_in_folder(
            data_uri=storage.normalise(data_dir),
            train_uri=storage.normalise(train_dir),
            checkpoint=pretrained_model_checkpoint_path,
            settings=settings,
        )
    click.echo(f"Model: {train_dir}/model")


@click.command("evaluate")
@directory_option("--checkpoint-dir", help="The --train-dir of `repot train`, or a model folder.")
@directory_option("--data-dir", help="Folder that `repot shards` made.")
@directory_option("--eval-dir", help="Where metrics.json, report.html and events go.")
@click.option(
    "--subset", type=click.Choice(["train", "validation"]), default="validation", show_default=True
)
@click.option(
    "--num-examples", default=0, show_default=True, type=click.IntRange(min=0), help="0: all."
)
@click.option(
    "--run-once", is_flag=True, help="Score once; without it again after each interval, for ever."
)
@click.option("--eval-interval-secs", default=300, show_default=True, type=click.IntRange(min=1))
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
    """Step 4: score the model of step 3 on held-out shards."""
    from repot import storage
    from repot.evaluator.evaluate import evaluate_folder

    while True:
        with shown_progress():
            metrics = evaluate_folder(
                storage.normalise(checkpoint_dir),
                storage.normalise(data_dir),
                storage.normalise(eval_dir),
                subset=subset,
                num_examples=num_examples,
            )
        click.echo(
            f"precision @ 1 = {metrics['precision_at_1']:.4f} recall @ {metrics['recall_k']} = "
            f"{metrics['recall_at_5']:.4f} [{metrics['num_examples']} examples]"
        )
        if run_once:
            return
        time.sleep(eval_interval_secs)


def build_in_folder(
    *,
    train_uri: str,
    validation_uri: str,
    output_uri: str,
    labels_file_uri: str,
    settings: DatasetSettings,
    max_rejected_fraction: float,
) -> Manifest:
    """Build a data set from a folder of label folders for each split, and go on where an earlier start stopped.

    Args:
        train_uri, validation_uri: The pictures.
        output_uri: Folder of the data set.
        labels_file_uri: One label a line; "" takes the names of the folders, sorted.
        settings: How pictures become shards.
        max_rejected_fraction: Largest share of damaged pictures.

    Raises:
        RepotError: As `plan_dataset`, `build_shards` and `merge_dataset`.
    """
    from repot.planner.listing import PictureRoots
    from repot.planner.plan import plan_dataset
    from repot.shard_builder.build import build_shards
    from repot.shard_builder.merge import merge_dataset

    plan = plan_dataset(
        PictureRoots(train_uri=train_uri, validation_uri=validation_uri),
        dataset_folder=lambda _: output_uri,
        listings_uri=None,
        settings=settings,
        labels_file_uri=labels_file_uri,
    )
    if not plan.exists:
        build_shards(plan.dataset_uri)
    return merge_dataset(plan.dataset_uri, max_rejected_fraction=max_rejected_fraction)


def train_in_folder(
    *, data_uri: str, train_uri: str, checkpoint: str, settings: TrainingSettings
) -> None:
    """Train from a folder of shards into a training folder, resuming where an earlier start stopped.

    Args:
        data_uri: Folder that `repot shards` made.
        train_uri: Folder for checkpoint/, state/, events/ and model/.
        checkpoint: Folder that `repot checkpoint` made, or any checkpoint, which is converted to
            train_uri/checkpoint.
        settings: Training settings.

    Raises:
        UsageError: The training folder holds another training.
    """
    quiet_tensorflow.import_tensorflow()
    from repot.dataset import load_manifest
    from repot.trainer.request import TrainingRequest, training_id
    from repot.trainer.train import train

    weights_uri = _converted(checkpoint, settings.backbone, storage.join(train_uri, "checkpoint"))
    facts = storage.read_json(storage.join(weights_uri, FACTS_NAME))
    checkpoint_id = f"{facts['sha256']}/{facts['backbone']}-{facts['values']}"
    dataset_id = load_manifest(data_uri).dataset_id
    train(
        TrainingRequest(
            dataset_uri=data_uri,
            weights_uri=weights_uri,
            run_uri=train_uri,
            training_id=training_id(dataset_id, checkpoint_id, settings),
            checkpoint_id=checkpoint_id,
            settings=settings,
        )
    )


def _converted(checkpoint: str, backbone: str, folder_uri: str) -> str:
    """Return a folder of converted weights: the given one, or one made from the given checkpoint."""
    from repot.checkpoint_fetcher.fetch import convert_to_folder

    if "://" not in checkpoint or checkpoint.startswith(("gs://", "s3://")):
        given_uri = storage.normalise(checkpoint)
        facts_uri = storage.join(given_uri, FACTS_NAME)
        if storage.exists(facts_uri):
            _check_backbone(facts_uri, backbone)
            return given_uri
    convert_to_folder(checkpoint, backbone=backbone, values="auto", folder_uri=folder_uri)
    return folder_uri


def _check_backbone(facts_uri: str, backbone: str) -> None:
    converted_for = storage.read_json(facts_uri)["backbone"]
    if converted_for != backbone:
        raise UsageError(
            f"The checkpoint must be converted for backbone={backbone}; {facts_uri} is for {converted_for}. "
            f"Give --backbone {converted_for}, or convert it again with `repot checkpoint --backbone {backbone}`."
        )
