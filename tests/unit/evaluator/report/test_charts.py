"""Positions in the charts."""

import pytest

from repot.evaluator.report.charts import (
    Axis,
    CurveChart,
    calibration_marks,
    curve_chart,
    epoch_axis,
    round_axis,
    score_axis,
    score_row,
)
from repot.metrics import CalibrationBin


def loss_chart(*losses: float | None) -> CurveChart | None:
    series = {"train": losses, "validation": [None] * len(losses)}
    return curve_chart("loss", ["head"] * len(losses), series)


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
def test_round_axis_has_round_ticks_that_cover_the_values(
    values: list[float], ticks: list[str]
) -> None:
    assert [text for _, text in round_axis(values).ticks()] == ticks


@pytest.mark.parametrize(
    ("lowest", "start"), [(0.0, 0.0), (0.05, 0.0), (0.51, 0.4), (0.739, 0.7), (0.99, 0.9)]
)
def test_score_axis_starts_below_the_lowest_value_and_ends_at_one(
    lowest: float, start: float
) -> None:
    axis = score_axis([lowest])

    assert axis.low == pytest.approx(start)
    assert axis.high == pytest.approx(1.0)
    assert axis.low <= lowest


@pytest.mark.parametrize(
    ("num_epochs", "ticks"),
    [
        (0, ["0", "1"]),
        (1, ["0", "1"]),
        (7, ["0", "2", "4", "6"]),
        (30, ["0", "5", "10", "15", "20", "25", "30"]),
    ],
)
def test_epoch_axis_has_ticks_at_whole_epochs(num_epochs: int, ticks: list[str]) -> None:
    axis = epoch_axis(num_epochs)

    assert [text for _, text in axis.ticks()] == ticks
    assert axis.high == max(1, num_epochs)


def test_percent_clips_values_outside_the_axis() -> None:
    axis = Axis(low=0.5, high=1.0, step=0.1)

    assert [axis.percent(value) for value in (0.4, 0.5, 0.75, 1.0, 1.1)] == [0, 0, 50, 100, 100]


def test_score_row_has_the_positions_of_value_and_interval() -> None:
    row = score_row(
        Axis(low=0.5, high=1.0, step=0.1),
        name="x",
        kind="champion",
        value=0.75,
        interval=(0.6, 0.9),
    )

    assert (row.at, row.low, row.high) == (50, 20, 80)
    assert row.value == "0.750 [0.600, 0.900]"


def test_curve_chart_goes_down_as_the_loss_decreases() -> None:
    chart = loss_chart(2.0, 1.0)

    assert chart is not None
    (line,) = chart.lines
    assert line.points == "50,0 100,50"
    assert (line.end_x, line.end_y, line.last) == (100, 50, "1.000")
    assert chart.description == "loss over 2 epochs: train from 2 to 1."


def test_curve_chart_of_one_epoch_is_a_dot() -> None:
    chart = loss_chart(1.0)

    assert chart is not None
    assert chart.lines[0].points == "100,0 100,0"


@pytest.mark.parametrize("losses", [[], [None, None], [float("nan"), float("inf")]])
def test_curve_chart_without_finite_values_is_none(losses: list[float | None]) -> None:
    assert loss_chart(*losses) is None


def test_curve_chart_has_a_band_per_phase() -> None:
    chart = curve_chart("loss", ["head"] * 3 + ["fine_tune"], {"train": [3, 2, 1, 0.5]})

    assert chart is not None
    assert [(phase.name, phase.start, phase.end) for phase in chart.phases] == [
        ("head", 0, 75),
        ("fine-tune", 75, 100),
    ]


@pytest.mark.parametrize("last", [(0.0, 0.0), (2.0, 2.0), (1.0, 1.01)])
def test_names_of_lines_do_not_overlap(last: tuple[float, float]) -> None:
    chart = curve_chart(
        "loss", ["head", "head"], {"train": [2.0, last[0]], "validation": [2.0, last[1]]}
    )

    assert chart is not None
    positions = [line.name_y for line in chart.lines]
    assert abs(positions[0] - positions[1]) >= 16
    assert all(0 <= position <= 100 for position in positions)


@pytest.mark.parametrize(
    ("num_examples", "num_correct", "y", "text"),
    [
        (4, 3, 25, "mean probability 0.78, correct 0.75 (4 pictures)"),
        (1, 1, 0, "mean probability 0.78, correct 1.00 (1 picture)"),
    ],
)
def test_calibration_mark_shows_probability_and_share_of_correct_predictions(
    num_examples: int, num_correct: int, y: float, text: str
) -> None:
    each = CalibrationBin(
        low=0.7,
        high=0.8,
        num_examples=num_examples,
        num_correct=num_correct,
        mean_probability=0.78,
    )

    (mark,) = calibration_marks([each])

    assert (mark.x, mark.y, mark.text) == (78, y, text)
    assert mark.high <= mark.y < mark.low
