"""One row per task, however many processes share it."""

import io

import pytest
from rich.console import Console

from repot.progress import Event, TaskFinished, TaskNotice, TaskProgress, TaskStarted
from repot_pipelines.local.progress_view import ProgressBars, ProgressLines, make_view

TASK = "build shards"


def started(process: str) -> Event:
    return TaskStarted(process=process, task=TASK)


def finished(process: str, seconds: float) -> Event:
    return TaskFinished(process=process, task=TASK, seconds=seconds)


def progress(process: str, done: int, total: int) -> Event:
    return TaskProgress(
        process=process, task=TASK, done=done, total=total, unit="pictures", note=""
    )


def make_console(*, is_terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=100, color_system=None)


def row_after(events: list[Event]) -> str:
    """Return the task's row after these events."""
    console = make_console(is_terminal=True)
    view = ProgressBars(console)
    for each in events:
        view.show(each)
    with console.capture() as capture:
        console.print(view._progress.get_renderable())
    (row,) = [line for line in capture.get().splitlines() if "build shards" in line]
    return row


TWO_PROCESSES = [
    started("a"),
    started("b"),
    progress("a", 10, 40),
    progress("b", 5, 30),
    progress("a", 20, 40),
]


@pytest.mark.parametrize(
    ("events", "amount"),
    [
        (TWO_PROCESSES[:3], "10/40 pictures"),
        (TWO_PROCESSES, "25/70 pictures"),
        ([*TWO_PROCESSES, progress("c", 0, 0)], "25 pictures"),
    ],
)
def test_row_sums_the_processes_of_its_task(events: list[Event], amount: str) -> None:
    assert amount in row_after(events)


def test_row_is_finished_when_all_processes_are() -> None:
    first_finished = [*TWO_PROCESSES, progress("a", 40, 40), finished("a", 1.0)]

    assert "✓" not in row_after(first_finished)
    assert "✓" in row_after([*first_finished, finished("b", 2.0)])


def test_finished_row_continues_when_another_process_starts() -> None:
    events = [started("a"), progress("a", 40, 40), finished("a", 1.0)]
    assert "✓" in row_after(events)

    row = row_after([*events, started("b"), progress("b", 10, 40)])

    assert "50/80 pictures" in row
    assert "✓" not in row


def test_lines_sum_the_processes_of_their_task() -> None:
    console = make_console(is_terminal=False)
    view = make_view(console)
    assert isinstance(view, ProgressLines)
    for each in TWO_PROCESSES:
        view._last_line = 0.0
        view.show(each)

    file = console.file
    assert isinstance(file, io.StringIO)
    assert file.getvalue().splitlines()[-1] == "build shards: 25/70 pictures"


def _lines_after(events: list[Event]) -> list[str]:
    console = make_console(is_terminal=False)
    view = make_view(console)
    for each in events:
        view.show(each)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


def test_last_line_of_a_short_task_is_its_end() -> None:
    lines = _lines_after([progress("a", done, 96) for done in (0, 50, 96)])
    assert lines == ["build shards: 0/96 pictures", "build shards: 96/96 pictures"]


def test_line_is_not_repeated_and_a_note_is_separated_from_the_amount() -> None:
    event = TaskProgress(process="a", task=TASK, done=9, total=9, unit="steps", note="epoch 1/3")

    assert _lines_after([event, event]) == ["build shards: 9/9 steps, epoch 1/3"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_notices_are_shown_as_they_are(is_terminal: bool) -> None:
    console = make_console(is_terminal=is_terminal)
    with make_view(console) as view:
        view.show(TaskNotice(process="a", task=TASK, text="[b] is a label", is_warning=False))
        view.show(TaskNotice(process="a", task=TASK, text="x" * 150, is_warning=True))
    file = console.file
    assert isinstance(file, io.StringIO)
    erase_line = "\x1b[2K"
    lines = [line.removeprefix(erase_line).rstrip() for line in file.getvalue().splitlines()]
    assert "build shards: [b] is a label" in lines
    assert f"build shards: warning: {'x' * 150}" in lines
