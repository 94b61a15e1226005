"""Show the tasks of a run: a live table on a terminal, otherwise one line per change."""

import itertools
from collections.abc import Sequence
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from repot_pipelines.watch.tasks import (
    DONE,
    FAILED,
    RUNNING,
    SKIPPED,
    STARTING,
    STOPPED,
    WAITING,
    TaskStatus,
)

_MARKS = {
    WAITING: "[dim]·[/dim]",
    STARTING: "[cyan]…[/cyan]",
    RUNNING: "[cyan]▶[/cyan]",
    DONE: "[green]✓[/green]",
    FAILED: "[red]✗[/red]",
    SKIPPED: "[dim]–[/dim]",
    STOPPED: "[yellow]■[/yellow]",
}
_ENDED = (DONE, FAILED, STOPPED)


class TaskView(Protocol):
    """Shows task statuses between `__enter__` and `__exit__`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def show(self, statuses: Sequence[TaskStatus]) -> None:
        """Show the current statuses."""

    def print_line(self, text: str) -> None:
        """Print a line of other text."""


def make_task_view(console: Console) -> TaskView:
    """Return the view that fits the console."""
    return TaskTable(console) if console.is_terminal else TaskLines(console)


class TaskTable:
    """A table with one row per task, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def show(self, statuses: Sequence[TaskStatus]) -> None:
        """Redraw the table."""
        table = Table.grid(padding=(0, 2))
        for status in statuses:
            table.add_row(
                _MARKS[status.state],
                status.task.title,
                status.state,
                status.progress,
                duration_text(status.seconds),
            )
        self._live.update(table, refresh=True)

    def print_line(self, text: str) -> None:
        """Print a line above the table."""
        _print(self._console, text)


class TaskLines:
    """One line per change of a task."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def show(self, statuses: Sequence[TaskStatus]) -> None:
        """Print a line for each task whose state or number of finished pods changed."""
        for status in statuses:
            text = " ".join(filter(None, [status.state, status.progress]))
            previous = self._shown.get(status.task.key, WAITING)
            self._shown[status.task.key] = text
            if text != previous:
                duration = duration_text(status.seconds) if status.state in _ENDED else ""
                suffix = f" in {duration}" if duration else ""
                self.print_line(f"{status.task.title}: {text}{suffix}")

    def print_line(self, text: str) -> None:
        """Print a line."""
        _print(self._console, text)


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units, e.g. "1 h 5 min"; "" for zero."""
    if not seconds:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    largest = list(itertools.islice(itertools.dropwhile(lambda part: not part[0], parts), 2))
    return " ".join(f"{number} {unit}" for number, unit in largest if number) or "0 s"
