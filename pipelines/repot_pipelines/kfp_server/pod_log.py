"""The logs of a run's pods, read through the server that the run is on: no right on the cluster is needed.

The server does not say what a task's pod is called. It lists for every node of the Argo workflow the ids of the
nodes below it, `<workflow>-<hash>`; the pod is `<workflow>-<template>-<hash>`, and the template has a fixed name.
Source: `RetrievePodName` in backend/src/common/util/workflow.go; Argo hashes a node's path with FNV-1a.
"""

import re
from collections.abc import Iterable
from typing import Any

from repot_pipelines.kfp_server.server import Server

_EXECUTOR = "system-container-impl"
_RETRIED_EXECUTOR = "retry-system-container-impl"
_DRIVER = "system-container-driver"
_MAX_ATTEMPTS = 10

_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193

# What the KFP launcher and the executor write around the words of the task itself.
_NOISE = re.compile(
    r"[IWEF]\d{4} |time=\"|\[KFP Executor|Looking for component|Loading KFP component|\s*$|exit status \d+"
)


def failed_pods(key: str, nodes: Iterable[Any]) -> list[str]:
    """Return the pods that a failed task may have had, the likeliest first.

    Args:
        key: The task's name in the compiled YAML.
        nodes: The `task_details` of the server's run.
    """
    nodes = list(nodes)
    workflow = _workflow(nodes)
    if not workflow:
        return []
    failed = [node for node in nodes if node.display_name == key and node.state in ("FAILED", "CANCELED")]
    pods = [pod for node in failed for pod in _pods_below(node, workflow)]
    pods += [f"{workflow}-{_RETRIED_EXECUTOR}-{_fnv(path)}" for path in _attempts(workflow, key, nodes)]
    if not failed:
        pods.append(f"{workflow}-{_DRIVER}-{_fnv(f'{workflow}.root.{key}-driver')}")
    return pods


def task_pods(key: str, nodes: Iterable[Any]) -> list[str]:
    """Return the pods of every node of a task, whatever its state."""
    nodes = list(nodes)
    workflow = _workflow(nodes)
    return [pod for node in nodes if node.display_name == key for pod in _pods_below(node, workflow)]


def read_log(server: Server, run_id: str, pod: str) -> str:
    """Return a pod's log; "" where the pod is gone, or the server does not hand logs out.

    Args:
        server: The server.
        run_id: The run.
        pod: The pod's name.
    """
    # The API has logs at the first address, the UI (in front of it) at the second.
    text = server.get_text(f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", {}) or server.get_text(
        "/k8s/pod/logs", {"podname": pod, "runid": run_id, "podnamespace": server.namespace or server.kfp_namespace}
    )
    # The API has answered 200 before it finds out that there is no log.
    return "" if re.match(r'\s*\{"error_(message|details)"', text) else text


def last_words(log: str, *, num_lines: int = 12) -> str:
    """Return the end of a log without what KFP's launcher writes around it."""
    lines = [line.rstrip() for line in log.splitlines() if not _NOISE.match(line)]
    return "\n".join(lines[-num_lines:])


def _workflow(nodes: list[Any]) -> str:
    """Return the workflow's name: what the ids of all nodes begin with."""
    for node in nodes:
        for child in node.child_tasks or ():
            return str(child.pod_name or "").rpartition("-")[0]
    return ""


def _pods_below(node: Any, workflow: str) -> list[str]:
    hashes = [str(child.pod_name or "").rpartition("-")[2] for child in node.child_tasks or ()]
    return [f"{workflow}-{_EXECUTOR}-{digits}" for digits in hashes if digits.isdecimal()]


def _attempts(workflow: str, key: str, nodes: list[Any]) -> list[str]:
    """Return the paths of a retried task's pods at the top of the pipeline, the last one first."""
    names = {node.display_name for node in nodes}
    attempts = [number for number in range(_MAX_ATTEMPTS) if f"executor({number})" in names]
    return [f"{workflow}.root.{key}.executor({number})" for number in reversed(attempts)]


def _fnv(text: str) -> int:
    """Return the 32-bit FNV-1a hash. Source: http://www.isthe.com/chongo/tech/comp/fnv/."""
    digest = _FNV_OFFSET
    for byte in text.encode():
        digest = (digest ^ byte) * _FNV_PRIME % 2**32
    return digest
