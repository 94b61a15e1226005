"""`repot shards`, the first step of the 2016 tutorial: convert pictures to sharded TFRecords."""

import contextlib
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from repot import layout, storage
from repot.data_checks import DataLimits
from repot.errors import UsageError
from repot.extras import install_command
from repot.manifest import Manifest, read_manifest
from repot.settings import STABLE_LAYOUT, DatasetSettings, GateSettings, InputSettings
from repot_pipelines.commands.option_types import NameChoice
from repot_pipelines.commands.options import (
    debug_option,
    directory_option,
    setting_option,
    shown_progress,
)
from repot_pipelines.commands.tutorial import TutorialCommand

if TYPE_CHECKING:
    from repot.planner.listing import PictureRoots

ENGINES = ("processes", "beam")
"""What can build the shards."""


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


def _normal_uri(location: str | None) -> str:
    """Return the URI of a location that need not be given, "" if it is not."""
    return storage.normalise(location) if location else ""
