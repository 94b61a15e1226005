"""Where the marks of the charts stand."""

from typing import Any

import pytest

from repot.evaluator.report.charts import Axis, bin_marks, curve_chart, strip
from repot.metrics import CalibrationBin

COLUMNS = {"train": "train_loss", "validation": "validation_loss"}


def history(*losses: float | None, phase: str = "head") -> list[dict[str, Any]]:
    return [{"phase": phase, "train_loss": loss, "validation_loss": None} for loss in losses]


def test_strip_stands_where_its_value_and_interval_are() -> None:
    row = strip(
        Axis(low=0.5, high=1.0, step=0.1),
        name="x",
        kind="champion",
        value=0.75,
        interval=(0.6, 0.9),
    )

    assert (row.at, row.low, row.high) == (50, 20, 80)
    assert row.value == "0.750 [0.600, 0.900]"


def test_curve_chart_runs_down_as_the_loss_falls() -> None:
    chart = curve_chart("loss", history(2.0, 1.0), COLUMNS)

    assert chart is not None
    (line,) = chart.lines
    assert line.points == "50,0 100,50"
    assert (line.end_x, line.end_y, line.last) == (100, 50, "1.000")
    assert chart.description == "loss over 2 epochs: train from 2 to 1."


def test_curve_chart_of_one_epoch_is_a_dot() -> None:
    chart = curve_chart("loss", history(1.0), COLUMNS)

    assert chart is not None
    assert chart.lines[0].points == "100,0 100,0"


@pytest.mark.parametrize("rows", [[], history(None, None), history(float("nan"), float("inf"))])
def test_curve_chart_without_a_number_is_none(rows: list[dict[str, Any]]) -> None:
    assert curve_chart("loss", rows, COLUMNS) is None


def test_curve_chart_marks_the_phases() -> None:
    chart = curve_chart("loss", history(3, 2, 1) + history(0.5, phase="fine_tune"), COLUMNS)

    assert chart is not None
    assert [(phase.name, phase.start, phase.end) for phase in chart.phases] == [
        ("head", 0, 75),
        ("fine-tune", 75, 100),
    ]


@pytest.mark.parametrize("losses", [(0.0, 0.0), (2.0, 2.0), (1.0, 1.01)])
def test_names_at_the_ends_of_lines_do_not_overlap(losses: tuple[float, float]) -> None:
    rows = [{"phase": "head", "train_loss": 2.0, "validation_loss": 2.0}]
    rows += [{"phase": "head", "train_loss": losses[0], "validation_loss": losses[1]}]

    chart = curve_chart("loss", rows, COLUMNS)

    assert chart is not None
    tops = [line.name_y for line in chart.lines]
    assert abs(tops[0] - tops[1]) >= 16
    assert all(0 <= top <= 100 for top in tops)


def test_bin_marks_stand_at_sureness_and_share() -> None:
    (mark,) = bin_marks(
        [CalibrationBin(low=0.7, high=0.8, num_examples=4, num_correct=3, mean_probability=0.78)]
    )

    assert (mark.x, mark.y) == (78, 25)
    assert mark.high < mark.y < mark.low
    assert mark.text == "says 0.78, is right 0.75 of the time (4 pictures)"
