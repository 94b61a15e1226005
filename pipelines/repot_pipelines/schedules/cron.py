"""Cron expressions: a person's five fields, checked, and turned into the six fields that KFP reads, seconds first.

KFP takes five fields too and then reads the first as seconds, so that `0 2 * * *` means every hour at two past.
Its weekdays are 0..6; 7 for Sunday is turned into 0. Source: github.com/robfig/cron v1.2.0.
"""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass

from repot.errors import UsageError

_DAYS_AHEAD = 366 * 8
"""Past this a schedule never fires: 29 February comes at least every eight years."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FORM = 'Give five fields, minute hour day-of-month month day-of-week, e.g. "0 2 * * *" for every night at two.'
_PART = re.compile(r"((?P<any>[*?])|(?P<low>\w+)(-(?P<high>\w+))?)(/(?P<step>\d+))?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Field:
    """One field: its values lie in [low, high], `names` are words for low, low + 1, ...; `*` ends at `last`."""

    name: str
    low: int
    high: int
    last: int
    names: tuple[str, ...] = ()


_FIELDS = (
    _Field(name="minute", low=0, high=59, last=59),
    _Field(name="hour", low=0, high=23, last=23),
    _Field(name="day of month", low=1, high=31, last=31),
    _Field(name="month", low=1, high=12, last=12, names=_MONTHS),
    _Field(name="day of week", low=0, high=7, last=6, names=_WEEKDAYS),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cron:
    """A checked expression.

    Attributes:
        text: Its five fields, as KFP's parser reads them after the seconds.
        minutes, hours, days, months, weekdays: The values that match; Sunday is 0.
        any_day, any_weekday: Whether the field is `*` or `?`: if neither is, one match of the two is enough.
    """

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool

    @property
    def for_kfp(self) -> str:
        """Return the six fields that KFP reads: second 0 first."""
        return f"0 {self.text}"


def parse_cron(expression: str) -> Cron:
    """Read five fields, or a word such as @daily.

    Raises:
        UsageError: It has another number of fields, a field has a wrong value, or no day ever matches.
    """
    fields = _MACROS.get(expression.strip().lower(), expression).split()
    _check_count(expression, fields)
    problems: list[str] = []
    values = [
        _read_field(field, text, problems) for field, text in zip(_FIELDS, fields, strict=True)
    ]
    if problems:
        raise UsageError([*problems, _FORM])
    cron = Cron(
        text=" ".join([*fields[:4], _sunday_is_zero(fields[4], values[4])]),
        minutes=values[0],
        hours=values[1],
        days=values[2],
        months=values[3],
        weekdays=frozenset(day % 7 for day in values[4]),
        any_day=_is_any(fields[2]),
        any_weekday=_is_any(fields[4]),
    )
    if next(next_times(cron, datetime.datetime(2024, 1, 1)), None) is None:
        raise UsageError(
            f"A schedule must fire some day; got {expression!r}, a day that no month has."
        )
    return cron


def from_kfp(expression: str) -> str:
    """Return KFP's six fields as a person writes them: without the seconds where those are 0."""
    fields = expression.split()
    return " ".join(fields[1:]) if len(fields) == 6 and fields[0] == "0" else expression


def next_times(cron: Cron, start: datetime.datetime) -> Iterator[datetime.datetime]:
    """Yield the times after `start` at which the schedule fires, in `start`'s time zone, for eight years."""
    for offset in range(_DAYS_AHEAD):
        day = start.date() + datetime.timedelta(days=offset)
        if not _matches(cron, day):
            continue
        for hour in sorted(cron.hours):
            for minute in sorted(cron.minutes):
                time = datetime.datetime.combine(
                    day, datetime.time(hour, minute), tzinfo=start.tzinfo
                )
                if time > start:
                    yield time


def _matches(cron: Cron, day: datetime.date) -> bool:
    is_day, is_weekday = day.day in cron.days, day.isoweekday() % 7 in cron.weekdays
    if day.month not in cron.months:
        return False
    return is_day and is_weekday if cron.any_day or cron.any_weekday else is_day or is_weekday


def _check_count(expression: str, fields: list[str]) -> None:
    count = len(fields)
    if count == 5:
        return
    advice = _FORM
    if count in (6, 7):
        without = " ".join(fields[1:6])
        advice = f'KFP\'s own form has the seconds first, and repot adds them. If that is what you have, give "{without}".'
    raise UsageError(
        f"A cron expression must have five fields; got {count}: {expression!r}. {advice}"
    )


def _read_field(field: _Field, text: str, problems: list[str]) -> frozenset[int]:
    values: set[int] = set()
    for part in text.lower().split(","):
        try:
            values.update(_read_part(field, part))
        except ValueError:
            problems.append(
                f"The {field.name} of a cron expression must be *, a value, a range or a list of "
                f"{field.low}..{field.high}; got {part or text!r}."
            )
    return frozenset(values)


def _read_part(field: _Field, part: str) -> range:
    match = _PART.fullmatch(part)
    if match is None:
        raise ValueError(part)
    step = int(match["step"] or 1)
    if match["any"]:
        low, high = field.low, field.last
    else:
        low = _number(field, match["low"])
        # As KFP reads it, 5/10 is every tenth from 5 to the end.
        high = (
            _number(field, match["high"]) if match["high"] else field.last if match["step"] else low
        )
    if step < 1 or low > high:
        raise ValueError(part)
    return range(low, high + 1, step)


def _number(field: _Field, text: str) -> int:
    number = field.low + field.names.index(text) if text in field.names else int(text)
    if not field.low <= number <= field.high:
        raise ValueError(text)
    return number


def _is_any(text: str) -> bool:
    return any(part[0] in "*?" for part in text.split(","))


def _sunday_is_zero(text: str, weekdays: frozenset[int]) -> str:
    """Return the field as it stands, or spelled out day by day where it uses 7, which KFP does not know."""
    return ",".join(map(str, sorted({day % 7 for day in weekdays}))) if 7 in weekdays else text
