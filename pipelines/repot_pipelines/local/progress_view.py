"""Show the events of a run: progress bars on a terminal, plain lines anywhere else.

A task that several processes share, such as building shards, is one row with the sum of their
progress.
"""

import time
from collections import defaultdict
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

from repot.errors import printable
from repot_pipelines.local.events import Event

LINE_SECONDS = 5.0
"""Minimum time between two lines about running tasks."""


class ProgressView(Protocol):
    """A context manager that shows events."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def show(self, event: Event) -> None:
        """Show one event."""


def make_view(console: Console) -> ProgressView:
    """Return bars for a terminal, lines otherwise."""
    return ProgressBars(console) if console.is_terminal else ProgressLines(console)


class ProgressLines:
    """Print a line when a task starts and ends, every LINE_SECONDS in between, and for notices."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._totals = _TaskTotals()
        self._last_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def show(self, event: Event) -> None:
        """Print a line if the event starts or ends a task, or the last line is old enough."""
        event = self._totals.add(event)
        kind, task = event["event"], event.get("task")
        now = time.monotonic()
        if kind == "started":
            self._line(f"{task} ...")
        elif kind == "notice":
            self._line(_notice_text(event))
        elif kind == "finished":
            self._line(f"{task}: done in {event['seconds']:.1f} s")
        elif kind == "progress" and (
            now - self._last_line >= LINE_SECONDS or event["done"] == event["total"] > 0
        ):
            self._line(f"{task}: {_format_amount(event)} {event['note']}".rstrip())

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


class ProgressBars:
    """One row per task: spinner or tick, bar, seconds, amount, note."""

    def __init__(self, console: Console) -> None:
        self._rows: dict[str, TaskID] = {}
        self._totals = _TaskTotals()
        spinner = (
            SpinnerColumn(finished_text="[green]✓")
            if console.encoding.lower().startswith("utf")
            else SpinnerColumn("line", finished_text="[green]+")
        )
        self._progress = Progress(
            spinner,
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=24),
            _SecondsColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Update the row of the event's task."""
        event = self._totals.add(event)
        name = event.get("task")
        if name is None:
            return
        if event["event"] == "notice":
            self._progress.console.print(
                _notice_text(event), highlight=False, markup=False, soft_wrap=True
            )
            return
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._progress.add_task(name, total=None, note="")
        if event["event"] == "progress":
            note = f"{_format_amount(event)}  {event['note']}".rstrip()
            self._progress.update(
                row, completed=event["done"], total=event["total"] or None, note=note
            )
        elif event["event"] == "finished" and not self._totals.is_running(name):
            total = self._progress.tasks[self._progress.task_ids.index(row)].total or 1
            self._progress.update(row, completed=total, total=total)
        elif event["event"] == "failed":
            self._progress.update(row, description=f"[red]{name}")
            self._progress.stop_task(row)


class _TaskTotals:
    """The progress of each task, summed over the processes that share it."""

    def __init__(self) -> None:
        # By task, then by process.
        self._latest: dict[str, dict[str, Event]] = defaultdict(dict)
        self._running: dict[str, set[str]] = defaultdict(set)

    def add(self, event: Event) -> Event:
        """Record an event, and return it; a progress event gets the sums over its task."""
        kind, task, process = event["event"], event.get("task", ""), event.get("process", "")
        if kind == "started":
            self._running[task].add(process)
        elif kind in ("finished", "failed"):
            self._running[task].discard(process)
        elif kind == "progress":
            self._latest[task][process] = event
            latest = self._latest[task].values()
            # A total of 0 means unknown: then the sum is unknown too.
            is_known = all(each["total"] for each in latest)
            total = sum(each["total"] for each in latest) if is_known else 0
            return {**event, "done": sum(each["done"] for each in latest), "total": total}
        return event

    def is_running(self, task: str) -> bool:
        """Return whether any process has started the task and not finished it."""
        return bool(self._running[task])


class _SecondsColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished_time is not None else task.elapsed
        return Text(f"{seconds or 0.0:6.1f} s", style="dim")


def _notice_text(event: Event) -> str:
    warning = "warning: " if event["is_warning"] else ""
    return f"{event['task']}: {warning}{event['text']}"


def _format_amount(event: Event) -> str:
    done, total, unit = event["done"], event["total"], event["unit"]
    if unit == "bytes":
        done, total, unit = done // 2**20, total // 2**20, "MiB"
    return f"{done}/{total} {unit}".rstrip() if total else f"{done} {unit}".rstrip()
