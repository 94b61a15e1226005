import datetime
import itertools

import pytest

from repot.errors import UsageError
from repot_pipelines.schedules.cron import next_times, parse_cron, without_seconds
from tests.integration.kfp_api.validation import check_cron

NOON = datetime.datetime(2025, 11, 23, 12, tzinfo=datetime.UTC)  # a Sunday


@pytest.mark.parametrize(
    ("expression", "kfp_expression"),
    [
        ("0 2 * * *", "0 0 2 * * *"),
        ("  */15 9-17 * * mon-fri ", "0 */15 9-17 * * mon-fri"),
        ("5/10 * * * *", "0 5/10 * * * *"),
        ("0 0 1,15 JAN,jul ?", "0 0 0 1,15 JAN,jul ?"),
        ("@daily", "0 0 0 * * *"),
        ("@Weekly", "0 0 0 * * 0"),
        ("0 3 * * 7", "0 0 3 * * 0"),
        ("0 3 * * 5-7", "0 0 3 * * 0,5,6"),
        ("59 23 31 12 6", "0 59 23 31 12 6"),
        ("0 0 29 2 *", "0 0 0 29 2 *"),
    ],
)
def test_parsed_expression_for_kfp_starts_with_the_seconds(
    expression: str, kfp_expression: str
) -> None:
    assert parse_cron(expression).kfp_expression == kfp_expression
    check_cron(kfp_expression)


@pytest.mark.parametrize(
    ("expression", "count", "advice"),
    [
        ("", 0, "Use five fields"),
        ("0 2 * *", 4, "Use five fields"),
        ("0 0 2 * * *", 6, 'use "0 2 * * *"'),
        ("0 0 2 * * ? 2030", 7, 'use "0 2 * * ?"'),
        ("0 0 2 * * ? 2030 x", 8, "Use five fields"),
        ("@every 5m", 2, "Use five fields"),
    ],
)
def test_wrong_number_of_fields_is_rejected_with_the_right_format(
    expression: str, count: int, advice: str
) -> None:
    with pytest.raises(UsageError, match=f"got {count}: ") as caught:
        parse_cron(expression)

    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "field", "part"),
    [
        ("60 * * * *", "minute", "60"),
        ("-1 * * * *", "minute", "-1"),
        ("* 24 * * *", "hour", "24"),
        ("* * 0 * *", "day of month", "0"),
        ("* * 32 * *", "day of month", "32"),
        ("* * L * *", "day of month", "l"),
        ("* * * 13 *", "month", "13"),
        ("* * * february *", "month", "february"),
        ("* * * * 8", "day of week", "8"),
        ("* * * * 1#2", "day of week", "1#2"),
        ("*/0 * * * *", "minute", "*/0"),
        ("9-5 * * * *", "minute", "9-5"),
        ("*-5 * * * *", "minute", "*-5"),
        ("1,,2 * * * *", "minute", "1,,2"),
        ("nonsense 2 * * *", "minute", "nonsense"),
    ],
)
def test_invalid_value_is_rejected_with_field_and_part(
    expression: str, field: str, part: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_cron(expression)

    assert caught.value.problems[0].startswith(f"The {field} of a cron expression must be")
    assert f"got {part!r}" in caught.value.problems[0]


def test_all_invalid_fields_are_listed_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        parse_cron("60 24 0 13 8")

    assert len(caught.value.problems) == 5 + 1  # and the right format


def test_date_that_never_comes_is_rejected() -> None:
    with pytest.raises(UsageError, match="must match a date that exists"):
        parse_cron("0 0 31 2,4 *")


@pytest.mark.parametrize(
    ("expression", "times"),
    [
        ("0 2 * * *", ["2025-11-24 02:00", "2025-11-25 02:00"]),
        ("30 12 * * *", ["2025-11-23 12:30", "2025-11-24 12:30"]),
        ("0 12 * * *", ["2025-11-24 12:00", "2025-11-25 12:00"]),
        ("0 0 * * sun", ["2025-11-30 00:00", "2025-12-07 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        # If day and weekday are both restricted, a match of one is enough.
        ("0 0 25 * mon", ["2025-11-24 00:00", "2025-11-25 00:00"]),
    ],
)
def test_next_times(expression: str, times: list[str]) -> None:
    found = itertools.islice(next_times(parse_cron(expression), NOON), 2)

    assert [f"{time:%Y-%m-%d %H:%M}" for time in found] == times


def test_without_seconds_keeps_seconds_other_than_zero() -> None:
    assert without_seconds("0 0 2 * * *") == "0 2 * * *"
    assert without_seconds("30 0 2 * * *") == "30 0 2 * * *"
    assert without_seconds("0 2 * * *") == "0 2 * * *"
