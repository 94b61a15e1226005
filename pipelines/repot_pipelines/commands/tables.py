"""Print records of a storage as JSON, as a table, or as lines of a name and a text."""

import json
from collections.abc import Sequence

import click

from repot.errors import printable
from repot.json_record import JsonRecord


def score_text(value: float | None, interval: tuple[float, float] | None) -> str:
    """Return a score with its interval; "" if it is unknown."""
    if value is None or interval is None:
        return ""
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def print_records(
    records: Sequence[JsonRecord],
    columns: tuple[str, ...],
    rows: list[tuple[str, ...]],
    *,
    as_json: bool,
) -> None:
    """Print records as a JSON array, or as a table whose columns are as wide as necessary."""
    if as_json:
        click.echo(json.dumps([each.to_json() for each in records], indent=2))
        return
    lines = [columns, *(tuple(map(printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def print_rows(record: JsonRecord, rows: list[tuple[str, str]], *, as_json: bool) -> None:
    """Print a record as a JSON object, or as lines of a name and a text."""
    if as_json:
        click.echo(json.dumps(record.to_json(), indent=2))
        return
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        click.echo(f"{name:<{width}}{printable(text)}".rstrip())
