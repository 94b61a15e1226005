"""Steps 1 and 3 of the 2016 tutorial on plain folders: what the pipeline does under a storage URI, without one."""

from typing import Any

from repot import quiet_tensorflow, storage
from repot.checkpoint_files import FACTS_NAME
from repot.errors import UsageError
from repot.manifest import Manifest
from repot.settings import DatasetSettings, TrainingSettings


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
    from repot.shard_builder.build import build_shards
    from repot.shard_builder.listing import PictureRoots
    from repot.shard_builder.merge import merge_dataset
    from repot.shard_builder.plan import plan_dataset

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


def train_in_folder(*, data_uri: str, train_uri: str, checkpoint: str, settings: TrainingSettings) -> dict[str, Any]:
    """Train from a folder of shards into a training folder, and go on where an earlier start stopped.

    Args:
        data_uri: Folder that `repot shards` made.
        train_uri: Folder for checkpoint/, state/, events/ and model/.
        checkpoint: Folder that `repot checkpoint` made, or any checkpoint; that is converted to train_uri/checkpoint.
        settings: How to train.

    Returns:
        What training.json holds.

    Raises:
        UsageError: The training folder holds another training.
    """
    quiet_tensorflow.import_tensorflow()
    from repot.dataset import load_manifest
    from repot.trainer.identity import training_id
    from repot.trainer.train import train

    weights_uri = _converted(checkpoint, settings.backbone, storage.join(train_uri, "checkpoint"))
    facts = storage.read_json(storage.join(weights_uri, FACTS_NAME))
    checkpoint_id = f"{facts['sha256']}/{facts['backbone']}-{facts['values']}"
    run_id = training_id(load_manifest(data_uri).dataset_id, checkpoint_id, settings, "")
    return train(data_uri, weights_uri, train_uri, training_id=run_id, checkpoint_id=checkpoint_id, settings=settings)


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
