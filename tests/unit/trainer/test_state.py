from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from repot.errors import DataError, StorageError, UsageError
from repot.trainer.position import PhaseResult, Sums, TrainingPosition
from repot.trainer.state import StateStore, numbered
from tests.training_records import make_epoch_record


def make_variables() -> dict[str, Any]:
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    optimizer = keras.optimizers.AdamW()
    optimizer.build(model.trainable_variables)
    return numbered(model.variables, "model/") | numbered(optimizer.variables, "optimizer/")


def save(store: StateStore, position: TrainingPosition, best: dict[str, Any] | None = None) -> None:
    """Save a position with variables that all hold the number of its epoch."""
    variables = make_variables()
    for variable in variables.values():
        variable.assign(np.full(variable.shape, position.epoch))
    store.save(position, variables, best)


def files(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "state").iterdir())


def test_run_without_state_starts_at_the_beginning(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path), "t")

    assert store.load() == TrainingPosition()
    assert store.file_name == ""


def test_position_is_loaded_as_saved(tmp_path: Path) -> None:
    position = TrainingPosition(
        phase="fine_tune",
        epoch=1,
        best_epoch=1,
        best_score=1 / 3,
        results=[
            PhaseResult(name="head", epochs=20, num_steps=40, best_epoch=20, best_score=None),
        ],
        step_sums=[Sums(0.1 + 0.2, 1.0, 2.0), Sums(1 / 3, 0.0, 2.0)],
        epoch_seconds=0.7,
        history=[make_epoch_record(), make_epoch_record(phase="fine_tune", validation_loss=None)],
        seconds=1.5,
    )
    save(StateStore(str(tmp_path), "t"), position)

    store = StateStore(str(tmp_path), "t")

    assert store.load() == position
    assert store.file_name == "fine_tune-00001-000002.npz"


def test_variables_of_model_and_optimizer_are_restored(tmp_path: Path) -> None:
    save(StateStore(str(tmp_path), "t"), TrainingPosition(phase="head", epoch=3))
    store = StateStore(str(tmp_path), "t")
    store.load()
    variables = make_variables()

    store.restore(variables)

    assert len(variables) > 4
    for variable in variables.values():
        assert np.all(variable.numpy() == 3)


def test_only_the_last_saved_variables_are_kept(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path), "t")
    for epoch in (1, 2, 3):
        save(store, TrainingPosition(phase="head", epoch=epoch))

    assert files(tmp_path) == ["head-00003.npz", "latest.json"]


def test_best_state_is_kept_until_a_better_one_or_another_phase(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path), "t")
    best = {"0": np.arange(3.0)}
    save(store, TrainingPosition(phase="a", epoch=1, best_epoch=1, best_score=0.5), best)
    save(store, TrainingPosition(phase="a", epoch=2, best_epoch=1, best_score=0.5), best)
    assert files(tmp_path) == ["a-00002.npz", "a-best-00001.npz", "latest.json"]
    resumed = StateStore(str(tmp_path), "t")
    resumed.load()

    np.testing.assert_array_equal(resumed.read_best()["0"], best["0"])

    save(resumed, TrainingPosition(phase="a", epoch=3, best_epoch=3, best_score=0.6), best)
    assert files(tmp_path) == ["a-00003.npz", "a-best-00003.npz", "latest.json"]
    save(resumed, TrainingPosition(phase="b", epoch=1))
    assert files(tmp_path) == ["b-00001.npz", "latest.json"]


@pytest.mark.parametrize("name", ["a-00001.npz", "a-best-00001.npz"])
def test_latest_json_without_one_of_its_files_starts_from_the_beginning(
    name: str, tmp_path: Path
) -> None:
    position = TrainingPosition(phase="a", epoch=1, best_epoch=1, best_score=0.5)
    save(StateStore(str(tmp_path), "t"), position, {"0": np.zeros(1)})
    (tmp_path / "state" / name).unlink()
    store = StateStore(str(tmp_path), "t")

    assert store.load() == TrainingPosition()
    assert (store.file_name, store.best_file_name) == ("", "")


def test_variables_without_latest_json_do_not_count(tmp_path: Path) -> None:
    save(StateStore(str(tmp_path), "t"), TrainingPosition(phase="head", epoch=3))
    (tmp_path / "state" / "latest.json").unlink()

    assert StateStore(str(tmp_path), "t").load() == TrainingPosition()


def test_state_of_another_training_is_refused(tmp_path: Path) -> None:
    save(StateStore(str(tmp_path), "t"), TrainingPosition(phase="head", epoch=3))

    with pytest.raises(
        UsageError, match=r"state of t, which has another.* than u\. Choose another folder"
    ):
        StateStore(str(tmp_path), "u").load()


def test_damaged_latest_json_is_refused(tmp_path: Path) -> None:
    save(StateStore(str(tmp_path), "t"), TrainingPosition(phase="head", epoch=3))
    (tmp_path / "state" / "latest.json").write_text('{"training_id": "t"}')

    with pytest.raises(DataError, match=r"latest\.json must be a valid SavedState"):
        StateStore(str(tmp_path), "t").load()


def test_worker_that_does_not_write_only_reads(tmp_path: Path) -> None:
    position = TrainingPosition(phase="head", epoch=3, history=[make_epoch_record()])
    save(StateStore(str(tmp_path), "t"), position)
    (tmp_path / "state" / "features-t-train-00000.npz").touch()
    before = sorted(tmp_path.rglob("*"))
    worker = StateStore(str(tmp_path), "t", is_writer=False)
    assert worker.load() == position

    position.history.append(make_epoch_record(epoch=2))
    save(worker, position)
    worker.delete_old_features()

    assert sorted(tmp_path.rglob("*")) == before


def test_features_of_earlier_versions_are_deleted(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path), "t")
    save(store, TrainingPosition(phase="head", epoch=1))
    before = files(tmp_path)
    for name in ("features-t-train-00000.npz", "features-t-validation-00000.npz"):
        (tmp_path / "state" / name).touch()

    store.delete_old_features()

    assert files(tmp_path) == before


def test_file_beside_the_state_is_deleted_by_the_writer_only(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path), "t")
    store.write_file("a.npz", b"a")

    StateStore(str(tmp_path), "t", is_writer=False).delete_file("a.npz")
    assert store.read_file("a.npz") == b"a"
    store.delete_file("a.npz")
    store.delete_file("a.npz")  # a repeated epoch deletes it again

    assert store.read_file("a.npz") is None


def test_file_that_disappeared_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path), "t")
    store.write_file("a.npz", b"1")

    assert store.require_file("a.npz") == b"1"
    store.delete_file("a.npz")
    with pytest.raises(StorageError, match=r"state/a\.npz must stay.*it is gone\. Start the"):
        store.require_file("a.npz")


def test_deleted_state_leaves_nothing(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path), "t")
    save(store, TrainingPosition(phase="head", epoch=1))

    store.delete()

    assert not (tmp_path / "state").exists()


def test_each_epoch_is_written_to_tensorboard_once_over_all_starts(tmp_path: Path) -> None:
    position = TrainingPosition(phase="head", epoch=1, history=[make_epoch_record(train_loss=1.0)])
    save(StateStore(str(tmp_path), "t"), position)
    store = StateStore(str(tmp_path), "t")
    position = store.load()
    position.history.append(make_epoch_record(train_loss=2.0))
    save(store, position)
    position.history.append(make_epoch_record(train_loss=3.0, validation_loss=None))
    save(store, position)
    save(store, position)

    written = [_scalars(path) for path in (tmp_path / "events").iterdir()]

    assert sorted(point for scalars in written for point in scalars["train_loss"]) == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
    ]
    validation = [point for scalars in written for point in scalars.get("validation_loss", [])]
    assert sorted(validation) == [(1, 0.625), (2, 0.625)]
    assert {name for scalars in written for name in scalars} == {
        "learning_rate",
        "train_loss",
        "train_precision_at_1",
        "validation_loss",
        "validation_precision_at_1",
        "seconds",
    }


def _scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(path)).Reload()
    return {
        tag: [
            (event.step, float(tf.make_ndarray(event.tensor_proto)))
            for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
    }
