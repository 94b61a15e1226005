"""The four steps of the 2016 tutorial, one command each, on plain folders instead of a storage URI.

The options are the tutorial's. Its spelling works too: `--train_directory=DIR`, `--fine_tune=True`.
"""

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from repot import layout, progress, quiet_tensorflow, storage
from repot.checkpoint_record import CheckpointRecord
from repot.data_checks import DataLimits
from repot.errors import CheckpointError, UsageError
from repot.extras import install_command
from repot.json_record import read_record
from repot.layout import CHECKPOINT_NAME
from repot.manifest import SPLITS, Manifest, read_manifest
from repot.recipes import RECIPES
from repot.settings import (
    CHECKPOINT_VALUES,
    STABLE_LAYOUT,
    DatasetSettings,
    GateSettings,
    InputSettings,
    TrainingSettings,
)
from repot.training_record import TrainingRecord
from repot_pipelines.commands.options import (
    NameChoice,
    debug_option,
    directory_option,
    setting_option,
    shown_progress,
)

if TYPE_CHECKING:
    from repot.planner.listing import PictureRoots

ENGINES = ("processes", "beam")
"""What can build the shards."""

_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class TutorialCommand(click.Command):
    """A command that accepts the tutorial's spelling: `--name_with_underscores`, `--flag=True`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments after rewriting them to the hyphenated spelling."""
        return super().parse_args(ctx, list(self._rewrite(args)))

    def _rewrite(self, args: list[str]) -> Iterator[str]:
        flags = {
            name
            for option in self.params
            if isinstance(option, click.Option) and option.is_flag
            for name in option.opts
        }
        for arg in args:
            if not arg.startswith("--"):
                yield arg
                continue
            name, equals, value = arg.partition("=")
            name = name.replace("_", "-")
            if not equals or name not in flags:
                yield name + equals + value
            elif value.lower() not in _TRUTH:
                raise UsageError(f"{name} must be True or False; got {arg}.")
            elif _TRUTH[value.lower()]:
                yield name


@click.command("shards", cls=TutorialCommand)
@click.argument("pictures", required=False)
@directory_option(
    "--train-directory", required=False, help="Training pictures: one folder per label."
)
@directory_option(
    "--validation-directory", required=False, help="Validation pictures: one folder per label."
)
@click.option(
    "--test-directory",
    default="",
    metavar="DIRECTORY",
    help="Test pictures, optional: one folder per label. Nothing is selected on them.",
)
@directory_option(
    "--output-directory", required=False, help="Where to write shards, labels.txt, manifest.json."
)
@click.option(
    "--storage-uri",
    default="",
    metavar="URI",
    help="Instead of --output-directory: the storage of your runs. A run with the same pictures "
    "and settings finds the dataset there.",
)
@directory_option(
    "--base-directory",
    required=False,
    help="An earlier dataset of these pictures. With --shard-layout stable, only what has changed "
    "since is read and written. In --storage-uri, the newest one is found.",
)
@click.option(
    "--engine",
    type=NameChoice(ENGINES),
    default="processes",
    show_default=True,
    help="What builds the shards: processes on this machine, or an Apache Beam pipeline.",
)
@click.option(
    "--beam-options",
    default="",
    metavar="TEXT",
    help="Beam's own options for --engine beam, such as '--runner=DataflowRunner --project=...'.",
)
@setting_option("labels_file_uri", with_default=True)
@setting_option("imagenet_metadata_file_uri", with_default=True)
@setting_option("bounding_box_file_uri", with_default=True)
@setting_option("corrections_file_uri", with_default=True)
@setting_option("crop_to_boxes", with_default=True)
@setting_option("input_format", with_default=True)
@setting_option("nested", with_default=True)
@setting_option("validation_fraction", with_default=True)
@setting_option("test_fraction", with_default=True)
@setting_option("group_pattern", with_default=True)
@setting_option("train_shards", with_default=True)
@setting_option("validation_shards", with_default=True)
@setting_option("test_shards", with_default=True)
@setting_option("num_threads", with_default=True)
@setting_option("shard_layout", with_default=True)
@setting_option("max_rejected_fraction", with_default=True)
@setting_option("max_leaked_fraction", with_default=True)
@setting_option("min_pictures_per_label", with_default=True)
@setting_option("max_conflicts", with_default=True)
@debug_option
def shards_command(
    *,
    pictures: str | None,
    train_directory: str | None,
    validation_directory: str | None,
    test_directory: str,
    output_directory: str | None,
    storage_uri: str,
    base_directory: str | None,
    engine: str,
    beam_options: str,
    labels_file_uri: str,
    imagenet_metadata_file_uri: str,
    bounding_box_file_uri: str,
    corrections_file_uri: str,
    crop_to_boxes: bool,
    input_format: str,
    nested: bool,
    validation_fraction: float,
    test_fraction: float,
    group_pattern: str,
    train_shards: int,
    validation_shards: int,
    test_shards: int,
    num_threads: int,
    shard_layout: str,
    max_rejected_fraction: float,
    max_leaked_fraction: float,
    min_pictures_per_label: int,
    max_conflicts: int,
) -> None:
    """Step 1: convert labelled pictures to sharded TFRecords.

    The pictures are in --train-directory and --validation-directory, or all in PICTURES, which is
    then split. Each may also be a zip or tar file, a manifest (CSV or JSON Lines), WebDataset tar
    files or TFRecord shards.
    """
    from repot.planner.listing import PictureRoots

    if bool(output_directory) == bool(storage_uri):
        raise UsageError(
            "The dataset must have one place; got "
            f"--output-directory={output_directory or ''!r} and --storage-uri={storage_uri!r}. "
            "Give one of them."
        )
    if beam_options and engine != "beam":
        raise UsageError(
            f"--beam-options must come with --engine beam; got --engine {engine}. Add it."
        )
    if base_directory:
        _check_base(_normal_uri(base_directory), shard_layout)
    settings = DatasetSettings(
        nested=nested,
        crop_to_boxes=crop_to_boxes,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        group_pattern=group_pattern,
        train_shards=train_shards,
        validation_shards=validation_shards,
        test_shards=test_shards,
        num_threads=num_threads,
        shard_layout=shard_layout,
    )
    inputs = InputSettings(
        input_format=input_format,
        imagenet_metadata_file_uri=_normal_uri(imagenet_metadata_file_uri),
        bounding_box_file_uri=_normal_uri(bounding_box_file_uri),
        corrections_file_uri=_normal_uri(corrections_file_uri),
    )
    gate = GateSettings(
        max_rejected_fraction=max_rejected_fraction,
        max_leaked_fraction=max_leaked_fraction,
        min_pictures_per_label=min_pictures_per_label,
        max_conflicts=max_conflicts,
    )
    with shown_progress():
        manifest = _build_dataset(
            PictureRoots(
                pictures_uri=_normal_uri(pictures),
                train_uri=_normal_uri(train_directory),
                validation_uri=_normal_uri(validation_directory),
                test_uri=_normal_uri(test_directory),
            ),
            output_uri=_normal_uri(output_directory),
            storage_uri=_normal_uri(storage_uri),
            base_uri=_normal_uri(base_directory),
            beam_options=shlex.split(beam_options) if engine == "beam" else None,
            labels_file_uri=_normal_uri(labels_file_uri),
            inputs=inputs,
            settings=settings,
            limits=DataLimits.from_settings(gate),
        )
    click.echo(
        f"{manifest.num_accepted} of {manifest.num_found} pictures in {len(manifest.shards)} "
        f"shards, {len(manifest.labels)} labels: "
        f"{output_directory or layout.dataset_uri(storage_uri, manifest.dataset_id)}"
    )


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


def _normal_uri(location: str | None) -> str:
    """Return the URI of a location that need not be given, "" if it is not."""
    return storage.normalise(location) if location else ""


def _check_base(base_uri: str, shard_layout: str) -> None:
    """Check that a dataset can be built on an earlier one.

    Raises:
        UsageError: One of the two has another layout, or there is no earlier one.
    """
    if shard_layout != STABLE_LAYOUT:
        raise UsageError(
            f"--base-directory must come with --shard-layout {STABLE_LAYOUT}; got "
            f"--shard-layout {shard_layout}. Add it."
        )
    manifest = read_manifest(base_uri)
    if manifest.settings.shard_layout != STABLE_LAYOUT:
        raise UsageError(
            f"--base-directory must have a dataset of the layout {STABLE_LAYOUT}; that in "
            f"{base_uri} has the layout {manifest.settings.shard_layout}. Leave the option out."
        )


def _build_dataset(
    roots: "PictureRoots",
    *,
    output_uri: str,
    storage_uri: str,
    base_uri: str,
    beam_options: Sequence[str] | None,
    labels_file_uri: str,
    inputs: InputSettings,
    settings: DatasetSettings,
    limits: DataLimits,
) -> Manifest:
    """Build a dataset; a rerun resumes.

    Args:
        roots: The pictures.
        output_uri: Folder of the dataset; "" for that of its id in `storage_uri`.
        storage_uri: Where a pipeline run looks for datasets.
        base_uri: See `plan_dataset`.
        beam_options: Options of the Beam pipeline that builds the shards; None for processes.
        labels_file_uri: File with one label per line; "" uses the sorted folder names.
        inputs: The format of the pictures, and files with more about them.
        settings: How pictures become shards.
        limits: What is accepted.

    Raises:
        RepotError: As `plan_dataset`, `build_shards` and `complete_dataset`.
    """
    from repot.shard_builder.worker_pool import WorkerPool

    with contextlib.ExitStack() as stack:
        pool: WorkerPool | None = None
        if (
            beam_options is None
            and output_uri
            and not storage.exists(storage.join(output_uri, layout.MANIFEST_NAME))
        ):
            # It starts while this process imports the planner and lists the pictures.
            pool = stack.enter_context(WorkerPool(output_uri))
            pool.start(with_store=not all(map(storage.is_local, roots.folders.values())))
        from repot.planner.plan import plan_dataset
        from repot.shard_builder.build import build_shards
        from repot.shard_builder.complete import complete_dataset

        plan = plan_dataset(
            roots,
            dataset_folder=lambda dataset_id: (
                output_uri or layout.dataset_uri(storage_uri, dataset_id)
            ),
            listings_uri=layout.listings_uri(storage_uri) if storage_uri else None,
            settings=settings,
            labels_file_uri=labels_file_uri,
            inputs=inputs,
            unpacked_uri=layout.unpacked_uri(storage_uri or output_uri),
            newest_uri=(
                layout.newest_dataset_uri(storage_uri, roots.description) if storage_uri else ""
            ),
            base_uri=base_uri,
            max_rejected_fraction=limits.max_rejected_fraction,
        )
        if not plan.exists:
            if beam_options is None:
                build_shards(plan.dataset_uri, pool=pool)
            else:
                build_shards_on_beam = _import_beam()
                build_shards_on_beam(plan.dataset_uri, options=beam_options)
        return complete_dataset(plan.dataset_uri, limits=limits, pool=pool)


def _import_beam() -> Callable[..., None]:
    """Return the function that builds shards on Beam.

    Raises:
        UsageError: Beam is not installed.
    """
    try:
        from repot.shard_builder.beam import build_shards_on_beam
    except ModuleNotFoundError as err:
        raise UsageError(
            "--engine beam needs the package apache-beam, which is missing. Run "
            f"{install_command('beam')}."
        ) from err
    return build_shards_on_beam


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
    from repot.manifest import read_manifest
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
