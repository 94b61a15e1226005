"""Waits for a cluster: patient, but not for ever, and with the last thing that was seen in the failure."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

RUN_SECONDS = 1800.0
"""For a whole run: images may have to be pulled first."""

TEST_SECONDS = 5400
"""For a test with all that it starts."""

POLL_SECONDS = 2.0

_T = TypeVar("_T")


def wait_for(
    what: str, look: Callable[[], _T], *, seconds: float, state: Callable[[], object] = str
) -> _T:
    """Return what a look finds, as soon as it finds something.

    Args:
        what: What is waited for, for the message.
        look: Returns something true at last.
        seconds: How long to wait.
        state: What is told in the failure; what the last look found, if not given.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(
                f"{what} must come within {seconds:.0f} s; it did not. Last seen: {state() or found}"
            )
        time.sleep(POLL_SECONDS)
