"""Axes of the report's charts: round ticks, and positions in per cent of the plot."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


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
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9), len(f"{self.step:g}".partition(".")[2]))
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        values = (self.low + i * self.step for i in range(count))
        return [(self.percent(value), f"{value:.{decimals}f}") for value in values]


def axis_over(values: Iterable[float], *, low: float | None = None, high: float | None = None, steps: int = 4) -> Axis:
    """Return an axis with round ticks that covers the values; `low` and `high` are ends that must be covered too."""
    covered = [*values, *(end for end in (low, high) if end is not None)]
    smallest, largest = min(covered), max(covered)
    span = (largest - smallest) or abs(largest) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / steps))
    step = next(magnitude * nice for nice in _NICE_STEPS if span / steps <= magnitude * nice * (1 + 1e-9))
    start = math.floor(smallest / step + 1e-9) * step
    return Axis(low=start, high=max(math.ceil(largest / step - 1e-9) * step, start + step), step=step)


def score_axis(lows: Iterable[float]) -> Axis:
    """Return an axis for shares that ends at 1 and begins at a tenth below the lowest value, at 0.9 at most."""
    start = min(0.9, max(0.0, math.floor(min(lows, default=0.0) * 10 - 0.2) / 10))
    return axis_over((), low=start, high=1.0, steps=5)


def epoch_axis(num_epochs: int) -> Axis:
    """Return an axis from 0 to the number of epochs, with ticks at whole epochs."""
    wanted = axis_over((), low=0, high=max(1, num_epochs), steps=6)
    step = max(1.0, math.ceil(wanted.step))
    return Axis(low=0.0, high=float(max(1, num_epochs)), step=step)
