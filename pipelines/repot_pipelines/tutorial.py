"""Steps 3 and 4 of the 2016 tutorial on plain folders: what the pipeline does under a storage URI, without one."""

from typing import Any

from repot import storage
from repot.checkpoint_files import FACTS_NAME
from repot.errors import UsageError
from repot.settings import TrainingSettings

TRAINING_NAME = "training.json"


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
    from repot.dataset import load_manifest
    from repot.trainer.identity import training_id
    from repot.trainer.train import train

    weights_uri = _converted(checkpoint, settings.backbone, storage.join(train_uri, "checkpoint"))
    facts = storage.read_json(storage.join(weights_uri, FACTS_NAME))
    checkpoint_id = f"{facts['sha256']}/{facts['backbone']}-{facts['values']}"
    run_id = training_id(load_manifest(data_uri).dataset_id, checkpoint_id, settings, "")
    return train(
        data_uri, weights_uri, train_uri, training_id=run_id, checkpoint_id=checkpoint_id, settings=settings
    )


def evaluate_in_folder(
    *, train_uri: str, data_uri: str, eval_uri: str, subset: str, num_examples: int
) -> dict[str, Any]:
    """Score the model of a training folder and write metrics.json, report.html and events to another folder.

    Returns:
        What metrics.json holds.

    Raises:
        UsageError: The training folder holds no finished training.
    """
    from repot.evaluator.run import evaluate_folder

    training_uri = storage.join(train_uri, TRAINING_NAME)
    if not storage.exists(training_uri):
        raise UsageError(f"--checkpoint-dir must hold a finished training; there is no {training_uri}. Run `repot train`.")
    return evaluate_folder(train_uri, data_uri, eval_uri, subset=subset, num_examples=num_examples)


def _converted(checkpoint: str, backbone: str, folder_uri: str) -> str:
    """Return a folder of converted weights: the given one, or one made from the given checkpoint."""
    from repot.checkpoint_fetcher.fetch import convert_to_folder

    if "://" not in checkpoint or checkpoint.startswith("gs://"):
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
