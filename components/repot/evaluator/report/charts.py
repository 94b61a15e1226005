"""Positions of everything in the report's charts; the templates turn them into SVG.

Positions are percentages of the plot, x from the left and y from the top, so that a chart fits any
width while its text keeps its size.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from repot.metrics import CalibrationBin, Interval, wilson_interval

# Names at the ends of two lines overlap if they are closer than this.
_MIN_NAME_GAP = 16.0
_MAX_NAME_Y = 93.0
_ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """An axis from `low` to `high`, with a tick at every `step` from `low`."""

    low: float
    high: float
    step: float

    def percent(self, value: float) -> float:
        """Return the position of a value: 0 at `low`, 100 at `high`, clipped to that range."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the position and the text of each tick."""
        # As many decimals as the step needs: 1 for 0.5, 2 for 0.25.
        decimals = max(
            0, -math.floor(math.log10(self.step) + 1e-9), len(f"{self.step:g}".partition(".")[2])
        )
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        values = (self.low + i * self.step for i in range(count))
        return [(self.percent(value), f"{value:.{decimals}f}") for value in values]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """One score in a chart of scores: its position `at`, and its interval from `low` to `high`."""

    name: str
    kind: str
    value: str
    at: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveLine:
    """One line of a curve chart.

    Attributes:
        name: Name shown at the end of the line.
        kind: CSS class.
        points: Points in SVG syntax.
        end_x, end_y: The last point.
        name_y: Position of the name.
        last: The last value as text.
    """

    name: str
    kind: str
    points: str
    end_x: float
    end_y: float
    name_y: float
    last: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseBand:
    """The consecutive epochs of one training phase."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveChart:
    """Values by epoch; `description` is the text for screen readers."""

    title: str
    x_axis: Axis
    y_axis: Axis
    lines: tuple[CurveLine, ...]
    phases: tuple[PhaseBand, ...]
    description: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationMark:
    """One bin of the calibration chart.

    Attributes:
        x: Mean probability.
        y: Share of correct predictions.
        low, high: 95 % interval of that share.
        text: The same numbers as text.
    """

    x: float
    y: float
    low: float
    high: float
    text: str


def score_row(axis: Axis, *, name: str, kind: str, value: float, interval: Interval) -> ScoreRow:
    """Return the positions of one score and its interval."""
    text = f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
    low, high = axis.percent(interval[0]), axis.percent(interval[1])
    return ScoreRow(name=name, kind=kind, value=text, at=axis.percent(value), low=low, high=high)


def curve_chart(
    title: str,
    phases: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    is_share: bool = False,
) -> CurveChart | None:
    """Return a chart of values by epoch, or None if there are no finite values.

    Args:
        title: Name of the values.
        phases: Training phase of each epoch.
        series: Values of each line by name, one per epoch; a line without finite values is omitted.
        is_share: Whether the values are in [0, 1]; the axis then ends at 1.
    """
    points = {name: _finite_points(values) for name, values in series.items()}
    points = {name: line for name, line in points.items() if line}
    values = [value for line in points.values() for _, value in line]
    if not values:
        return None
    x_axis = epoch_axis(len(phases))
    y_axis = score_axis(values) if is_share else round_axis(values, low=0.0)
    lines = [_line(name, line, x_axis, y_axis) for name, line in points.items()]
    ranges = "; ".join(
        f"{name} from {line[0][1]:.3g} to {line[-1][1]:.3g}" for name, line in points.items()
    )
    return CurveChart(
        title=title,
        x_axis=x_axis,
        y_axis=y_axis,
        lines=tuple(_separate_names(lines)),
        phases=tuple(_phase_bands(phases, x_axis)),
        description=f"{title} over {len(phases)} epochs: {ranges}.",
    )


def calibration_marks(bins: Sequence[CalibrationBin]) -> list[CalibrationMark]:
    """Return the marks of a calibration chart whose axes run from 0 to 1."""
    marks = []
    for each in bins:
        low, high = wilson_interval(each.num_correct, each.num_examples)
        share = each.num_correct / each.num_examples
        mark = CalibrationMark(
            x=round(100 * each.mean_probability, 2),
            y=round(100 - 100 * share, 2),
            low=round(100 - 100 * low, 2),
            high=round(100 - 100 * high, 2),
            text=f"mean probability {each.mean_probability:.2f}, correct {share:.2f} "
            f"({each.num_examples} picture{'' if each.num_examples == 1 else 's'})",
        )
        marks.append(mark)
    return marks


def round_axis(
    values: Iterable[float], *, low: float | None = None, high: float | None = None, steps: int = 4
) -> Axis:
    """Return an axis with round ticks that covers some values.

    Args:
        values: Values to cover.
        low, high: More values to cover.
        steps: Maximum number of ticks, before the ends are rounded outwards.
    """
    covered = [*values, *(end for end in (low, high) if end is not None)]
    smallest, largest = min(covered), max(covered)
    span = (largest - smallest) or abs(largest) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / steps))
    step = next(
        magnitude * factor
        for factor in _ROUND_STEPS
        if span / steps <= magnitude * factor * (1 + 1e-9)
    )
    start = math.floor(smallest / step + 1e-9) * step
    return Axis(
        low=start, high=max(math.ceil(largest / step - 1e-9) * step, start + step), step=step
    )


def score_axis(values: Iterable[float]) -> Axis:
    """Return an axis for values in [0, 1] that starts below the lowest, at most at 0.9."""
    start = min(0.9, max(0.0, math.floor(min(values, default=0.0) * 10 - 0.2) / 10))
    return round_axis((), low=start, high=1.0, steps=5)


def epoch_axis(num_epochs: int) -> Axis:
    """Return an axis from 0 to the number of epochs, with ticks at whole epochs."""
    last = max(1, num_epochs)
    step = math.ceil(round_axis((), low=0, high=last, steps=6).step)
    return Axis(low=0.0, high=float(last), step=max(1.0, step))


def _finite_points(values: Sequence[float | None]) -> list[tuple[int, float]]:
    """Return (epoch from 1, value) for every finite value."""
    return [
        (epoch, value)
        for epoch, value in enumerate(values, start=1)
        if value is not None and math.isfinite(value)
    ]


def _line(name: str, points: Sequence[tuple[int, float]], x_axis: Axis, y_axis: Axis) -> CurveLine:
    positions = [
        (x_axis.percent(epoch), round(100 - y_axis.percent(value), 2)) for epoch, value in points
    ]
    end_x, end_y = positions[-1]
    if len(positions) == 1:
        positions *= 2  # SVG draws a single epoch as a line from the point to itself: a dot
    return CurveLine(
        name=name,
        kind="validation" if name.startswith("validation") else "train",
        points=" ".join(f"{x:g},{y:g}" for x, y in positions),
        end_x=end_x,
        end_y=end_y,
        name_y=end_y,
        last=f"{points[-1][1]:.3f}",
    )


def _separate_names(lines: Sequence[CurveLine]) -> list[CurveLine]:
    """Move the names of lines apart where they would overlap, and keep them inside the plot."""
    separated: list[CurveLine] = []
    for line in sorted(lines, key=lambda line: line.end_y):
        lowest_y = separated[-1].name_y + _MIN_NAME_GAP if separated else 0.0
        separated.append(dataclasses.replace(line, name_y=max(lowest_y, line.name_y)))
    overflow = max(0.0, separated[-1].name_y - _MAX_NAME_Y)
    return [dataclasses.replace(line, name_y=line.name_y - overflow) for line in separated]


def _phase_bands(phases: Sequence[str], x_axis: Axis) -> list[PhaseBand]:
    starts = [i for i, phase in enumerate(phases) if i == 0 or phase != phases[i - 1]]
    ends = [*starts[1:], len(phases)]
    return [
        PhaseBand(
            name=phases[start].replace("_", "-"),
            start=x_axis.percent(start),
            end=x_axis.percent(end),
        )
        for start, end in zip(starts, ends, strict=True)
    ]
