"""One training from its parts: data, classifier, phases, and what is left at the end."""

import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import repot
from repot import storage
from repot.classifier import (
    build_classifier,
    export_saved_model,
    split_classifier,
    training_logits,
)
from repot.dataset import open_shards
from repot.errors import DataError, StoppedError
from repot.json_record import write_record
from repot.layout import KERAS_NAME, LABELS_NAME, MODEL_FOLDER, TRAINING_NAME, WEIGHTS_NAME
from repot.manifest import SPLITS, Manifest, load_manifest
from repot.recipes import RECIPES, Recipe
from repot.settings import TrainingSettings
from repot.trainer.batches import Pictures, feature_batches
from repot.trainer.features import cached_features
from repot.trainer.history import History
from repot.trainer.loop import fit
from repot.trainer.phase import Phase
from repot.trainer.request import TrainingRequest
from repot.trainer.state import TrainingState
from repot.trainer.strategy import (
    check_same_start,
    choose_strategy,
    is_chief,
    make_repeatable,
    wait_for_all,
)
from repot.training_record import EpochRecord, TrainingRecord
from repot.zoo import find_backbone

HEAD_SAVE_INTERVAL = 10
"""Epochs of the head between two saves; they take milliseconds each."""


def run_training(request: TrainingRequest, *, should_stop: Callable[[], bool]) -> TrainingRecord:
    """Train and write everything, training.json last; only the chief worker writes. Raises as `train`."""
    started = time.monotonic()
    settings = request.settings
    strategy = choose_strategy()
    make_repeatable(settings.seed)
    manifest = load_manifest(request.dataset_uri)
    if manifest.num_examples("train") == 0:
        raise DataError(
            f"A data set must have a picture to train on; {request.dataset_uri} has none. Add pictures."
        )
    image_size = settings.image_size or find_backbone(settings.backbone).image_size
    state = TrainingState.load(request.run_uri, request.training_id, is_writer=is_chief(strategy))
    check_same_start(strategy, state)
    history = History(request.run_uri, state.history)
    with tempfile.TemporaryDirectory(prefix="repot-train-") as scratch:
        pictures = _pictures(request.dataset_uri, manifest, image_size, settings, Path(scratch))
        with (
            strategy.scope(),
            storage.as_local_file(storage.join(request.weights_uri, WEIGHTS_NAME)) as weights_path,
        ):
            classifier = build_classifier(
                settings.backbone,
                num_classes=manifest.num_classes,
                image_size=image_size,
                weights_path=weights_path,
            )
        phases = _phases(classifier, pictures, state, settings, should_stop)
        try:
            fit(
                phases,
                strategy=strategy,
                state=state,
                history=history,
                started=started - state.seconds_before,
                should_stop=should_stop,
            )
        except StoppedError:
            wait_for_all(strategy)
            raise
        record = TrainingRecord(
            training_id=request.training_id,
            dataset_id=manifest.dataset_id,
            checkpoint_id=request.checkpoint_id,
            settings=settings,
            image_size=image_size,
            labels=tuple(manifest.labels),
            num_examples={split: manifest.num_examples(split) for split in SPLITS},
            num_parameters=int(classifier.count_params()),
            epochs=len(history.rows),
            seconds=state.seconds_before,
            train_examples_per_second=history.examples_per_second(manifest.num_examples("train")),
            last_epoch=EpochRecord.from_json(history.rows[-1]),
            versions=_versions(),
        )
        if state.is_writer:
            write_model(classifier, manifest.labels, request.run_uri, Path(scratch))
            history.write_csv()
            write_record(storage.join(request.run_uri, TRAINING_NAME), record)
            state.delete()
        wait_for_all(strategy)
    return record


def _pictures(
    dataset_uri: str, manifest: Manifest, image_size: int, settings: TrainingSettings, scratch: Path
) -> dict[str, Pictures]:
    return {
        split: Pictures(
            shards=tuple(open_shards(dataset_uri, manifest.split_shards(split), scratch)),
            num_examples=manifest.num_examples(split),
            image_size=image_size,
            batch_size=settings.batch_size,
            shuffle_buffer=1024 * settings.input_queue_memory_factor,
            seed=settings.seed,
        )
        for split in SPLITS
    }


def _phases(
    classifier: Any,
    pictures: dict[str, Pictures],
    state: TrainingState,
    settings: TrainingSettings,
    should_stop: Callable[[], bool],
) -> list[Phase]:
    recipe = RECIPES[settings.recipe]
    phases = [
        _head_phase(
            classifier, pictures, state, recipe=recipe, settings=settings, should_stop=should_stop
        )
    ]
    if recipe.fine_tune:
        train, validation = pictures["train"], pictures["validation"]
        phases.append(
            Phase(
                name="fine_tune",
                model=classifier,
                logits=training_logits(classifier),
                epochs=settings.epochs or recipe.epochs,
                learning_rate=settings.learning_rate or recipe.learning_rate,
                save_interval=1,
                num_examples=train.num_examples,
                batch_size=settings.batch_size,
                train_batches=train.distorted_batches,
                validation_batches=validation.batches,
            )
        )
    return phases


def _head_phase(
    classifier: Any,
    pictures: dict[str, Pictures],
    state: TrainingState,
    *,
    recipe: Recipe,
    settings: TrainingSettings,
    should_stop: Callable[[], bool],
) -> Phase:
    extractor, head = split_classifier(classifier)
    is_main = not recipe.fine_tune
    features = (
        {} if state.is_past("head") else cached_features(extractor, pictures, state, should_stop)
    )

    def batches(split: str, epoch: int | None, first: int) -> Any:
        seed = (
            None
            if epoch is None
            else int(np.random.SeedSequence([settings.seed, epoch]).generate_state(1)[0])
        )
        return feature_batches(features[split], settings.batch_size, seed, first)

    return Phase(
        name="head",
        model=head,
        logits=lambda features, training: head(features, training=training),
        epochs=settings.epochs if is_main and settings.epochs else recipe.head_epochs,
        learning_rate=settings.learning_rate
        if is_main and settings.learning_rate
        else recipe.head_learning_rate,
        save_interval=HEAD_SAVE_INTERVAL,
        num_examples=pictures["train"].num_examples,
        batch_size=settings.batch_size,
        train_batches=lambda epoch, first: batches("train", epoch, first),
        validation_batches=lambda: batches("validation", None, 0),
    )


def _versions() -> dict[str, str]:
    return {
        "repot": repot.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }


SAVED_MODEL_FOLDER = "saved_model"


def write_model(classifier: Any, labels: Sequence[str], run_uri: str, scratch: Path) -> None:
    """Write model.keras, saved_model/ and labels.txt (line n names class n; class 0 is the background).

    Args:
        classifier: What `repot.classifier.build_classifier` returned, trained.
        labels: N label names; labels[i] has class id i + 1.
        run_uri: Folder of the training.
        scratch: An existing local folder.
    """
    folder = scratch / MODEL_FOLDER
    folder.mkdir()
    with warnings.catch_warnings():
        # Keras 3.15 hands TensorFlow's variables to NumPy 2 in a way that NumPy deprecates.
        warnings.filterwarnings(
            "ignore", message="__array__ implementation", category=DeprecationWarning
        )
        classifier.save(folder / KERAS_NAME)
    export_saved_model(classifier, labels, folder / SAVED_MODEL_FOLDER)
    (folder / LABELS_NAME).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    storage.upload_folder(folder, storage.join(run_uri, MODEL_FOLDER))
