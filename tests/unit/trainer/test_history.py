from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from repot.trainer.history import COLUMNS, History


def row(epoch: int, *, phase: str = "head", validation: float | None = 0.5) -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS, epoch / 8),
        "phase": phase,
        "epoch": epoch,
        "validation_loss": validation,
        "validation_precision_at_1": validation,
    }


def test_history_csv_has_a_line_an_epoch_and_no_number_where_there_is_none(tmp_path: Path) -> None:
    history = History(str(tmp_path), [row(1)])
    history.append(row(2, validation=None))
    history.write_csv()

    header, first, second = (tmp_path / "history.csv").read_text().splitlines()
    assert header.split(",") == list(COLUMNS)
    assert first == "head,1,0.125,0.125,0.125,0.5,0.5,0.125"
    assert second == "head,2,0.25,0.25,0.25,,,0.25"


def test_events_hold_each_row_once_and_none_of_an_earlier_start(tmp_path: Path) -> None:
    history = History(str(tmp_path), [row(1)])
    history.append(row(2))
    history.write_events()
    history.append(row(3, validation=None))
    history.write_events()

    written = [_scalars(path) for path in (tmp_path / "events").iterdir()]
    assert sorted(point for scalars in written for point in scalars["train_loss"]) == [
        (2, 0.25),
        (3, 0.375),
    ]
    assert [point for scalars in written for point in scalars.get("validation_loss", [])] == [
        (2, 0.5)
    ]


def test_speed_is_the_median_of_the_last_phase(tmp_path: Path) -> None:
    rows = [row(8), *(row(seconds, phase="fine_tune") for seconds in (16, 4, 8))]

    assert History(str(tmp_path), rows).examples_per_second(10) == pytest.approx(10.0)


def _scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(path)).Reload()
    return {
        tag: [
            (event.step, float(tf.make_ndarray(event.tensor_proto)))
            for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
    }
