"""A dataset of plain colours, and finished trainings of classifiers for them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from repot import layout, storage
from repot.data_checks import DataLimits
from repot.json_record import write_record
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings, TrainingSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from repot.training_record import EpochRecord, TrainingRecord
from tests.integration.evaluator.colours import (
    COLOURS,
    IMAGE_SIZE,
    NUM_VALIDATION,
    VALIDATION,
    MakeRun,
    save_model,
    save_picture,
)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of pictures with train/ and validation/; one picture is truncated."""
    folder = tmp_path_factory.mktemp("pictures")
    for label, colours in VALIDATION.items():
        for i in range(2):
            save_picture(folder / "train" / label / f"{i}.jpg", label)
        for i, colour in enumerate(colours):
            save_picture(
                folder / "validation" / label / f"{label}_{i}.jpg", colour, size=(40 + i, 60)
            )
    (folder / "train" / "red" / "torn.jpg").write_bytes(
        (folder / "train" / "red" / "0.jpg").read_bytes()[:200]
    )
    return folder


@pytest.fixture(scope="session")
def dataset(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of the pictures with three validation shards."""
    folder = tmp_path_factory.mktemp("dataset")
    build_dataset(pictures, folder, validation_shards=3)
    return folder


def build_dataset(pictures: Path, folder: Path, *, validation_shards: int = 1) -> None:
    """Build a dataset of a folder with train/ and validation/, and test/ if it has one."""
    plan = plan_dataset(
        PictureRoots(
            train_uri=str(pictures / "train"),
            validation_uri=str(pictures / "validation"),
            test_uri=str(pictures / "test") if (pictures / "test").exists() else "",
        ),
        dataset_folder=lambda _: str(folder),
        listings_uri=None,
        settings=DatasetSettings(train_shards=1, validation_shards=validation_shards),
    )
    build_shards(plan.dataset_uri, num_processes=1)
    complete_dataset(plan.dataset_uri, limits=DataLimits(max_rejected_fraction=0.5))


@pytest.fixture
def storage_uri(dataset: Path, tmp_path: Path) -> str:
    """Return a storage folder that contains the dataset as datasets/colours."""
    uri = str(tmp_path / "storage")
    storage.copy_folder(str(dataset), layout.dataset_uri(uri, "colours"))
    return uri


@pytest.fixture
def make_run(storage_uri: str, tmp_path: Path) -> MakeRun:
    """Return a function that writes a finished training to the storage and returns its folder."""

    def make(
        training_id: str,
        labels: Sequence[str] = tuple(COLOURS),
        colours: Sequence[str] = tuple(COLOURS),
        dataset_id: str = "colours",
    ) -> str:
        run_uri = layout.run_uri(storage_uri, training_id)
        save_model(tmp_path / training_id, labels, colours)
        storage.copy_folder(str(tmp_path / training_id), storage.join(run_uri, "model"))
        storage.write_text(
            storage.join(run_uri, "history.csv"),
            "phase,epoch,learning_rate,train_loss,train_precision_at_1,validation_loss,"
            "validation_precision_at_1,seconds\n"
            "head,1,0.003,1.5,0.5,1.4,,0.1\nhead,2,0.003,1.0,0.75,0.9,0.7,0.1\n",
        )
        training = TrainingRecord(
            training_id=training_id,
            dataset_id=dataset_id,
            checkpoint_id="0" * 64 + "/mobilenet_v2-raw",
            settings=TrainingSettings(backbone="mobilenet_v2", recipe="head"),
            image_size=IMAGE_SIZE,
            labels=tuple(labels),
            num_examples={"train": 6, "validation": NUM_VALIDATION},
            num_parameters=16,
            epochs=2,
            seconds=0.2,
            train_examples_per_second=30.0,
            last_epoch=EpochRecord(
                phase="head",
                epoch=2,
                learning_rate=0.003,
                train_loss=1.0,
                train_precision_at_1=0.75,
                validation_loss=0.9,
                validation_precision_at_1=0.7,
                seconds=0.1,
            ),
            versions={"keras": "3"},
        )
        write_record(storage.join(run_uri, "training.json"), training)
        return run_uri

    return make
