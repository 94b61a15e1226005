"""Logs of a run's pods, read through the KFP server: needs no permission on the cluster."""

import re
from collections.abc import Iterator, Sequence

from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.watch.pod_names import task_pods
from repot_pipelines.watch.tasks import DONE, FAILED, RUNNING, TaskStatus

# Lines that KFP's launcher and Argo add to the task's own output, including the launcher's request
# in many lines. The launcher's last error is kept: it explains why a task did not even start.
_NOISE = re.compile(
    r"[IWE]\d{4} |time=|\[KFP Executor|Looking for component|Loading KFP component|\s*$"
    r"|\s*[\"{}\[\]]"
    r"|((F\d{4} .*|Error): )?(failed to execute component: )?exit status \d+"
)


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


def log_tail(log: str, *, num_lines: int = 12) -> str:
    """Return the last lines of a log, without the lines that KFP and Argo add."""
    lines = [line.rstrip() for line in log.splitlines() if not _NOISE.match(line)]
    return "\n".join(lines[-num_lines:])


class PodLogFollower:
    """Yields the new log lines of a run's pods; remembers what it has returned of each.

    Args:
        server: The server.
        run_id: Id of the run.
    """

    def __init__(self, server: Server, run_id: str) -> None:
        self._server = server
        self._run_id = run_id
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
        for status in statuses:
            if status.state in (RUNNING, DONE, FAILED):
                for pod in task_pods(status.task.key, nodes):
                    for line in self._read_new(pod, is_running=status.state == RUNNING):
                        yield f"{status.task.key}: {line}"

    def _read_new(self, pod: str, *, is_running: bool) -> list[str]:
        if pod in self._finished:
            return []
        if not is_running:
            self._finished.add(pod)
        log = read_pod_log(self._server, self._run_id, pod)
        # Leave an incomplete last line for the next call.
        end = log.rfind("\n") + 1 if is_running else len(log)
        start = self._num_read.get(pod, 0)
        self._num_read[pod] = max(start, end)
        return log[start:end].splitlines()


def _unless_error(text: str) -> str:
    """Return a log, or "" for an error: KFP's API sends status 200 before it looks for the log."""
    return "" if re.match(r'\s*\{"error_(message|details)"', text) else text
