"""Show the events of a run: progress bars on a terminal, plain lines anywhere else.

A task that several processes share, such as building shards, is one row with the sum of their
progress.
"""

import time
from collections import defaultdict
from dataclasses import replace
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
from repot.progress import (
    Event,
    ProcessExited,
    TaskFailed,
    TaskFinished,
    TaskNotice,
    TaskProgress,
    TaskResult,
    TaskStarted,
)

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
        self._last_text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def show(self, event: Event) -> None:
        """Print a line if the event starts or ends a task, or the last line is old enough."""
        event = self._totals.add(event)
        match event:
            case TaskStarted():
                self._line(f"{event.task} ...")
            case TaskNotice():
                self._line(_notice_text(event))
            case TaskFinished():
                self._line(f"{event.task}: done in {event.seconds:.1f} s")
            case TaskProgress():
                is_due = time.monotonic() - self._last_line >= LINE_SECONDS
                if is_due or event.done == event.total > 0:
                    amount = ", ".join(filter(None, [_format_amount(event), event.note]))
                    self._line(f"{event.task}: {amount}")

    def _line(self, text: str) -> None:
        if text == self._last_text:
            return
        self._last_line, self._last_text = time.monotonic(), text
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
        if isinstance(event, TaskResult | ProcessExited):
            return
        if isinstance(event, TaskNotice):
            self._progress.console.print(
                _notice_text(event), highlight=False, markup=False, soft_wrap=True
            )
            return
        row = self._rows.get(event.task)
        if row is None:
            row = self._progress.add_task(event.task, total=None, note="")
            self._rows[event.task] = row
        match event:
            case TaskProgress():
                note = f"{_format_amount(event)}  {event.note}".rstrip()
                self._progress.update(
                    row, completed=event.done, total=event.total or None, note=note
                )
            case TaskFinished() if not self._totals.is_running(event.task):
                total = self._progress.tasks[self._progress.task_ids.index(row)].total or 1
                self._progress.update(row, completed=total, total=total)
            case TaskFailed():
                self._progress.update(row, description=f"[red]{event.task}")
                self._progress.stop_task(row)


class _TaskTotals:
    """The progress of each task, summed over the processes that share it."""

    def __init__(self) -> None:
        # By task, then by process.
        self._latest: dict[str, dict[str, TaskProgress]] = defaultdict(dict)
        self._running: dict[str, set[str]] = defaultdict(set)

    def add(self, event: Event) -> Event:
        """Record an event, and return it; a progress event gets the sums over its task."""
        match event:
            case TaskStarted():
                self._running[event.task].add(event.process)
            case TaskFinished() | TaskFailed():
                self._running[event.task].discard(event.process)
            case TaskProgress():
                self._latest[event.task][event.process] = event
                latest = self._latest[event.task].values()
                # A total of 0 means unknown: then the sum is unknown too.
                is_known = all(each.total for each in latest)
                total = sum(each.total for each in latest) if is_known else 0
                return replace(event, done=sum(each.done for each in latest), total=total)
        return event

    def is_running(self, task: str) -> bool:
        """Return whether any process has started the task and not finished it."""
        return bool(self._running[task])


class _SecondsColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished_time is not None else task.elapsed
        return Text(f"{seconds or 0.0:6.1f} s", style="dim")


def _notice_text(event: TaskNotice) -> str:
    warning = "warning: " if event.is_warning else ""
    return f"{event.task}: {warning}{event.text}"


def _format_amount(event: TaskProgress) -> str:
    done, total, unit = event.done, event.total, event.unit
    if unit == "bytes":
        done, total, unit = done // 2**20, total // 2**20, "MiB"
    return f"{done}/{total} {unit}".rstrip() if total else f"{done} {unit}".rstrip()
