import io

import pytest
from rich.console import Console

from repot_pipelines.watch.task_view import make_task_view
from repot_pipelines.watch.tasks import PipelineTask, TaskStatus


def status(
    key: str, state: str, *, num_done: int = 0, num_pods: int = 1, seconds: float = 0.0
) -> TaskStatus:
    task = PipelineTask(key=key, title=key.capitalize(), parent="")
    return TaskStatus(task=task, state=state, num_done=num_done, num_pods=num_pods, seconds=seconds)


def test_without_a_terminal_every_change_is_one_line() -> None:
    output = io.StringIO()
    with make_task_view(Console(file=output)) as view:
        view.show([status("plan", "running"), status("train", "waiting")])
        view.show([status("plan", "running"), status("train", "waiting")])
        view.show(
            [
                status("plan", "done", num_done=1, seconds=75),
                status("build", "running", num_done=1, num_pods=3),
            ]
        )
        view.show([status("build", "done", num_done=3, num_pods=3, seconds=3700)])
        view.print_line("[not markup]")

    assert output.getvalue().splitlines() == [
        "Plan: running",
        "Plan: done in 1 min 15 s",
        "Build: running 1/3",
        "Build: done 3/3 in 1 h 1 min",
        "[not markup]",
    ]


def test_on_a_terminal_the_table_has_one_row_per_task() -> None:
    output = io.StringIO()
    with make_task_view(Console(file=output, force_terminal=True, width=100)) as view:
        view.show(
            [
                status("plan", "done", seconds=5),
                status("train", "failed", seconds=61),
                status("gate", "waiting"),
            ]
        )
        view.print_line("other text")

    assert "Plan" in output.getvalue()
    assert "1 min 1 s" in output.getvalue()
    assert "✗" in output.getvalue()
    assert "other text" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min 59 s"), (3600, "1 h")],
)
def test_durations_have_at_most_two_units(seconds: float, text: str) -> None:
    output = io.StringIO()
    with make_task_view(Console(file=output)) as view:
        view.show([status("plan", "done", seconds=seconds)])

    assert output.getvalue() == f"Plan: done in {text}\n"
