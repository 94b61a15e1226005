"""`repot prune`: find what a storage no longer needs, and delete it."""

import json
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import click

from repot_pipelines.commands.options import (
    debug_option,
    json_option,
    local_storage_option,
    shown_progress,
)
from repot_pipelines.commands.tables import print_records

if TYPE_CHECKING:
    from repot.pruning.prune import PrunedUnit, PruneReport

_AGE = re.compile(r"(\d{1,4})(d|h)", re.ASCII)
_UNIT_SECONDS = {"d": 86_400, "h": 3_600}
_MIN_HOURS = 24
_MAX_DAYS = 3_650
_PLURALS = {
    "training state": "training states",
    "features": "parts of features",
    "predictions": "parts of predictions",
}
_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


class Age(click.ParamType):  # type: ignore[type-arg]
    """A number of days or hours, such as 30d or 36h, as seconds."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds."""
        if isinstance(value, float):
            return value
        match = _AGE.fullmatch(value)
        seconds = int(match[1]) * _UNIT_SECONDS[match[2]] if match else 0
        if not _MIN_HOURS * 3_600 <= seconds <= _MAX_DAYS * 86_400:
            self.fail(
                f"it must be a time such as 30d or 36h, from {_MIN_HOURS}h, because a run may "
                f"write nothing for hours, to {_MAX_DAYS}d; got {value!r}.",
                param,
                ctx,
            )
        return float(seconds)


@click.command("prune")
@local_storage_option
@click.option(
    "--older-than",
    "older_than_seconds",
    type=Age(),
    default="30d",
    show_default=True,
    help="Keep everything that was written or used within this time: 30d (days) or 36h (hours).",
)
@click.option(
    "--keep-versions",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Keep this many versions of each model: those that were last in production, and what they "
    "were made from. The champion is one of them.",
)
@click.option(
    "--delete", is_flag=True, help="Delete what is not needed. Without it, nothing is changed."
)
@json_option
@debug_option
def prune_command(
    *,
    storage_uri: str,
    older_than_seconds: float,
    keep_versions: int,
    delete: bool,
    as_json: bool,
) -> None:
    """List what the storage no longer needs; with --delete, delete it.

    It keeps the versions that were last in production, everything that was written or used
    recently, and what these were made from. Verdicts, gate reports, champion.json and
    comparisons.json are always kept. If a later run needs something that was deleted, it is made
    again under the same id.
    """
    from repot.pruning.prune import prune
    from repot.pruning.retention import Limits

    limits = Limits(age_seconds=older_than_seconds, keep_versions=keep_versions)
    with shown_progress():
        report = prune(storage_uri, limits, delete=delete)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
        return
    _print_table(report)


def _print_table(report: "PruneReport") -> None:
    """Print a line for each kind of thing and reason, and what is freed."""
    counts: Counter[tuple[str, str, str]] = Counter()
    sizes: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    for unit in report.units:
        key = (_action(unit, report), unit.kind, unit.reason)
        counts[key] += 1
        sizes[key] += unit.size_bytes
    rows: list[tuple[str, ...]] = []
    for key in sorted(counts):
        action, kind, reason = key
        number = counts[key]
        rows.append((action, f"{number:,}", _plural(kind, number), size_text(sizes[key]), reason))
    print_records([], ("", "number", "what", "size", "why"), rows, as_json=False)
    total, removable = size_text(report.total_bytes), size_text(report.removable_bytes)
    if not report.is_dry_run:
        click.echo(f"{report.num_deleted_files:,} files were deleted; {removable} of {total}.")
    elif report.removable_bytes or any(not unit.is_kept for unit in report.units):
        click.echo(f"{removable} of {total} can be deleted. Nothing was; --delete does it.")
    else:
        click.echo(f"Nothing can be deleted; {total} are stored.")


def _action(unit: "PrunedUnit", report: "PruneReport") -> str:
    if unit.is_kept:
        return "keep"
    if report.is_dry_run:
        return "delete"
    return "deleted" if unit.is_deleted else "kept: used meanwhile"


def _plural(kind: str, number: int) -> str:
    if kind in _PLURALS:
        return _PLURALS[kind]
    return kind if number == 1 else f"{kind}s"


def size_text(size_bytes: int) -> str:
    """Return a size with a unit and three digits, such as 1.21 GB."""
    size, power = float(size_bytes), 0
    while round(size) >= 1000 and power < len(_BYTES) - 1:
        size, power = size / 1000, power + 1
    return f"{size:.3g} {_BYTES[power]}"
