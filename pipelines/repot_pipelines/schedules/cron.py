"""Cron expressions: parse the usual five fields and convert them to KFP's six, seconds first.

KFP accepts five fields too, but reads the first one as seconds: `0 2 * * *` means two minutes past
every hour. Its weekdays are 0 to 6, so 7 for Sunday becomes 0.
Source: github.com/robfig/cron v1.2.0.
"""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass

from repot.errors import UsageError

_MAX_DAYS_AHEAD = 366 * 8
"""29 February, the rarest date, comes at least once in this time."""

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
_FORMAT_ADVICE = (
    "Use five fields, minute hour day-of-month month day-of-week, "
    'e.g. "0 2 * * *" for every night at two.'
)
_PART = re.compile(r"((?P<any>[*?])|(?P<low>\w+)(-(?P<high>\w+))?)(/(?P<step>\d+))?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Field:
    """One field of an expression.

    Attributes:
        name: Name of the field, for messages.
        low, high: Range of valid values, both inclusive.
        last: End of `*`; differs from `high` for weekdays, where 7 is another name for 0.
        names: Names for the values low, low + 1, ...
    """

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
    """A valid cron expression.

    Attributes:
        text: The five fields, in the form that KFP's parser accepts after the seconds.
        minutes, hours, days, months, weekdays: The values that match; Sunday is 0.
        any_day, any_weekday: Whether the field is `*` or `?`. If neither is, a date has to match
            only one of the two.
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
    def kfp_expression(self) -> str:
        """Return the six fields that KFP reads; the first one is second 0."""
        return f"0 {self.text}"


def parse_cron(expression: str) -> Cron:
    """Parse five fields or a macro such as @daily.

    Raises:
        UsageError: The number of fields is wrong, a field is invalid, or no date ever matches.
    """
    fields = _MACROS.get(expression.strip().lower(), expression).split()
    _check_count(expression, fields)
    values: list[frozenset[int]] = []
    problems: list[str] = []
    for field, text in zip(_FIELDS, fields, strict=True):
        try:
            values.append(_read_field(field, text))
        except UsageError as err:
            problems += err.problems
    if problems:
        raise UsageError([*problems, _FORMAT_ADVICE])
    cron = Cron(
        text=" ".join([*fields[:4], _with_sunday_as_zero(fields[4], values[4])]),
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
            f"A schedule must match a date that exists; got {expression!r}. "
            "Use a day that one of its months has."
        )
    return cron


def without_seconds(expression: str) -> str:
    """Return KFP's six fields in the usual five; unchanged if the seconds are not 0."""
    fields = expression.split()
    return " ".join(fields[1:]) if len(fields) == 6 and fields[0] == "0" else expression


def next_times(cron: Cron, start: datetime.datetime) -> Iterator[datetime.datetime]:
    """Yield the times in the eight years after `start` that match, in the time zone of `start`."""
    for offset in range(_MAX_DAYS_AHEAD):
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
    if day.month not in cron.months:
        return False
    is_day, is_weekday = day.day in cron.days, day.isoweekday() % 7 in cron.weekdays
    return is_day and is_weekday if cron.any_day or cron.any_weekday else is_day or is_weekday


def _check_count(expression: str, fields: list[str]) -> None:
    count = len(fields)
    if count == 5:
        return
    advice = _FORMAT_ADVICE
    if count in (6, 7):
        advice = (
            "KFP's own format starts with the seconds, which repot adds. If this is KFP's format, "
            f'use "{" ".join(fields[1:6])}".'
        )
    raise UsageError(
        f"A cron expression must have five fields; got {count}: {expression!r}. {advice}"
    )


def _read_field(field: _Field, text: str) -> frozenset[int]:
    values: set[int] = set()
    problems = []
    for part in text.lower().split(","):
        try:
            values.update(_read_part(field, part))
        except ValueError:
            problems.append(
                f"The {field.name} of a cron expression must be *, a value, a range or a list "
                f"within {field.low}..{field.high}; got {part or text!r}."
            )
    if problems:
        raise UsageError(problems)
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
        # KFP reads 5/10 as every tenth value from 5 to the end.
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


def _with_sunday_as_zero(text: str, weekdays: frozenset[int]) -> str:
    """Return the weekday field; as a list of days if it uses 7, which KFP does not accept."""
    return ",".join(map(str, sorted({day % 7 for day in weekdays}))) if 7 in weekdays else text
