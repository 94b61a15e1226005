"""Report what the pods of a run wait for, and give up on those that do not start in time."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from repot.pod_start import (
    CONFIG,
    CONTAINER,
    GATED,
    IMAGE,
    NODE,
    PULLING,
    QUEUE,
    QUOTA,
    SCALING,
    UNSCHEDULABLE,
    VOLUME,
    Obstacle,
)
from repot_pipelines import defaults
from repot_pipelines.kfp_server.errors import ServerError
from repot_pipelines.watch.task_view import duration_text
from repot_pipelines.watch.waiting_pods import WaitingPod

ERROR_SECONDS = 10.0
"""An obstacle is reported after this time: many disappear by themselves."""
NORMAL_SECONDS = 20.0
"""The same if a pod only takes long, e.g. to pull its image; the first line is never later."""
REMINDER_SECONDS = 600.0
"""Interval before the first reminder; the following ones double it."""

_LOOK_AT_POD = "Find the cause with kubectl describe pod."
_ADVICE = {
    UNSCHEDULABLE: "Request less, add a node, or correct node selector and tolerations; "
    "`repot doctor` compares them with the nodes.",
    SCALING: "Raise --start-timeout if the autoscaler needs longer.",
    GATED: "Ask who manages the cluster's queues, or raise --start-timeout.",
    QUEUE: "Ask who manages the cluster's queues, or raise --start-timeout.",
    QUOTA: "Request less, wait until other pods of the namespace end, or ask for a higher quota.",
    IMAGE: "Correct cpu_image or trainer_image, or give the run's service account a pull secret.",
    CONFIG: "Create what is missing, or correct its name in the run's parameters.",
    CONTAINER: "Check that cpu_image and trainer_image are repot's; otherwise ask who manages the "
    "nodes.",
    VOLUME: "Create what the volume refers to, or ask who manages the cluster's storage.",
    NODE: "Ask who manages the nodes; their network is a common cause.",
    PULLING: "Raise --start-timeout: a new node takes minutes to pull a large image.",
}
"""What to do about a cause."""


class StartTimeoutError(ServerError):
    """A pod did not start in time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartLimit:
    """How long a pod may wait.

    Attributes:
        timeout_seconds: Time after which a pod that has not started fails the wait; 0 for no limit.
        terminate: Whether the run is then terminated.
    """

    timeout_seconds: float = defaults.START_TIMEOUT_SECONDS
    terminate: bool = False


@dataclass(slots=True)
class _TaskWait:
    """What is known and has been reported about the waiting pods of one task.

    Attributes:
        since: Time since which its oldest pod waits.
        key: Key of its present obstacle.
        key_since: Time since which it is that one.
        reported_key: Key of the obstacle in the last line; None before the first line.
        reported_at: Time of the last line.
        reminder_seconds: Interval before the next reminder.
    """

    since: float
    key: tuple[str, str]
    key_since: float
    reported_key: tuple[str, str] | None = None
    reported_at: float = 0.0
    reminder_seconds: float = REMINDER_SECONDS


@dataclass(kw_only=True, slots=True)
class StartWatch:
    """Turns the waiting pods of a run into lines; remembers what it has reported.

    Attributes:
        limit: How long a pod may wait.
    """

    limit: StartLimit
    _since: dict[str, float] = field(default_factory=dict)
    _waits: dict[str, _TaskWait] = field(default_factory=dict)

    def report(
        self, waiting: Sequence[WaitingPod], now: float, *, ended: Collection[str] = ()
    ) -> list[str]:
        """Return the lines to print: what is new, what has started, and rare reminders.

        Args:
            waiting: The pods that wait at the moment.
            now: Time in seconds, from a clock that never goes back.
            ended: Titles of tasks that ended without success: their pods have not started.

        Raises:
            StartTimeoutError: A pod has waited for too long.
        """
        self._since = {pod.name: self._since.get(pod.name, now) for pod in waiting}
        by_title = {
            title: list(group)
            for title, group in itertools.groupby(
                sorted(waiting, key=lambda pod: pod.title), key=lambda pod: pod.title
            )
        }
        lines = [
            f"{title} has started after {duration_text(now - wait.since)}."
            for title, wait in self._waits.items()
            if title not in by_title and wait.reported_key is not None and title not in ended
        ]
        self._waits = {title: wait for title, wait in self._waits.items() if title in by_title}
        for title, pods in by_title.items():
            oldest = min(pods, key=lambda pod: self._since[pod.name])
            key = oldest.obstacle.key
            wait = self._waits.setdefault(title, _TaskWait(since=now, key=key, key_since=now))
            wait.since = self._since[oldest.name]
            if wait.key != key:
                wait.key, wait.key_since = key, now
            line = _line(title, wait, oldest.obstacle, now, num_pods=len(pods))
            lines += [line] if line else []
            self._check_limit(title, oldest.obstacle, now - wait.since)
        return lines

    def _check_limit(self, title: str, obstacle: Obstacle, waited_seconds: float) -> None:
        timeout = self.limit.timeout_seconds
        if timeout and waited_seconds >= timeout:
            raise StartTimeoutError(
                f"{title} must start within {duration_text(timeout)}; it is waiting: "
                f"{obstacle.text}. {_ADVICE.get(obstacle.cause, _LOOK_AT_POD)}"
            )


def _line(title: str, wait: _TaskWait, obstacle: Obstacle, now: float, *, num_pods: int) -> str:
    """Return the line about a task that is due; "" if none is. Note that it was reported."""
    waited, is_new = now - wait.since, obstacle.key != wait.reported_key
    is_settled = now - wait.key_since >= (ERROR_SECONDS if obstacle.is_error else NORMAL_SECONDS)
    is_overdue = wait.reported_key is None and waited >= NORMAL_SECONDS
    if not (is_settled or is_overdue):
        return ""
    if not is_new and now - wait.reported_at < wait.reminder_seconds:
        return ""
    if not is_new:
        wait.reminder_seconds *= 2
    wait.reported_key, wait.reported_at = obstacle.key, now
    pods = f" ({num_pods} pods)" if num_pods > 1 else ""
    if is_new:
        return f"{title} is waiting{pods}: {obstacle.text}"
    return f"{title} has been waiting for {duration_text(waited)}{pods}: {obstacle.text}"
