import dataclasses
import subprocess
import sys

import pytest

import repot
from repot.settings import TrainingSettings
from repot.trainer.request import TrainingRequest
from repot.training_record import training_id

SETTINGS = TrainingSettings()
ID = training_id("data", "weights", SETTINGS)


def test_request_from_ids_names_the_folders_of_the_storage() -> None:
    request = TrainingRequest.from_ids(
        "gs://bucket/", dataset_id="data", checkpoint_id="weights", settings=SETTINGS
    )

    assert request == TrainingRequest(
        dataset_uri="gs://bucket/datasets/data",
        weights_uri="gs://bucket/checkpoints/weights",
        run_uri=f"gs://bucket/runs/{ID}",
        training_id=ID,
        checkpoint_id="weights",
        settings=SETTINGS,
        features_uri="gs://bucket/features",
        predictions_uri="gs://bucket/predictions",
    )


def test_request_survives_its_json() -> None:
    request = TrainingRequest.from_ids(
        "/storage",
        dataset_id="data",
        checkpoint_id="weights",
        settings=TrainingSettings(recipe="head", learning_rate=0.1),
        rebuild="2",
    )

    assert TrainingRequest.from_text(request.to_text()) == request


def test_equal_trainings_have_equal_ids() -> None:
    assert training_id("data", "weights", TrainingSettings(), "") == ID


@pytest.mark.parametrize(
    "other",
    [
        training_id("other", "weights", SETTINGS),
        training_id("data", "other", SETTINGS),
        training_id("data", "weights", SETTINGS, "again"),
        *(
            training_id("data", "weights", dataclasses.replace(SETTINGS, **{name: value}))  # type: ignore[arg-type]
            for name, value in [
                ("backbone", "xception"),
                ("recipe", "head"),
                ("epochs", 3),
                ("batch_size", 16),
                ("learning_rate", 0.5),
                ("image_size", 128),
                ("seed", 1),
                ("input_queue_memory_factor", 2),
            ]
        ),
    ],
)
def test_every_input_and_setting_changes_the_id(other: str) -> None:
    assert other != ID


def test_setting_of_the_machine_keeps_the_id() -> None:
    assert training_id("data", "weights", dataclasses.replace(SETTINGS, shard_cache_gib=3)) == ID


def test_code_version_changes_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repot, "__version__", "9.9.9")

    assert training_id("data", "weights", SETTINGS) != ID


def test_request_and_entry_point_do_not_import_tensorflow() -> None:
    program = (
        "import sys, repot.trainer.request, repot.trainer.train; print('tensorflow' in sys.modules)"
    )

    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"
