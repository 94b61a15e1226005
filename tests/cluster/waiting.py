"""Wait for a state of the cluster, with a time limit and the last state in the failure message."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

RUN_SECONDS = 1800.0
"""Time limit of a whole run, including image pulls."""

TEST_SECONDS = 5400
"""Time limit of a test, including everything it starts."""

POLL_SECONDS = 2.0

_T = TypeVar("_T")


def wait_for(
    what: str, poll: Callable[[], _T], *, seconds: float, state: Callable[[], object] = str
) -> _T:
    """Poll until the result is true, and return it.

    Args:
        what: What is awaited, for the failure message.
        poll: Returns a true value when the wait is over.
        seconds: Time limit.
        state: Returns the current state for the failure message; default: the last poll result.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = poll()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(
                f"{what} must appear within {seconds:.0f} s. Last state: {state() or found}"
            )
        time.sleep(POLL_SECONDS)
