"""The logs of a run's pods, read through the server that the run is on: no right on the cluster is needed.

The server does not say what a task's pod is called. It lists for every node of the Argo workflow its last name and the
ids of the nodes below it, `<workflow>-<hash>`, where the hash is FNV-1a of the node's path; the pod is
`<workflow>-<template>-<hash>`, and the template has a fixed name. So the paths are rebuilt from the names and hashes:
`w.root.gate.executor`, or `w(0).root(0).gate(0).executor(0)` where Argo retries, as it does in a stock KFP 2.17.
Source: `RetrievePodName` in backend/src/common/util/workflow.go; seen on KFP 2.17.0 with Argo 4.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from repot_pipelines.kfp_server.server import Server
from repot_pipelines.watch.tasks import DONE, FAILED, RUNNING, TaskState

_EXECUTOR = "system-container-impl"
_DRIVER = "system-container-driver"
_MAX_ATTEMPTS = 10

_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193

# What KFP's launcher and Argo write around the words of the task itself, and the launcher's request in many lines. The
# launcher's last words stay: they say why a task did not even start.
_NOISE = re.compile(
    r"[IWE]\d{4} |time=|\[KFP Executor|Looking for component|Loading KFP component|\s*$|\s*[\"{}\[\]]"
    r"|((F\d{4} .*|Error): )?(failed to execute component: )?exit status \d+"
)


def failed_pods(key: str, nodes: Iterable[Any]) -> list[str]:
    """Return the pods that a failed task may have had, the last attempt first.

    Args:
        key: The task's name in the compiled YAML.
        nodes: The `task_details` of the server's run.
    """
    nodes = list(nodes)
    tree = _Tree.of(nodes)
    failed = [
        node for node in nodes if node.display_name == key and node.state in ("FAILED", "CANCELED")
    ]
    found = [pod for node in failed for pod in tree.pods_of(key, node)]
    return (found or tree.drivers_of(key))[::-1]


def task_pods(key: str, nodes: Iterable[Any]) -> list[str]:
    """Return the pods of every node of a task, whatever its state, each attempt after the one before it."""
    nodes = list(nodes)
    tree = _Tree.of(nodes)
    return [pod for node in nodes if node.display_name == key for pod in tree.pods_of(key, node)]


def read_log(server: Server, run_id: str, pod: str) -> str:
    """Return a pod's log; "" where the pod is gone, or the server does not hand logs out.

    Args:
        server: The server.
        run_id: The run.
        pod: The pod's name.
    """
    namespace = server.namespace or server.kfp_namespace
    # Through kubeconfig the cluster itself has it; the API has logs at the second address, the UI in front
    # of it at the third.
    text = (
        server.get_pod_log(namespace, pod)
        or _unless_error(server.get_text(f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", {}))
        or server.get_text(
            "/k8s/pod/logs", {"podname": pod, "runid": run_id, "podnamespace": namespace}
        )
    )
    return _unless_error(text)


def last_words(log: str, *, num_lines: int = 12) -> str:
    """Return the end of a log without what KFP's launcher writes around it."""
    lines = [line.rstrip() for line in log.splitlines() if not _NOISE.match(line)]
    return "\n".join(lines[-num_lines:])


def _unless_error(text: str) -> str:
    """Return a log; the API has answered 200 before it finds out that there is none."""
    return "" if re.match(r'\s*\{"error_(message|details)"', text) else text


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tree:
    """The paths of a workflow's nodes.

    Attributes:
        workflow: Its name.
        paths: The path of each node by its hash, but the topmost node's.
    """

    workflow: str
    paths: dict[str, str]

    @classmethod
    def of(cls, nodes: list[Any]) -> Self:
        """Rebuild the paths: those are real whose hash is listed somewhere."""
        ids = [str(child.pod_name or "") for node in nodes for child in node.child_tasks or ()]
        workflow = ids[0].rpartition("-")[0] if ids else ""
        hashes = {each.rpartition("-")[2] for each in ids}
        steps = {f".{node.display_name}" for node in nodes} | {
            f"({number})" for number in range(_MAX_ATTEMPTS)
        }
        paths: dict[str, str] = {}
        unseen = [(workflow, _fnv(workflow))]
        while unseen:
            path, digest = unseen.pop()
            for step in steps:
                longer = _fnv(step, digest)
                if str(longer) in hashes and str(longer) not in paths:
                    paths[str(longer)] = path + step
                    unseen.append((path + step, longer))
        return cls(workflow=workflow, paths=paths)

    def pods_of(self, key: str, node: Any) -> list[str]:
        """Return the pods of one node of a task; that one's own path is in front of those below it."""
        below = [
            self.paths.get(str(child.pod_name or "").rpartition("-")[2], "")
            for child in node.child_tasks or ()
        ]
        own = {
            match[1]
            for path in below
            if (match := re.match(rf"(.*\.{re.escape(key)})(?:\(\d+\)|\.executor)", path))
        }
        return [
            pod
            for path in sorted(own)
            for pod in self._pods(rf"{re.escape(path)}(\(\d+\))?\.executor", _EXECUTOR)
        ]

    def drivers_of(self, key: str) -> list[str]:
        """Return the pods of KFP's own that came before a task."""
        return self._pods(rf".*\.{re.escape(key)}-driver", _DRIVER)

    def _pods(self, pattern: str, template: str) -> list[str]:
        found = {
            path: digits
            for digits, path in self.paths.items()
            if re.fullmatch(rf"{pattern}(\(\d+\))?", path)
        }
        # A node with attempts below it is no pod itself.
        return [
            f"{self.workflow}-{template}-{found[path]}"
            for path in sorted(found)
            if f"{path}(0)" not in found
        ]


def _fnv(text: str, digest: int = _FNV_OFFSET) -> int:
    """Return the 32-bit FNV-1a hash of a text, or of what `digest` is of and a text.

    Source: http://www.isthe.com/chongo/tech/comp/fnv/.
    """
    for byte in text.encode():
        digest = (digest ^ byte) * _FNV_PRIME % 2**32
    return digest


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
