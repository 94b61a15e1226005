"""Retries of failing requests: the same time limits and pauses for every object store.

The pauses, and whatever the stores' client libraries draw at random, come from a generator of this
module. Python's global random state belongs to the caller: a training that was seeded must not
depend on how many requests were made or repeated.
"""

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

_generator = random.Random()  # noqa: S311 (not for security)
# Otherwise forked processes would repeat their requests at the same moments.
os.register_at_fork(after_in_child=_generator.seed)

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class ServiceState:
    """What the threads of one process know of a service; a forked child starts with a new one.

    Attributes:
        lock: Guards `clients`.
        clients: The clients of this process, by what they depend on.
        has_responded: Whether the service has ever responded.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clients: dict[Any, Any] = {}
        self.has_responded = False
        os.register_at_fork(after_in_child=self._start_anew)

    @property
    def read_seconds(self) -> float:
        """How long to wait for a response."""
        return _READ_SECONDS if self.has_responded else FIRST_READ_SECONDS

    def _start_anew(self) -> None:
        self.lock, self.clients, self.has_responded = threading.Lock(), {}, False


def call_with_retries(
    call: Callable[[], _T],
    state: ServiceState,
    *,
    errors: tuple[type[Exception], ...],
    is_transient: Callable[[Exception], bool],
    is_response: Callable[[Exception], bool],
) -> _T:
    """Return the result of `call`; transient errors are retried after growing pauses.

    Args:
        call: Makes one request.
        state: The state of the service.
        errors: The types of the errors that `call` may raise.
        is_transient: Returns whether the same request may succeed a little later.
        is_response: Returns whether an error is a response of the service.
    """
    started, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
    while True:
        try:
            result = call()
        except errors as err:
            state.has_responded = state.has_responded or is_response(err)
            deadline = DEADLINE_SECONDS if state.has_responded else FIRST_DEADLINE_SECONDS
            if not is_transient(err) or time.monotonic() - started + pause > deadline:
                raise
            _log.warning("The object store failed (%s); trying again.", type(err).__name__)
        else:
            state.has_responded = True
            return result
        # Jitter: many pods may fail at the same moment.
        time.sleep(pause * _generator.uniform(0.5, 1.0))
        pause = min(2.0 * pause, _MAX_PAUSE_SECONDS)


def use_own_generator(*modules: ModuleType) -> None:
    """Make modules of a client library draw from this module's generator, not the global one.

    Args:
        modules: Modules that call functions of `random` and have no option for a generator.
    """
    for module in modules:
        module.random = _generator  # type: ignore[attr-defined]
