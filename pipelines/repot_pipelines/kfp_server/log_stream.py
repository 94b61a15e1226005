"""Shows what the pods of a run log, as it comes; the server hands out whole logs, so the new end is cut off here."""

from collections.abc import Iterator, Sequence
from typing import Any

from repot_pipelines.kfp_server.pod_log import read_log, task_pods
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.kfp_server.tasks import DONE, FAILED, RUNNING, TaskState


class LogStream:
    """Remembers how much of each pod's log was shown.

    Args:
        server: The server.
        run_id: The run.
    """

    def __init__(self, server: Server, run_id: str) -> None:
        self._server = server
        self._run_id = run_id
        self._num_shown: dict[str, int] = {}
        self._ended: set[str] = set()

    def new_lines(self, states: Sequence[TaskState], nodes: Sequence[Any]) -> Iterator[str]:
        """Yield the lines that were logged since the last call, the task's name before each.

        Args:
            states: The tasks' states now.
            nodes: The `task_details` that they were read from.
        """
        for state in states:
            if state.state in (RUNNING, DONE, FAILED):
                for pod in task_pods(state.step.key, nodes):
                    yield from (f"{state.step.key}: {line}" for line in self._read(pod, state))

    def _read(self, pod: str, state: TaskState) -> list[str]:
        if pod in self._ended:
            return []
        if state.state != RUNNING:
            self._ended.add(pod)
        log = read_log(self._server, self._run_id, pod)
        # A line that is still being written is shown when it is whole.
        num_whole = len(log) if state.state != RUNNING else log.rfind("\n") + 1
        fresh = log[self._num_shown.get(pod, 0) : num_whole]
        self._num_shown[pod] = max(num_whole, self._num_shown.get(pod, 0))
        return fresh.splitlines()
