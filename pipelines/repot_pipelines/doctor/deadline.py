"""A time limit for what has none of its own."""

import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def within(seconds: float, work: Callable[[], _T]) -> _T:
    """Return what `work` returns, if it does so in time; what hangs is left behind, and ends with the process.

    Args:
        seconds: How long to wait.
        work: What may hang: something that knows no time limit of its own, or a longer one.

    Raises:
        TimeoutError: It did not return in time.
    """
    done: list[_T] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as err:  # noqa: BLE001 - raised again where it is waited for
            failures.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError
    if failures:
        raise failures[0]
    return done[0]
