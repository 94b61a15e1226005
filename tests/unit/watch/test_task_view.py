import io

import pytest
from rich.console import Console

from repot_pipelines.watch.task_view import make_task_view
from repot_pipelines.watch.tasks import Step, TaskState


def state(
    key: str, name: str, *, num_done: int = 0, num_all: int = 1, seconds: float = 0.0
) -> TaskState:
    step = Step(key=key, title=key.capitalize(), branch="")
    return TaskState(step=step, state=name, num_done=num_done, num_all=num_all, seconds=seconds)


def test_without_a_terminal_each_change_is_one_line() -> None:
    output = io.StringIO()
    with make_task_view(Console(file=output)) as view:
        view.show([state("plan", "running"), state("train", "waiting")])
        view.show([state("plan", "running"), state("train", "waiting")])
        view.show(
            [
                state("plan", "done", num_done=1, seconds=75),
                state("build", "running", num_done=1, num_all=3),
            ]
        )
        view.show([state("build", "done", num_done=3, num_all=3, seconds=3700)])
        view.say("[not markup]")

    assert output.getvalue().splitlines() == [
        "Plan: running",
        "Plan: done in 1 min 15 s",
        "Build: running 1/3",
        "Build: done 3/3 in 1 h 1 min",
        "[not markup]",
    ]


def test_on_a_terminal_the_table_has_a_row_for_each_task() -> None:
    output = io.StringIO()
    with make_task_view(Console(file=output, force_terminal=True, width=100)) as view:
        view.show(
            [
                state("plan", "done", seconds=5),
                state("train", "failed", seconds=61),
                state("gate", "waiting"),
            ]
        )
        view.say("a word")

    assert "Plan" in output.getvalue()
    assert "1 min 1 s" in output.getvalue()
    assert "✗" in output.getvalue()
    assert "a word" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (3600, "1 h 0 min")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    output = io.StringIO()
    with make_task_view(Console(file=output)) as view:
        view.show([state("plan", "done", seconds=seconds)])

    assert output.getvalue() == f"Plan: done in {text}\n"
