"""What Plan finds of a run in the storage, from ids only."""

from dataclasses import replace
from pathlib import Path

import pytest

import repot
from repot import layout, storage
from repot.checkpoint_record import CheckpointRecord, save_sha256
from repot.checkpoints import CheckpointSource
from repot.json_record import write_record
from repot.manifest import Manifest, Rejection
from repot.planner import finished
from repot.planner.finished import (
    ALL_STEPS,
    GATE_ONLY,
    FinishedWork,
    find_finished_work,
    plan_run,
)
from repot.planner.preflight import Parameters
from repot.pruning.uses import Use, note_use, read_uses
from repot.settings import (
    CheckpointSettings,
    DatasetSettings,
    GateSettings,
    InputSettings,
    JobSettings,
    RunSettings,
    TaskSettings,
    TrainingSettings,
)
from repot.training_record import training_id

DATASET_ID, SHA256 = "d" * 16, "5" * 64
CHECKPOINT_ID = f"{SHA256}/inception_v3-ema"


@pytest.fixture
def parameters(tmp_path: Path) -> Parameters:
    return Parameters(
        run=RunSettings(pictures_uri="/pictures", storage_uri=str(tmp_path)),
        inputs=InputSettings(),
        dataset=DatasetSettings(),
        training=TrainingSettings(seed=7),
        gate=GateSettings(max_rejected_fraction=0.1),
        checkpoint_settings=CheckpointSettings(),
        checkpoint=CheckpointSource(name="w.h5", uri="/w.h5"),
        task=TaskSettings(),
        job=JobSettings(),
    )


@pytest.fixture
def finished_id(parameters: Parameters) -> str:
    """Write dataset, checkpoint and finished training to the storage; return the training's id."""
    storage_uri = parameters.run.storage_uri
    rejected = [("a/1.jpg", "corrupt"), ("a/Thumbs.db", "system_file")]
    manifest = Manifest(
        dataset_id=DATASET_ID,
        pictures_uri="/pictures",
        labels=("a", "b"),
        settings=DatasetSettings(),
        shards=(),
        num_found=11,
        num_accepted=9,
        rejected=tuple(
            Rejection(path=path, label="a", split="train", reason=reason, detail="")
            for path, reason in rejected
        ),
    )
    write_record(f"{layout.dataset_uri(storage_uri, DATASET_ID)}/manifest.json", manifest)
    checkpoints_uri = layout.checkpoints_uri(storage_uri)
    save_sha256(checkpoints_uri, source_uri="/w.h5", version="1-2", sha256=SHA256)
    record = CheckpointRecord(
        source="/w.h5",
        sha256=SHA256,
        backbone="inception_v3",
        kind="keras",
        values="ema",
        available_values=("ema",),
        num_arrays=1,
        num_parameters=1,
        step=None,
    )
    write_record(f"{checkpoints_uri}/{CHECKPOINT_ID}/checkpoint.json", record)
    found_id = training_id(DATASET_ID, CHECKPOINT_ID, parameters.training)
    storage.write_text(training_uri(storage_uri, found_id), "{}")
    return found_id


def training_uri(storage_uri: str, found_id: str) -> str:
    return f"{layout.run_uri(storage_uri, found_id)}/training.json"


def find(parameters: Parameters, version: str | None = "1-2") -> FinishedWork:
    return find_finished_work(parameters, dataset_id=DATASET_ID, checkpoint_version=version)


@pytest.mark.parametrize("version", ["1-2", None])
def test_finished_training_is_found(
    parameters: Parameters, finished_id: str, version: str | None
) -> None:
    found = find(parameters, version)

    assert found == FinishedWork(checkpoint_id=CHECKPOINT_ID, training_id=finished_id)
    assert found.steps == GATE_ONLY


def test_known_checksum_finds_the_training_without_the_source(
    parameters: Parameters, finished_id: str
) -> None:
    source = replace(parameters.checkpoint, uri="/gone.h5", sha256=SHA256)

    assert find(replace(parameters, checkpoint=source)).training_id == finished_id


def test_empty_storage_has_nothing(parameters: Parameters) -> None:
    found = find(parameters)

    assert found == FinishedWork(checkpoint_id="", training_id="")
    assert found.steps == ALL_STEPS


def test_replaced_checkpoint_is_fetched_again(parameters: Parameters, finished_id: str) -> None:
    del finished_id

    assert find(parameters, version="3-4") == FinishedWork(checkpoint_id="", training_id="")


@pytest.mark.parametrize(
    "changes",
    [
        {"training": TrainingSettings(seed=8)},
        {"run": RunSettings(pictures_uri="/pictures", storage_uri="", rebuild="again")},
        {"checkpoint_settings": CheckpointSettings(checkpoint_values="raw")},
    ],
)
def test_other_settings_train_again(
    parameters: Parameters, finished_id: str, changes: dict[str, object]
) -> None:
    del finished_id
    if "run" in changes:
        changes = {"run": replace(parameters.run, rebuild="again")}

    assert find(replace(parameters, **changes)).steps == ALL_STEPS  # type: ignore[arg-type]


def test_other_code_trains_again(
    parameters: Parameters, finished_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del finished_id
    monkeypatch.setattr(repot, "__version__", "9.9.9")

    assert find(parameters) == FinishedWork(checkpoint_id=CHECKPOINT_ID, training_id="")


@pytest.mark.parametrize("name", ["manifest.json", "training.json"])
def test_unfinished_work_is_done(parameters: Parameters, finished_id: str, name: str) -> None:
    folders = {
        "manifest.json": layout.dataset_uri(parameters.run.storage_uri, DATASET_ID),
        "training.json": layout.run_uri(parameters.run.storage_uri, finished_id),
    }
    storage.delete(f"{folders[name]}/{name}")

    assert find(parameters) == FinishedWork(checkpoint_id=CHECKPOINT_ID, training_id="")


@pytest.mark.parametrize(("limit", "steps"), [(0.099, ALL_STEPS), (0.1, GATE_ONLY)])
def test_builder_reports_a_dataset_with_too_many_rejected_pictures(
    parameters: Parameters, finished_id: str, limit: float, steps: str
) -> None:
    del finished_id
    # One of ten pictures is rejected; the system file does not count.
    gate = replace(parameters.gate, max_rejected_fraction=limit)

    assert find(replace(parameters, gate=gate)).steps == steps


def test_dataset_that_is_deleted_before_its_use_is_noted_is_planned_again(
    parameters: Parameters, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(parameters.run, pictures_uri=str(pictures))
    parameters = replace(parameters, run=run)
    first, _ = plan_run(parameters, checkpoint_version=None)
    dataset_uri = layout.dataset_uri(run.storage_uri, first.dataset_id)
    storage.write_json(f"{dataset_uri}/manifest.json", {"dataset_id": first.dataset_id})
    noted: list[Use] = []

    def delete_then_note(storage_uri: str, use: Use) -> None:
        if not noted:
            storage.delete_folder(dataset_uri)
        noted.append(use)
        note_use(storage_uri, use)

    monkeypatch.setattr(finished, "note_use", delete_then_note)
    work, _ = plan_run(parameters, checkpoint_version=None)

    assert (first.is_built, work.is_built, work.dataset_id) == (False, False, first.dataset_id)
    assert noted == [Use(dataset_id=first.dataset_id)] * 2
    assert storage.exists(f"{dataset_uri}/plan.json")
    (found,) = read_uses(run.storage_uri).values()
    assert found.use == noted[0]
