"""Shows the tasks of a run to a person: a live table on a terminal, a line for each change anywhere else."""

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
    TaskState,
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
    """Draws the tasks from `__enter__` to `__exit__`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def show(self, states: Sequence[TaskState]) -> None:
        """Draw the states as they are now."""

    def say(self, text: str) -> None:
        """Print a line of another kind."""


def make_task_view(console: Console) -> TaskView:
    """Return the view that fits the console."""
    return TableView(console) if console.is_terminal else LineView(console)


class TableView:
    """One row a task, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def show(self, states: Sequence[TaskState]) -> None:
        """Redraw the table."""
        table = Table.grid(padding=(0, 2))
        for state in states:
            table.add_row(
                _MARKS[state.state], state.step.title, state.state, state.amount, _duration(state)
            )
        self._live.update(table, refresh=True)

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LineView:
    """One line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def show(self, states: Sequence[TaskState]) -> None:
        """Print a line for each task whose state or number of pods is another than before."""
        for state in states:
            line = " ".join(filter(None, [state.state, state.amount]))
            before = self._lines.get(state.step.key, WAITING)
            self._lines[state.step.key] = line
            if line != before:
                seconds = f" in {_duration(state)}" if state.state in _ENDED else ""
                self.say(f"{state.step.title}: {line}{seconds}")

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _duration(state: TaskState) -> str:
    if not state.seconds:
        return ""
    minutes, seconds = divmod(round(state.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    # The largest unit that counts, and the one below it.
    told = list(itertools.islice(itertools.dropwhile(lambda part: not part[0], parts), 2))
    return " ".join(f"{number} {unit}" for number, unit in told) or "0 s"
