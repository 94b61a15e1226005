import threading

import pytest

from repot_pipelines.doctor.check import within


def test_work_in_time_is_returned() -> None:
    assert within(5, lambda: 7) == 7
    assert within(5, lambda: None) is None


def test_failures_are_passed_on() -> None:
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


def test_work_that_hangs_is_left_behind() -> None:
    release = threading.Event()

    with pytest.raises(TimeoutError):
        within(0.05, release.wait)
    release.set()
