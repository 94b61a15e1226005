"""Shows a run's events to a person: a table of moving bars on a terminal, plain lines anywhere else.

A task that several processes do together, such as building shards, is one task here, with the sum of their amounts.
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

from repot_pipelines.local.events import Event

LINE_SECONDS = 5.0
"""Without a terminal, a running task writes a line at most this often."""


class ProgressView(Protocol):
    """Draws events from `__enter__` to `__exit__`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def show(self, event: Event) -> None:
        """Draw one event."""


def make_view(console: Console) -> ProgressView:
    """Return the view that fits the console."""
    return BarView(console) if console.is_terminal else LineView(console)


class LineView:
    """One line when a task starts and ends, and now and then one between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._amounts = _Amounts()
        self._last_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def show(self, event: Event) -> None:
        """Print the event when it is worth a line."""
        event = self._amounts.add(event)
        kind, task = event["event"], event.get("task")
        now = time.monotonic()
        if kind == "started":
            self._line(f"{task} ...")
        elif kind == "finished":
            self._line(f"{task}: done in {event['seconds']:.1f} s")
        elif kind == "progress" and now - self._last_line >= LINE_SECONDS:
            self._line(f"{task}: {_amount(event)} {event['note']}".rstrip())

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class BarView:
    """One row a task: spinner or tick, bar, amount, note, seconds."""

    def __init__(self, console: Console) -> None:
        self._rows: dict[str, TaskID] = {}
        self._amounts = _Amounts()
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
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
        """Move the row of the event's task."""
        event = self._amounts.add(event)
        name = event.get("task")
        if name is None:
            return
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._progress.add_task(name, total=None, note="")
        if event["event"] == "progress":
            note = f"{_amount(event)}  {event['note']}".rstrip()
            self._progress.update(
                row, completed=event["done"], total=event["total"] or None, note=note
            )
        elif event["event"] == "finished" and not self._amounts.is_at_work(name):
            total = self._progress.tasks[self._progress.task_ids.index(row)].total or 1
            self._progress.update(row, completed=total, total=total)
        elif event["event"] == "failed":
            self._progress.update(row, description=f"[red]{name}")
            self._progress.stop_task(row)


class _Amounts:
    """How far each task is, all the processes together that do it."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, Event]] = defaultdict(dict)
        self._at_work: dict[str, set[str]] = defaultdict(set)

    def add(self, event: Event) -> Event:
        """Take note of an event, and return it; one of progress with the sums of its task."""
        kind, task, process = event["event"], event.get("task", ""), event.get("process", "")
        if kind == "started":
            self._at_work[task].add(process)
        elif kind in ("finished", "failed"):
            self._at_work[task].discard(process)
        elif kind == "progress":
            self._last[task][process] = event
            said = self._last[task].values()
            has_total = all(one["total"] for one in said)
            total = sum(one["total"] for one in said) if has_total else 0
            return {**event, "done": sum(one["done"] for one in said), "total": total}
        return event

    def is_at_work(self, task: str) -> bool:
        """Return whether a process began the task and has not ended it."""
        return bool(self._at_work[task])


class _SecondsColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished_time is not None else task.elapsed
        return Text(f"{seconds or 0.0:6.1f} s", style="dim")


def _amount(event: Event) -> str:
    done, total, unit = event["done"], event["total"], event["unit"]
    if unit == "bytes":
        done, total, unit = done // 2**20, total // 2**20, "MiB"
    return f"{done}/{total} {unit}".rstrip() if total else f"{done} {unit}".rstrip()
