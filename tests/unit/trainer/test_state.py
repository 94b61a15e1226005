from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from repot.errors import UsageError
from repot.trainer.state import TrainingState


def make_model() -> tuple[Any, Any]:
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    optimizer = keras.optimizers.AdamW()
    optimizer.build(model.trainable_variables)
    return model, optimizer


def set_all(model: Any, optimizer: Any, value: int) -> None:
    for variable in [*model.variables, *optimizer.variables]:
        variable.assign(np.full(variable.shape, value))


def save(state: TrainingState, phase: str, epoch: int) -> None:
    model, optimizer = make_model()
    set_all(model, optimizer, epoch)
    state.save(
        phase=phase,
        epoch=epoch,
        model=model,
        optimizer=optimizer,
        history=[{"epoch": epoch}],
        seconds=1.5,
    )


def files(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "state").iterdir())


def test_saved_state_is_restored_with_the_slots_of_the_optimizer(tmp_path: Path) -> None:
    save(TrainingState.load(str(tmp_path), "t"), "head", 3)

    state = TrainingState.load(str(tmp_path), "t")
    model, optimizer = make_model()
    state.restore("head", model, optimizer)

    assert (state.phase, state.epoch, state.history, state.seconds_before) == (
        "head",
        3,
        [{"epoch": 3}],
        1.5,
    )
    assert all(
        np.all(variable.numpy() == 3) for variable in [*model.variables, *optimizer.variables]
    )


def test_state_of_another_phase_is_not_restored(tmp_path: Path) -> None:
    save(TrainingState.load(str(tmp_path), "t"), "head", 3)
    model, optimizer = make_model()
    set_all(model, optimizer, 7)

    TrainingState.load(str(tmp_path), "t").restore("fine_tune", model, optimizer)

    assert np.all(model.variables[0].numpy() == 7)


def test_phases_that_are_past_are_told_from_those_to_come(tmp_path: Path) -> None:
    state = TrainingState.load(str(tmp_path), "t")
    assert (state.is_past("head"), state.epochs_done("head")) == (False, 0)

    save(state, "head", 2)
    assert (state.is_past("head"), state.epochs_done("head"), state.epochs_done("fine_tune")) == (
        False,
        2,
        0,
    )

    save(state, "fine_tune", 1)
    assert (state.is_past("head"), state.is_past("fine_tune"), state.epochs_done("fine_tune")) == (
        True,
        False,
        1,
    )


def test_only_the_file_that_counts_is_kept(tmp_path: Path) -> None:
    state = TrainingState.load(str(tmp_path), "t")
    for epoch in (1, 2, 3):
        save(state, "head", epoch)

    assert files(tmp_path) == ["head-00003.npz", "latest.json"]


def test_variables_without_latest_json_do_not_count(tmp_path: Path) -> None:
    save(TrainingState.load(str(tmp_path), "t"), "head", 3)
    (tmp_path / "state" / "latest.json").unlink()

    assert TrainingState.load(str(tmp_path), "t").phase == ""


def test_latest_json_without_its_variables_begins_anew(tmp_path: Path) -> None:
    save(TrainingState.load(str(tmp_path), "t"), "head", 3)
    (tmp_path / "state" / "head-00003.npz").unlink()

    state = TrainingState.load(str(tmp_path), "t")

    assert (state.phase, state.epoch, state.history) == ("", 0, [])


def test_state_of_another_training_is_refused(tmp_path: Path) -> None:
    save(TrainingState.load(str(tmp_path), "t"), "head", 3)

    with pytest.raises(
        UsageError, match=r"state of t, with other data.* than u\. Choose another folder"
    ):
        TrainingState.load(str(tmp_path), "u")


def test_worker_that_is_no_writer_reads_and_writes_nothing(tmp_path: Path) -> None:
    save(TrainingState.load(str(tmp_path), "t"), "head", 3)
    before = files(tmp_path)

    worker = TrainingState.load(str(tmp_path), "t", is_writer=False)
    save(worker, "head", 4)
    worker.write_file("features.npz", b"x")

    assert files(tmp_path) == before
    assert worker.epoch == 4


def test_deleted_state_leaves_nothing(tmp_path: Path) -> None:
    state = TrainingState.load(str(tmp_path), "t")
    save(state, "head", 1)

    state.delete()

    assert not (tmp_path / "state").exists()
