import pytest

from repot.pod_start import IMAGE, PULLING, UNSCHEDULABLE, Obstacle
from repot_pipelines.watch.start_watch import StartLimit, StartTimeoutError, StartWatch
from repot_pipelines.watch.waiting_pods import WaitingPod


def pod(
    name: str = "p", *, title: str = "Train", cause: str = UNSCHEDULABLE, text: str = "no room"
) -> WaitingPod:
    return WaitingPod(
        name=name, title=title, obstacle=Obstacle(cause=cause, text=text, key=(cause, text))
    )


def unlimited() -> StartWatch:
    return StartWatch(limit=StartLimit(timeout_seconds=0))


def times_of_lines(watch: StartWatch, waiting: WaitingPod, seconds: int) -> list[int]:
    return [second for second in range(0, seconds, 5) if watch.report([waiting], float(second))]


def test_error_is_reported_after_10_seconds_and_what_is_normal_after_20() -> None:
    assert times_of_lines(unlimited(), pod(), 60) == [10]
    assert times_of_lines(unlimited(), pod(cause=PULLING), 60) == [20]


def test_reminders_become_rarer() -> None:
    assert times_of_lines(unlimited(), pod(), 8000) == [10, 610, 1810, 4210]


def test_reason_that_always_changes_is_reported_after_20_seconds_and_then_only_when_it_stays() -> (
    None
):
    watch = unlimited()

    lines = {
        second: watch.report([pod(text=f"reason {second}")], float(second))
        for second in range(0, 60, 5)
    }

    assert [second for second, found in lines.items() if found] == [20]


def test_start_is_reported_only_for_tasks_that_were_reported_and_did_not_end() -> None:
    watch = unlimited()
    pods = [pod("a", title="A"), pod("b", title="B")]
    watch.report(pods, 0.0)
    watch.report([*pods, pod("c", title="C")], 65.0)

    assert watch.report([], 125.0, ended=["B"]) == ["A has started after 2 min 5 s."]
    assert watch.report([], 130.0) == []


def test_new_attempt_of_a_task_waits_anew() -> None:
    watch = StartWatch(limit=StartLimit(timeout_seconds=100))
    watch.report([pod("train(0)")], 0.0)
    watch.report([pod("train(0)")], 99.0)

    watch.report([pod("train(1)")], 120.0)

    with pytest.raises(StartTimeoutError):
        watch.report([pod("train(1)")], 220.0)


@pytest.mark.parametrize(("seconds", "is_late"), [(899, False), (900, True), (901, True)])
def test_limit_is_15_minutes_by_default(seconds: int, is_late: bool) -> None:
    watch = StartWatch(limit=StartLimit())
    watch.report([pod(cause=IMAGE)], 0.0)

    if is_late:
        with pytest.raises(StartTimeoutError, match=r"^Train must start within 15 min; it is wai"):
            watch.report([pod(cause=IMAGE)], float(seconds))
    else:
        watch.report([pod(cause=IMAGE)], float(seconds))


def test_pod_that_waits_longest_decides_for_its_task() -> None:
    watch = unlimited()
    watch.report([pod("old", text="old")], 0.0)

    (line,) = watch.report([pod("new", text="new"), pod("old", text="old")], 30.0)

    assert line == "Train is waiting (2 pods): old"
