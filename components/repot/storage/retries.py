"""Retries and rate limits: the same time limits and pauses for every object store.

A store that refuses requests because there are too many (429, 503) gets fewer at once: all threads
of a process share one limit, which is halved when the store refuses, and grows again while it does
not. So any number of pods settle at what the store accepts, without knowing it in advance.
Source: "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in Computer
Networks", Chiu and Jain, 1989, as in TCP.

The pauses, and whatever the stores' client libraries draw at random, come from a generator of this
module. Python's global random state belongs to the caller: a training that was seeded must not
depend on how many requests were made or repeated.
"""

import email.utils
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

# How long a failing request is retried. Before the first response of the service the limit is
# short, because a wrong address or a blocked network does not recover; after that it is long
# enough for a temporary failure of the service.
FIRST_DEADLINE_SECONDS = 15.0
FIRST_READ_SECONDS = 15.0
DEADLINE_SECONDS = 180.0
CONNECT_SECONDS = 4.0
_READ_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 20.0
# A request that is refused for the rate again and again while others succeed.
_MAX_REFUSED_SECONDS = 1800.0
_MAX_RETRY_AFTER_SECONDS = 300.0
_WARNING_SECONDS = 30.0

NUM_CONNECTIONS = 128
"""Requests to a store that one process sends at the same time, at most."""
THROTTLED_STATUSES = (429, 503)
"""HTTP statuses of a store that refuses requests because there are too many."""

_generator = random.Random()  # noqa: S311 (not for security)
# Otherwise forked processes would repeat their requests at the same moments.
os.register_at_fork(after_in_child=_generator.seed)

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class RequestLimit:
    """How many requests the threads of a process may have in flight at one service.

    Attributes:
        value: The limit, in [1, NUM_CONNECTIONS]; its fraction is progress to the next number.
        succeeded_at: When a request last succeeded, by `time.monotonic`.
    """

    def __init__(self) -> None:
        self.value = float(NUM_CONNECTIONS)
        self.succeeded_at = 0.0
        self._changed = threading.Condition()
        self._num_in_flight = 0
        self._lowered_at = 0.0
        self._resume_at = 0.0
        self._warned_at = -_WARNING_SECONDS

    def start(self) -> float:
        """Wait until one more request may be sent; return when that was."""
        with self._changed:
            while True:
                pause = self._resume_at - time.monotonic()
                if pause <= 0 and self._num_in_flight < int(self.value):
                    self._num_in_flight += 1
                    return time.monotonic()
                # The end of a pause notifies nobody.
                self._changed.wait(min(pause, 1.0) if pause > 0 else 1.0)

    def end(self, started: float, *, succeeded: bool) -> None:
        """Note that the request that `start` let pass is over; a success raises the limit."""
        with self._changed:
            self._num_in_flight -= 1
            if succeeded:
                self.succeeded_at = time.monotonic()
                # One more for each time that as many requests as the limit allows have succeeded.
                # A request from before the limit was lowered says nothing about the new limit.
                if started >= self._lowered_at:
                    self.value = min(self.value + 1 / self.value, float(NUM_CONNECTIONS))
            self._changed.notify(2)

    def lower(self, started: float, *, pause_seconds: float) -> None:
        """Halve the limit for a refused request in flight, and send nothing for a while.

        All requests that were in flight together may be refused: only the first one counts.
        """
        with self._changed:
            now = time.monotonic()
            self._resume_at = max(self._resume_at, now + pause_seconds)
            if started < self._lowered_at:
                return
            self._lowered_at = now
            self.value = max(1.0, min(self.value, self._num_in_flight) / 2)
            if now - self._warned_at >= _WARNING_SECONDS:
                self._warned_at = now
                _log.warning(
                    "The object store limits the rate of requests; trying again with %d at a time.",
                    int(self.value),
                )


class ServiceState:
    """What the threads of one process know of a service; a forked child starts with a new one.

    Attributes:
        lock: Guards `clients`.
        clients: The clients of this process, by what they depend on.
        has_responded: Whether the service has ever responded.
        limit: How many requests it may get at the same time.
    """

    def __init__(self) -> None:
        self._start_anew()
        os.register_at_fork(after_in_child=self._start_anew)

    @property
    def read_seconds(self) -> float:
        """How long to wait for a response."""
        return _READ_SECONDS if self.has_responded else FIRST_READ_SECONDS

    def _start_anew(self) -> None:
        self.lock = threading.Lock()
        self.clients: dict[Any, Any] = {}
        self.has_responded = False
        self.limit = RequestLimit()


def call_with_retries(
    call: Callable[[], _T],
    state: ServiceState,
    *,
    errors: tuple[type[Exception], ...],
    is_transient: Callable[[Exception], bool],
    is_response: Callable[[Exception], bool],
    is_throttled: Callable[[Exception], bool],
    retry_after: Callable[[Exception], str],
) -> _T:
    """Return the result of `call`; transient errors are retried after growing pauses.

    A request that is refused for the rate is given up only when no other request has succeeded for
    DEADLINE_SECONDS either: a limit that slows everything down is no failure.

    Args:
        call: Makes one request.
        state: The state of the service.
        errors: The types of the errors that `call` may raise.
        is_transient: Returns whether the same request may succeed a little later.
        is_response: Returns whether an error is a response of the service.
        is_throttled: Returns whether a transient error says that there are too many requests.
        retry_after: Returns the header Retry-After of an error's response, "" without one.
    """
    # Waiting for other requests to end is not counted.
    sent = started = state.limit.start()
    pause = _FIRST_PAUSE_SECONDS
    while True:
        has_succeeded = False
        try:
            result = call()
            has_succeeded = True
        except errors as err:
            state.has_responded = state.has_responded or is_response(err)
            deadline = DEADLINE_SECONDS if state.has_responded else FIRST_DEADLINE_SECONDS
            if not is_transient(err):
                raise
            now, since, wait = time.monotonic(), started, 0.0
            if is_throttled(err):
                wait = parse_retry_after(retry_after(err))
                state.limit.lower(sent, pause_seconds=wait)
                if now - started < _MAX_REFUSED_SECONDS:
                    since = max(started, state.limit.succeeded_at)
            else:
                _log.warning("The object store failed (%s); trying again.", type(err).__name__)
            # A wait that the service itself asked for is no failure.
            if now - since + (0.0 if wait else pause) > deadline:
                raise
        else:
            state.has_responded = True
            return result
        finally:
            state.limit.end(sent, succeeded=has_succeeded)
        _sleep(pause)
        pause = min(2.0 * pause, _MAX_PAUSE_SECONDS)
        sent = state.limit.start()


def pause_after_refusal() -> None:
    """Wait as long as before the first repetition of a request."""
    _sleep(_FIRST_PAUSE_SECONDS)


def use_own_generator(*modules: ModuleType) -> None:
    """Make modules of a client library draw from this module's generator, not the global one.

    Args:
        modules: Modules that call functions of `random` and have no option for a generator.
    """
    for module in modules:
        module.random = _generator  # type: ignore[attr-defined]


def parse_retry_after(value: str) -> float:
    """Return the seconds that a header Retry-After asks to wait; 0 if it is missing or invalid.

    https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(seconds, _MAX_RETRY_AFTER_SECONDS) if seconds > 0 else 0.0


def _sleep(seconds: float) -> None:
    # Jitter: many pods may fail at the same moment.
    time.sleep(seconds * _generator.uniform(0.5, 1.0))
