"""Print records of a storage as JSON, as a table, or as lines of a name and a text."""

import json
from collections.abc import Sequence

import click

from repot.errors import printable
from repot.json_record import JsonRecord

MAX_COLUMNS = 120
"""Width of a table. Longer texts than fit are cut; `--json` has all of them."""

_MIN_WIDTH = 12


def score_text(value: float | None, interval: tuple[float, float] | None) -> str:
    """Return a score with its interval; "" if it is unknown."""
    if value is None or interval is None:
        return ""
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def date_text(time: str) -> str:
    """Return a time in UTC, e.g. 2026-11-27T14:05:00Z, to the minute."""
    return time[:16].replace("T", " ")


def print_records(
    records: Sequence[JsonRecord],
    columns: tuple[str, ...],
    rows: list[tuple[str, ...]],
    *,
    as_json: bool,
) -> None:
    """Print records as a JSON array, or as a table of at most MAX_COLUMNS.

    Args:
        records: What is printed as JSON.
        columns: The names of the columns.
        rows: The cells of the table. The first one of a row, which names it, is never cut.
        as_json: Print JSON.
    """
    if as_json:
        click.echo(json.dumps([each.to_json() for each in records], indent=2))
        return
    lines = [columns, *(tuple(map(printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    spare = MAX_COLUMNS - sum(widths) - 2 * (len(widths) - 1)
    while spare < 0 and max(widths[1:], default=0) > _MIN_WIDTH:
        widest = widths.index(max(widths[1:]), 1)
        widths[widest] -= 1
        spare += 1
    for line in lines:
        cells = (_fit(cell, width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def print_omitted(num_listed: int, num_all: int, what: str) -> None:
    """Say on stderr that a list was limited, if it was."""
    if num_listed < num_all:
        click.echo(
            f"The latest {num_listed:,} of {num_all:,} {what}; --limit 0 lists all.", err=True
        )


def _fit(text: str, width: int) -> str:
    """Return text of exactly this width."""
    return text.ljust(width) if len(text) <= width else f"{text[: width - 1]}…"


def print_rows(record: JsonRecord, rows: list[tuple[str, str]], *, as_json: bool) -> None:
    """Print a record as a JSON object, or as lines of a name and a text."""
    if as_json:
        click.echo(json.dumps(record.to_json(), indent=2))
        return
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        click.echo(f"{name:<{width}}{printable(text)}".rstrip())
