"""What a person sees of the events: one row a task, whatever number of processes does it."""

import io
from typing import Any

import pytest
from rich.console import Console

from repot_pipelines.local.events import Event
from repot_pipelines.local.progress_view import BarView, LineView, make_view


def event(kind: str, process: str, **facts: Any) -> Event:
    return {"event": kind, "process": process, "task": "build shards", **facts}


def progress(process: str, done: int, total: int) -> Event:
    return event("progress", process, done=done, total=total, unit="pictures", note="")


def console(*, is_terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=100, color_system=None)


def shown(events: list[Event]) -> str:
    """Return the row of the task as it stands after the events."""
    screen = console(is_terminal=True)
    view = BarView(screen)
    for one in events:
        view.show(one)
    with screen.capture() as capture:
        screen.print(view._progress.get_renderable())
    (row,) = [line for line in capture.get().splitlines() if "build shards" in line]
    return row


TWO = [
    event("started", "a"),
    event("started", "b"),
    progress("a", 10, 40),
    progress("b", 5, 30),
    progress("a", 20, 40),
]


@pytest.mark.parametrize(
    ("events", "amount"),
    [
        (TWO[:3], "10/40 pictures"),
        (TWO, "25/70 pictures"),
        ([*TWO, progress("c", 0, 0)], "25 pictures"),
    ],
)
def test_row_sums_up_the_processes_of_its_task(events: list[Event], amount: str) -> None:
    assert amount in shown(events)


def test_row_is_finished_when_every_process_is() -> None:
    one_is = [*TWO, progress("a", 40, 40), event("finished", "a", seconds=1.0)]

    assert "✓" not in shown(one_is)
    assert "✓" in shown([*one_is, event("finished", "b", seconds=2.0)])


def test_row_goes_on_when_another_process_begins() -> None:
    events = [event("started", "a"), progress("a", 40, 40), event("finished", "a", seconds=1.0)]
    assert "✓" in shown(events)

    row = shown([*events, event("started", "b"), progress("b", 10, 40)])

    assert "50/80 pictures" in row
    assert "✓" not in row


def test_lines_sum_up_too() -> None:
    screen = console(is_terminal=False)
    view = make_view(screen)
    assert isinstance(view, LineView)
    for one in TWO:
        view._last_line = 0.0
        view.show(one)

    file = screen.file
    assert isinstance(file, io.StringIO)
    assert file.getvalue().splitlines()[-1] == "build shards: 25/70 pictures"
