"""Axes: round ticks that cover what is drawn."""

import pytest

from repot.evaluator.report.charts import Axis, axis_over, epoch_axis, score_axis


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 1.0], ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        ([0.0, 1.7], ["0.0", "0.5", "1.0", "1.5", "2.0"]),
        ([0.0, 30.0], ["0", "10", "20", "30"]),
        ([0.0, 0.0], ["0.00", "0.25"]),
        ([0.0, 3e-4], ["0.0000", "0.0001", "0.0002", "0.0003"]),
    ],
)
def test_axis_has_round_ticks_that_cover_the_values(values: list[float], ticks: list[str]) -> None:
    assert [text for _, text in axis_over(values).ticks()] == ticks


@pytest.mark.parametrize(
    ("lowest", "start"), [(0.0, 0.0), (0.05, 0.0), (0.51, 0.4), (0.739, 0.7), (0.99, 0.9)]
)
def test_score_axis_leaves_room_below_and_ends_at_one(lowest: float, start: float) -> None:
    axis = score_axis([lowest])

    assert axis.low == pytest.approx(start)
    assert axis.high == pytest.approx(1.0)
    assert axis.low <= lowest


def test_percent_moves_what_is_outside_to_the_end() -> None:
    axis = Axis(low=0.5, high=1.0, step=0.1)

    assert [axis.percent(value) for value in (0.4, 0.5, 0.75, 1.0, 1.1)] == [0, 0, 50, 100, 100]


@pytest.mark.parametrize(
    ("num_epochs", "ticks"),
    [
        (0, ["0", "1"]),
        (1, ["0", "1"]),
        (7, ["0", "2", "4", "6"]),
        (30, ["0", "5", "10", "15", "20", "25", "30"]),
    ],
)
def test_epoch_axis_has_whole_epochs(num_epochs: int, ticks: list[str]) -> None:
    axis = epoch_axis(num_epochs)

    assert [text for _, text in axis.ticks()] == ticks
    assert axis.high == max(1, num_epochs)
