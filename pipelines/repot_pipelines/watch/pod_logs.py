"""Logs of a run's pods, read through the KFP server: needs no permission on the cluster."""

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.task_logs import LogFilter, with_task_name
from repot_pipelines.watch.pod_names import task_pods
from repot_pipelines.watch.tasks import DONE, FAILED, RUNNING, TaskStatus

ShownLogs = Literal["none", "tasks", "all"]
"""Which lines of the pods' logs are shown: none, those of the tasks, or also those of Kubeflow."""


def read_pod_log(server: Server, run_id: str, pod: str) -> str:
    """Return a pod's log; "" if the pod is gone or the server does not return logs.

    Args:
        server: The server.
        run_id: Id of the run.
        pod: Name of the pod.
    """
    namespace = server.namespace or server.kfp_namespace
    # Three sources: the Kubernetes API if kubeconfig leads to it, KFP's API, KFP's UI.
    text = (
        server.get_pod_log(namespace, pod)
        or _unless_error(server.get_text(f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", {}))
        or server.get_text(
            "/k8s/pod/logs", {"podname": pod, "runid": run_id, "podnamespace": namespace}
        )
    )
    return _unless_error(text)


class PodLogFollower:
    """Yields the new log lines of a run's pods; remembers what it has returned of each.

    Args:
        server: The server.
        run_id: Id of the run.
        shown: Which lines to yield.
    """

    def __init__(self, server: Server, run_id: str, shown: ShownLogs) -> None:
        self._server = server
        self._run_id = run_id
        self._shown = shown
        self._filters: dict[str, LogFilter] = {}
        self._num_read: dict[str, int] = {}
        self._finished: set[str] = set()

    def new_lines(
        self, statuses: Sequence[TaskStatus], nodes: Sequence[ApiObject]
    ) -> Iterator[str]:
        """Yield the lines since the last call, each with the task's name in front.

        Args:
            statuses: Current statuses of the tasks.
            nodes: The run's `task_details`.
        """
        for status in statuses if self._shown != "none" else ():
            if status.state in (RUNNING, DONE, FAILED):
                for pod in task_pods(status.task.key, nodes):
                    for line in self._read_new(pod, is_running=status.state == RUNNING):
                        yield with_task_name(status.task.key, line)

    def _read_new(self, pod: str, *, is_running: bool) -> list[str]:
        if pod in self._finished:
            return []
        if not is_running:
            self._finished.add(pod)
        log = read_pod_log(self._server, self._run_id, pod)
        # Leave an incomplete last line for the next call.
        end = log.rfind("\n") + 1 if is_running else len(log)
        start = self._num_read.get(pod, 0)
        if 0 < len(log) < start:
            start = 0  # the kubelet has begun a new file, after 10 MiB by default
        self._num_read[pod] = max(start, end)
        lines = log[start:end].splitlines()
        if self._shown == "all":
            return lines
        return list(self._filters.setdefault(pod, LogFilter()).read(lines))


def _unless_error(text: str) -> str:
    """Return a log, or "" for an error: KFP's API sends status 200 before it looks for the log."""
    return "" if re.match(r'\s*\{"error_(message|details)"', text) else text
