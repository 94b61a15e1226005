"""One training from start to end: open the data, build the classifier, train, write results."""

import dataclasses
import functools
import gc
import logging
import math
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import repot
from repot import storage
from repot.checkpoint_record import CheckpointRecord
from repot.classifier import build_classifier, split_classifier
from repot.dataset import Examples, open_examples
from repot.errors import CheckpointError, DataError, StoppedError
from repot.example_digests import Contents, Digests, read_contents, read_groups
from repot.folder_checksums import write_last
from repot.json_record import read_record, record_text, write_record
from repot.layout import (
    CHECKPOINT_NAME,
    FEATURES_FOLDER,
    KERAS_NAME,
    LABELS_NAME,
    MODEL_FOLDER,
    MODEL_SPEC_NAME,
    SAVED_MODEL_FOLDER,
    TRAINING_NAME,
    TRAINING_PARTS,
    WEIGHTS_NAME,
)
from repot.manifest import Split, read_manifest
from repot.model_files import make_reproducible
from repot.model_fingerprint import take_fingerprint
from repot.predictor import as_model
from repot.recipes import RECIPES
from repot.saved_model import export_saved_model
from repot.settings import TrainingSettings
from repot.trainer.answers import store_answers
from repot.trainer.augmented_pictures import write_augmented_pictures
from repot.trainer.batches import Pictures, Share
from repot.trainer.calibration import choose_held_out
from repot.trainer.drivers import TrainedModel, Trainee, run_recipe
from repot.trainer.features import FeatureReader
from repot.trainer.loop import TrainingRun
from repot.trainer.request import TrainingRequest, find_finished
from repot.trainer.state import StateStore
from repot.trainer.step import StepOutOfMemoryError
from repot.trainer.strategy import (
    Computation,
    check_same_state,
    choose_computation,
    choose_strategy,
    has_gpu,
    is_chief,
    make_deterministic,
    wait_for_all,
    worker_index_and_count,
)
from repot.trainer.suspects import write_suspects
from repot.training_record import TrainingRecord, write_history
from repot.zoo import find_backbone

_log = logging.getLogger(__name__)

# What a training opens: validation for the scores of each epoch in the history; never test.
_SPLITS: tuple[Split, ...] = ("train", "validation")


def run_training(request: TrainingRequest, *, should_stop: Callable[[], bool]) -> TrainingRecord:
    """Train and write the results, training.json last; of several workers only the chief writes.

    `repot.trainer.train.train` documents the arguments and the errors.
    """
    strategy = choose_strategy()
    make_deterministic(on_gpu=request.settings.deterministic)
    computation = choose_computation(request.settings, strategy)
    _log.info("training in %s, %s", computation.precision, _device_names(strategy))
    while True:
        try:
            return _run(request, strategy, computation, should_stop)
        except StepOutOfMemoryError as err:
            num_parts = 2 * computation.num_parts
            if num_parts > request.settings.batch_size // strategy.num_replicas_in_sync:
                # The error of TensorFlow: its message names the tensor that did not fit.
                raise err.__cause__ or err from None
            _log.warning(
                "a step with %d examples at a time does not fit into the device's memory; the "
                "training continues from its last saved position with half as many "
                "(gradient_accumulation=%d)",
                math.ceil(request.settings.batch_size / computation.num_parts),
                num_parts,
            )
            computation = dataclasses.replace(computation, num_parts=num_parts)
        # Here, no frame of the failed attempt refers to its variables any more.
        keras.utils.clear_session()
        gc.collect()


def _run(
    request: TrainingRequest,
    strategy: Any,
    computation: Computation,
    should_stop: Callable[[], bool],
) -> TrainingRecord:
    """Start or resume the training.

    Raises:
        StepOutOfMemoryError: The device's memory does not suffice for a step.
    """
    started = time.monotonic()
    settings = request.settings
    manifest = read_manifest(request.dataset_uri)
    if manifest.num_examples("train") == 0:
        raise DataError(
            f"A dataset must have a picture to train on; {request.dataset_uri} has none. "
            "Add pictures."
        )
    image_size = settings.image_size or find_backbone(settings.backbone).image_size
    store = StateStore(request.run_uri, request.training_id, is_writer=is_chief(strategy))
    position = store.load()
    store.delete_old_features()
    check_same_state(strategy, store.file_name)
    contents = functools.cache(
        lambda split: read_contents(request.dataset_uri, manifest, split, task="train")
    )
    with (
        tempfile.TemporaryDirectory(prefix="repot-train-") as scratch,
        storage.as_local_file(storage.join(request.weights_uri, WEIGHTS_NAME)) as weights_path,
        open_examples(
            request.dataset_uri,
            manifest,
            cache_bytes=settings.shard_cache_gib * 2**30,
            should_stop=should_stop,
        ) as examples,
    ):
        pictures = _make_pictures(examples, settings, image_size, strategy)
        if store.is_writer and RECIPES[settings.recipe].augmentation != "none":
            write_augmented_pictures(
                pictures["train"],
                contents("train").class_ids,
                manifest.labels,
                request.run_uri,
                flip=not settings.no_flip,
            )
        with strategy.scope():
            classifier = build_classifier(
                settings.backbone,
                num_classes=manifest.num_classes,
                image_size=image_size,
                weights_path=weights_path,
                seed=settings.seed,
            )
        extractor, _ = split_classifier(classifier)
        features = FeatureReader(
            extractor,
            pictures,
            contents=contents,
            features_uri=request.features_uri or storage.join(request.run_uri, FEATURES_FOLDER),
            checkpoint_id=request.checkpoint_id,
            backbone=settings.backbone,
            scratch=Path(scratch),
            strategy=strategy,
            should_stop=should_stop,
        )
        groups = read_groups(request.dataset_uri, manifest)
        train, held_out = _hold_out(
            pictures["train"], lambda: contents("train"), groups, settings, store
        )
        trainee = Trainee(
            classifier=classifier,
            weights_path=weights_path,
            pictures=pictures | {"train": train},
            features=features,
            settings=settings,
            groups=groups,
            calibration_pictures=held_out,
        )
        run = TrainingRun(
            strategy=strategy,
            position=position,
            store=store,
            started=started - position.seconds,
            should_stop=should_stop,
            computation=computation,
        )
        try:
            trained = run_recipe(trainee, run)
        except StoppedError:
            wait_for_all(strategy)
            raise
        position.seconds = time.monotonic() - run.started
        record = TrainingRecord(
            training_id=request.training_id,
            dataset_id=manifest.dataset_id,
            checkpoint_id=request.checkpoint_id,
            weights=_describe_weights(request.weights_uri),
            settings=settings,
            image_size=image_size,
            labels=manifest.labels,
            num_examples={split: manifest.num_examples(split) for split in manifest.splits},
            num_parameters=int(trained.model.count_params()),
            epochs=len(position.history),
            seconds=position.seconds,
            train_examples_per_second=position.examples_per_second(train.num_examples),
            last_epoch=position.history[-1],
            versions=_versions(),
            selection=trained.selection,
        )
        if store.is_writer:
            finished = find_finished(request)
            if finished is None:
                _write_model(trained, manifest.labels, request.run_uri, Path(scratch))
                write_history(request.run_uri, position.history)
                write_suspects(store, request.run_uri)
                if request.predictions_uri and has_gpu():
                    store_answers(
                        as_model(trained.model, manifest.labels, trained.spec),
                        examples,
                        dataset_uri=request.dataset_uri,
                        manifest=manifest,
                        model_uri=storage.join(request.run_uri, MODEL_FOLDER),
                        predictions_uri=request.predictions_uri,
                    )
                text = record_text(record)
                write_last(request.run_uri, TRAINING_NAME, text, parts=TRAINING_PARTS)
            else:
                # On a GPU, the weights differ in their last bits: its files must stay as they are.
                _log.warning("another run has finished this training; its model is kept")
                record = finished
            store.delete()
        wait_for_all(strategy)
    return record


def _describe_weights(weights_uri: str) -> str:
    """Return the name and the licence of converted weights, "" if they have no record."""
    uri = storage.join(weights_uri, CHECKPOINT_NAME)
    if not storage.exists(uri):
        return ""
    record = read_record(uri, CheckpointRecord, error=CheckpointError)
    return f"{record.source}, {record.licence_text}"


def _make_pictures(
    examples: Mapping[str, Examples], settings: TrainingSettings, image_size: int, strategy: Any
) -> dict[str, Pictures]:
    worker, num_workers = worker_index_and_count(strategy)
    share = Share(
        worker=worker,
        num_workers=num_workers,
        num_replicas=strategy.num_replicas_in_sync // num_workers,
    )
    return {
        split: Pictures(
            examples=examples[split],
            image_size=image_size,
            batch_size=settings.batch_size,
            shuffle_buffer=1024 * settings.input_queue_memory_factor,
            seed=settings.seed,
            augmentation=settings.chosen_augmentation,
            share=share if strategy.num_replicas_in_sync > 1 else None,
        )
        for split in _SPLITS
    }


def _hold_out(
    train: Pictures,
    contents: Callable[[], Contents],
    groups: Digests | None,
    settings: TrainingSettings,
    store: StateStore,
) -> tuple[Pictures, Pictures | None]:
    """Return the pictures to train on, and those to calibrate with; None if there is no need."""
    fraction = settings.calibration_fraction
    if not RECIPES[settings.recipe].fine_tune or not fraction:
        return train, None
    part = choose_held_out(contents, groups, fraction, store)
    _log.info("%d of %d training pictures calibrate the model", part.sum(), len(part))
    fitted, held_out = np.flatnonzero(~part), np.flatnonzero(part)
    return (
        dataclasses.replace(train, only=fitted),
        dataclasses.replace(train, only=held_out, augmentation="none"),
    )


def _device_names(strategy: Any) -> str:
    """Return the number and the kind of the devices that compute."""
    num_devices = strategy.num_replicas_in_sync
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "on a CPU" if num_devices == 1 else f"on {num_devices} CPUs"
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return f"on {num_devices} x {name}"


def _versions() -> dict[str, str]:
    versions = {
        "repot": repot.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }
    if has_gpu():
        build = tf.sysconfig.get_build_info()
        names = {"cuda": "cuda_version", "cudnn": "cudnn_version"}
        versions |= {name: str(build[key]) for name, key in names.items() if key in build}
    return versions


def _write_model(trained: TrainedModel, labels: Sequence[str], run_uri: str, scratch: Path) -> None:
    """Write model.keras, saved_model/, model_spec.json and labels.txt.

    The lines of labels.txt name the model's outputs.
    """
    folder = scratch / MODEL_FOLDER
    folder.mkdir()
    with warnings.catch_warnings():
        # Keras 3.15 passes TensorFlow variables to NumPy in a way that NumPy 2 deprecates.
        warnings.filterwarnings(
            "ignore", message="__array__ implementation", category=DeprecationWarning
        )
        trained.model.save(folder / KERAS_NAME)
    saved_path = folder / SAVED_MODEL_FOLDER
    answer = export_saved_model(trained.model, labels, saved_path, spec=trained.spec)
    fingerprint = take_fingerprint(answer, trained.spec)
    spec = dataclasses.replace(trained.spec, fingerprint=fingerprint)
    write_record(str(folder / MODEL_SPEC_NAME), spec)
    (folder / LABELS_NAME).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    make_reproducible(folder)
    storage.upload_folder(folder, storage.join(run_uri, MODEL_FOLDER))
