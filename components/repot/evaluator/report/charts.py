"""Where the marks of the report's charts stand; the templates turn them into SVG.

Positions are per cent of the plot, x from the left and y from the top, so that a chart fits any width while its text
keeps its size.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repot.metrics import CalibrationBin, Interval, wilson_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One axis from `low` to `high`, with a tick at every `step` from `low` on."""

    low: float
    high: float
    step: float

    def percent(self, value: float) -> float:
        """Return where a value stands: 0 at `low`, 100 at `high`; values outside are moved to the end."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the position and the text of each tick."""
        decimals = max(
            0, -math.floor(math.log10(self.step) + 1e-9), len(f"{self.step:g}".partition(".")[2])
        )
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        values = (self.low + i * self.step for i in range(count))
        return [(self.percent(value), f"{value:.{decimals}f}") for value in values]


# Names at the ends of two lines closer than this would overlap.
_LABEL_GAP = 16.0
_LOWEST_NAME = 93.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """One row of an interval chart."""

    name: str
    kind: str
    value: str
    at: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a curve chart: its points as SVG writes them, and where its name stands."""

    name: str
    kind: str
    points: str
    end_x: float
    end_y: float
    name_y: float
    last: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A stretch of epochs with a name."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveChart:
    """Values by epoch."""

    title: str
    x_axis: Axis
    y_axis: Axis
    lines: tuple[Line, ...]
    phases: tuple[Phase, ...]
    description: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BinMark:
    """One bin of the calibration chart: how sure, how often right, with the interval of the latter."""

    x: float
    y: float
    low: float
    high: float
    text: str


def strip(axis: Axis, *, name: str, kind: str, value: float, interval: Interval) -> Strip:
    """Return one score with its interval as a row of an interval chart."""
    text = f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
    low, high = axis.percent(interval[0]), axis.percent(interval[1])
    return Strip(name=name, kind=kind, value=text, at=axis.percent(value), low=low, high=high)


def curve_chart(
    title: str,
    history: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    *,
    score: bool = False,
) -> CurveChart | None:
    """Draw columns of the training history by epoch.

    Args:
        title: What the values are.
        history: One mapping an epoch, with "phase".
        columns: The column of each line, by its name; lines without a value are left out.
        score: Whether the values are shares of 1.

    Returns:
        The chart, or None when there is no value.
    """
    series = {name: _points(history, column) for name, column in columns.items()}
    values = [value for points in series.values() for _, value in points]
    if not values:
        return None
    x_axis = epoch_axis(len(history))
    y_axis = score_axis(values) if score else axis_over(values, low=0.0)
    lines = [_line(name, points, x_axis, y_axis) for name, points in series.items() if points]
    said = "; ".join(
        f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}"
        for name, points in series.items()
        if points
    )
    return CurveChart(
        title=title,
        x_axis=x_axis,
        y_axis=y_axis,
        lines=tuple(_spread(lines)),
        phases=tuple(_phases(history, x_axis)),
        description=f"{title} over {len(history)} epochs: {said}.",
    )


def bin_marks(bins: Sequence[CalibrationBin]) -> list[BinMark]:
    """Return the marks of a calibration chart whose axes run from 0 to 1."""
    marks = []
    for each in bins:
        low, high = wilson_interval(each.num_correct, each.num_examples)
        share = each.num_correct / each.num_examples
        text = f"says {each.mean_probability:.2f}, is right {share:.2f} of the time ({each.num_examples} pictures)"
        x, y = round(100 * each.mean_probability, 2), round(100 - 100 * share, 2)
        marks.append(
            BinMark(
                x=x, y=y, low=round(100 - 100 * low, 2), high=round(100 - 100 * high, 2), text=text
            )
        )
    return marks


def _points(history: Sequence[Mapping[str, Any]], column: str) -> list[tuple[int, float]]:
    """Return (epoch from 1, value) wherever the column has a finite value."""
    values = ((i, row.get(column)) for i, row in enumerate(history, start=1))
    return [(i, value) for i, value in values if value is not None and math.isfinite(value)]


def _line(name: str, points: Sequence[tuple[int, float]], x_axis: Axis, y_axis: Axis) -> Line:
    placed = [
        (x_axis.percent(epoch), round(100 - y_axis.percent(value), 2)) for epoch, value in points
    ]
    end_x, end_y = placed[-1]
    # A single epoch is drawn as a dot: a line to itself.
    text = " ".join(f"{x:g},{y:g}" for x, y in (placed if len(placed) > 1 else placed * 2))
    kind = "validation" if name.startswith("validation") else "train"
    last = f"{points[-1][1]:.3f}"
    return Line(
        name=name, kind=kind, points=text, end_x=end_x, end_y=end_y, name_y=end_y, last=last
    )


def _spread(lines: Sequence[Line]) -> list[Line]:
    """Move the names of lines apart where they would overlap; all stay inside the plot."""
    spread: list[Line] = []
    for line in sorted(lines, key=lambda line: line.end_y):
        floor = spread[-1].name_y + _LABEL_GAP if spread else 0.0
        spread.append(dataclasses.replace(line, name_y=max(floor, line.name_y)))
    overflow = max(0.0, spread[-1].name_y - _LOWEST_NAME) if spread else 0.0
    return (
        [dataclasses.replace(line, name_y=line.name_y - overflow) for line in spread]
        if overflow
        else spread
    )


def _phases(history: Sequence[Mapping[str, Any]], x_axis: Axis) -> list[Phase]:
    starts = [
        i
        for i, row in enumerate(history)
        if i == 0 or row.get("phase") != history[i - 1].get("phase")
    ]
    ends = [*starts[1:], len(history)]
    return [
        Phase(
            name=str(history[start].get("phase") or "").replace("_", "-"),
            start=x_axis.percent(start),
            end=x_axis.percent(end),
        )
        for start, end in zip(starts, ends, strict=True)
    ]


_NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


def axis_over(
    values: Iterable[float], *, low: float | None = None, high: float | None = None, steps: int = 4
) -> Axis:
    """Return an axis with round ticks that covers the values; `low` and `high` are ends that must be covered too."""
    covered = [*values, *(end for end in (low, high) if end is not None)]
    smallest, largest = min(covered), max(covered)
    span = (largest - smallest) or abs(largest) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / steps))
    step = next(
        magnitude * nice for nice in _NICE_STEPS if span / steps <= magnitude * nice * (1 + 1e-9)
    )
    start = math.floor(smallest / step + 1e-9) * step
    return Axis(
        low=start, high=max(math.ceil(largest / step - 1e-9) * step, start + step), step=step
    )


def score_axis(lows: Iterable[float]) -> Axis:
    """Return an axis for shares that ends at 1 and begins at a tenth below the lowest value, at 0.9 at most."""
    start = min(0.9, max(0.0, math.floor(min(lows, default=0.0) * 10 - 0.2) / 10))
    return axis_over((), low=start, high=1.0, steps=5)


def epoch_axis(num_epochs: int) -> Axis:
    """Return an axis from 0 to the number of epochs, with ticks at whole epochs."""
    wanted = axis_over((), low=0, high=max(1, num_epochs), steps=6)
    step = max(1.0, math.ceil(wanted.step))
    return Axis(low=0.0, high=float(max(1, num_epochs)), step=step)
